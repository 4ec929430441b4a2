/** `triplane switch MODE` */
import { Argument, Command } from 'commander';
import type { SwitchResult } from '../agent/status.ts';
import { askAgent, socketOption } from './admin-client.ts';
import type { Io } from './io.ts';

export function switchCommand(io: Io): Command {
  return new Command('switch')
    .description('move the running agent to another mode; connections stay where they are until they end')
    .addArgument(new Argument('<mode>', 'the mode to go to').choices(['auto', 'nft', 'ipvs', 'ebpf']))
    .addOption(socketOption())
    .action(async (mode: string, { adminSocket }: { adminSocket: string }) => {
      const result = await askAgent<SwitchResult>(adminSocket, 'POST', '/v1/switch', { mode });
      io.out(switchText(result));
    });
}

export function switchText({ from, to, draining, durationMs }: SwitchResult): string {
  if (from === to) return `the mode is ${to} already\n`;
  const rest = draining === 0 ? '' : `; ${draining} connections stay on ${from} until they end`;
  return `switched from ${from === '' ? 'none' : from} to ${to} in ${Math.round(durationMs)} ms${rest}\n`;
}
