/** The parts of the BPF object that a node can do without: what they would have served is served at tc. */
import { isSwitchedOff } from '../../node/switches.ts';
import { SOCK_COUNTERS, SOCK_PROGRAMS } from './attach-types.ts';

export type Part = 'xdp' | 'sockets';

const PROGRAMS: Readonly<Record<Part, readonly string[]>> = {
  xdp: ['tp_xdp'],
  sockets: Object.keys({ ...SOCK_PROGRAMS, ...SOCK_COUNTERS }),
};

const SWITCHES = { xdp: 'xdp', sockets: 'socket' } as const;

export const PARTS = Object.keys(PROGRAMS) as readonly Part[];

/** Names of the programs of these parts. */
export function programsOf(parts: Iterable<Part>): string[] {
  return [...parts].flatMap((part) => PROGRAMS[part]);
}

/** Parts that are not to be used here (src/node/switches.ts). */
export function partsSwitchedOff(): Part[] {
  return PARTS.filter((part) => isSwitchedOff(SWITCHES[part]));
}

/** In the order in which they are tried: what is left out where a kernel does not take everything. */
export function omissions(off: readonly Part[]): Part[][] {
  const lists: Part[][] = [[], ['xdp'], ['sockets'], ['xdp', 'sockets']];
  const without = lists.map((list) => PARTS.filter((part) => list.includes(part) || off.includes(part)));
  return without.filter((list, at) => without.findIndex((other) => other.join() === list.join()) === at);
}
