/** Settings of the node that the ebpf mode changes while it is there. */
import { addPorts, parsePorts, readReservedPorts, writeReservedPorts } from '../../node/reserved-ports.ts';
import type { PortRange } from './knobs.ts';
import { acceptLocalOnLoopback } from './loopback.ts';
import type { Meta } from './meta.ts';

/** What stood there before; null: it could not be changed. */
export type Borrowed = Pick<Meta, 'reservedBefore' | 'acceptLocalBefore'>;

/** `meta`: what a predecessor found there, whose changes are not to be taken for the node's own. */
export function reservePorts(meta: Borrowed, natPorts: readonly PortRange[]): Borrowed {
  let { reservedBefore } = meta;
  try {
    const before = readReservedPorts();
    const spans = parsePorts(before);
    const wanted = addPorts(spans, natPorts);
    if (JSON.stringify(wanted) !== JSON.stringify(spans)) writeReservedPorts(wanted);
    reservedBefore ??= before;
  } catch {
    // /proc/sys is read-only in some containers: a local socket may then sit on a NAT port, which is looked for.
  }
  return { reservedBefore, acceptLocalBefore: meta.acceptLocalBefore ?? acceptLocalOnLoopback() };
}
