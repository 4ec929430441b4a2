/** The backends of a service port as members of its pools: their records, and what the flags of those say. */
import type { Backend } from '../../model/desired.ts';
import { ABI } from './abi.ts';
import { backendKey } from './backends.ts';
import type { PoolEntry, PortEntry } from './entries.ts';

/** Records of the backends that a port has, by backendKey(). */
export function membersOf(port: PortEntry | undefined): Map<string, number> {
  const members = new Map<string, number>();
  if (!port) return members;
  for (const [pool, backends] of [
    [port.cluster, port.desired.cluster],
    [port.local, port.desired.local],
  ] as const)
    for (let i = 0; i < backends.length; i++)
      members.set(backendKey(backends[i]!.address, backends[i]!.port), pool.records[i]!);
  return members;
}

/** Calls for each record in each pool of a port, with the flags that it has by that. */
export function eachMember(
  { cluster, local, desired }: PortEntry,
  visit: (record: number, flags: number) => void,
): void {
  const go = ({ records }: PoolEntry, backends: readonly Backend[], member: number) => {
    for (let i = 0; i < backends.length; i++)
      visit(records[i]!, backends[i]!.local ? member | ABI.B_LOCAL : member);
  };
  go(cluster, desired.cluster, ABI.B_IN_CLUSTER);
  go(local, desired.local, ABI.B_IN_LOCAL);
}

/** The flags that each record of a port is to have. */
export function flagsOfMembers(port: PortEntry): Map<number, number> {
  const flags = new Map<number, number>();
  eachMember(port, (record, more) => flags.set(record, (flags.get(record) ?? 0) | more));
  return flags;
}

export function sameBackends(a: readonly Backend[], b: readonly Backend[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++)
    if (a[i]!.address !== b[i]!.address || a[i]!.port !== b[i]!.port) return false;
  return true;
}

export function sameLocality(old: PortEntry, next: PortEntry): boolean {
  const same = (a: readonly Backend[], b: readonly Backend[]) =>
    a === b || a.every(({ local }, i) => local === b[i]!.local);
  return same(old.desired.cluster, next.desired.cluster) && same(old.desired.local, next.desired.local);
}
