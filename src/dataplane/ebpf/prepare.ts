/**
 * What ebpf mode sets in /proc/sys, for --init-only: an unprivileged container finds /proc/sys read-only, and could
 * not set it later. Without the first, a process of the node may sit on a port that a masqueraded connection wants;
 * without the second, the node does not reach its own NodePorts at its own addresses.
 */
import { addPorts, parsePorts, readReservedPorts, writeReservedPorts } from '../../node/reserved-ports.ts';
import { acceptLocalOnLoopback } from './loopback.ts';
import { DEFAULT_NAT_PORTS } from './options.ts';

/** What was changed, one line each. Throws an Error with an errno code where /proc/sys cannot be written. */
export function prepareBpfNode(): string[] {
  const changed: string[] = [];
  const before = parsePorts(readReservedPorts());
  const wanted = addPorts(before, DEFAULT_NAT_PORTS);
  if (JSON.stringify(wanted) !== JSON.stringify(before)) {
    writeReservedPorts(wanted);
    changed.push('net.ipv4.ip_local_reserved_ports: the ports of masqueraded connections added');
  }
  if (acceptLocalOnLoopback() !== null) changed.push('net.ipv4.conf.lo.accept_local: 1');
  return changed;
}
