/** `triplane cleanup` */
import { Command } from 'commander';
import type { Mode } from '../dataplane/dataplane.ts';
import { TriplaneError } from '../model/errors.ts';
import { escapeText } from '../observe/escape.ts';
import { failureOf } from './failure.ts';
import type { Io } from './io.ts';
import { type Cleaner, MACHINERY, type Machinery, need } from './machinery.ts';

export function cleanupCommand(io: Io, machinery: Machinery = MACHINERY): Command {
  return new Command('cleanup')
    .description('remove everything triplane made in this network namespace; nothing to remove is no error')
    .option('--kube-proxy', 'remove what kube-proxy left instead, in any of its modes, and nothing else')
    .action(async ({ kubeProxy }: { kubeProxy?: true }) => {
      if (kubeProxy) {
        const clean = await need(machinery.cleanKubeProxy, 'cleaner for what kube-proxy leaves');
        await cleanAll(io, [['kube-proxy', clean]]);
      } else {
        await cleanup(io, machinery);
      }
    });
}

/** Every mode is cleaned, also when another one fails; the failures come last, as one error. */
export async function cleanup(io: Io, machinery: Machinery): Promise<void> {
  const cleaners: [string, Cleaner][] = [];
  for (const mode of ['nft', 'ipvs', 'ebpf'] satisfies Mode[]) {
    const load = machinery.cleaners[mode];
    if (load !== null) cleaners.push([mode, await load()]);
  }
  if (cleaners.length === 0)
    throw new TriplaneError('TP_NO_FEATURE', 'this build has no dataplane to clean up');
  await cleanAll(io, cleaners);
}

async function cleanAll(io: Io, cleaners: readonly (readonly [string, Cleaner])[]): Promise<void> {
  let removed = 0;
  const failures: unknown[] = [];
  for (const [name, clean] of cleaners) {
    try {
      for (const line of await clean()) {
        removed++;
        io.out(`${name}: removed ${escapeText(line)}\n`);
      }
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) {
    // Modes that fail for one reason say it once: the first failure is said by whoever catches it.
    const lines = new Set(failures.map((error) => failureOf(error).line));
    for (const line of [...lines].slice(1)) io.err(`${line}\n`);
    throw failures[0];
  }
  if (removed === 0) io.out('there was nothing to remove\n');
}
