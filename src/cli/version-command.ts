import { Command } from 'commander';
import type { Io } from './io.ts';
import { version } from './version.ts';

export function versionCommand(io: Io): Command {
  return new Command('version')
    .description('print the version')
    .action(() => io.out(`triplane ${version()} (Node ${process.version})\n`));
}
