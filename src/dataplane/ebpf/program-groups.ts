/** Which programs are loaded by which thread, and where those stand that others jump to. */
import { ABI } from './abi.ts';

/**
 * The verifier takes most of the time of a start, and hardly anything but for these eight programs. Each group has
 * about as much for it to do as the others: by the instructions that it says it has looked at, in thousands, 134, 134,
 * 142 and 119. What is in no group joins the last.
 */
const GROUPS: readonly (readonly string[])[] = [
  ['tp_node', 'tp_in_icmp'],
  ['tp_ingress', 'tp_egress'],
  ['tp_xdp', 'tp_out_rare'],
  ['tp_out_icmp', 'tp_in_rare'],
];

/** `programs` in groups for BpfObject.load(), none of them empty. */
export function groupsOf(programs: readonly string[]): string[][] {
  const groups = GROUPS.map((group) => programs.filter((name) => group.includes(name)));
  const grouped = new Set(groups.flat());
  groups.at(-1)!.push(...programs.filter((name) => !grouped.has(name)));
  return groups.filter((group) => group.length > 0);
}

/** Programs of tp_tails, each at its place. */
export const TAILS: readonly (readonly [string, number])[] = [
  ['tp_in_rare', ABI.TAIL_IN_RARE],
  ['tp_out_rare', ABI.TAIL_OUT_RARE],
  ['tp_in_icmp', ABI.TAIL_IN_ICMP],
  ['tp_out_icmp', ABI.TAIL_OUT_ICMP],
  ['tp_reject', ABI.TAIL_REJECT],
  ['tp_stuck', ABI.TAIL_STUCK],
  ['tp_node', ABI.TAIL_NODE],
];
