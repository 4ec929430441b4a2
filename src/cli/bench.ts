/** `triplane bench` */
import { Command } from 'commander';
import { EXIT, ExitWith } from './exit-with.ts';
import type { Io } from './io.ts';
import { MACHINERY, type Machinery, need } from './machinery.ts';

export function benchCommand(_io: Io, machinery: Machinery = MACHINERY): Command {
  return new Command('bench')
    .description('measure the modes side by side in namespaces of its own')
    .argument('[arguments...]', 'passed on to the bench; --help shows its own')
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (args: readonly string[]) => {
      const exit = await (await need(machinery.bench, 'bench'))(args);
      if (exit !== EXIT.ok) throw new ExitWith(EXIT.failure);
    });
}
