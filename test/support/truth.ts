/**
 * What really arrived and left at a server, as another table of nftables at its own end counts it: packets and bytes by
 * port. The measure for what a dataplane says it has counted.
 */
import type { NodeWorld } from './node-world.ts';

export interface Truth {
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
}

const TABLE = 'tptruth';

/**
 * Counts what comes to and leaves from `ports` of one place, from now on: behind all that translates on its way in, and
 * before all that does on its way out (IPVS works in input and output itself, at 99 and -99).
 */
export async function countAt(
  world: NodeWorld,
  place: Parameters<NodeWorld['run']>[0],
  ports: readonly number[],
): Promise<void> {
  const list = `{ ${ports.join(', ')} }`;
  const text = `table inet ${TABLE} {
  chain in { type filter hook input priority 300; meta l4proto { tcp, udp } th dport ${list} counter; }
  chain out { type filter hook output priority -310; meta l4proto { tcp, udp } th sport ${list} counter; }
}
`;
  const { status, stderr } = await world.run(place, ['nft', '-f', '-'], text);
  if (status !== 0) throw new Error(`nft: ${stderr}`);
}

export async function truthOf(
  world: NodeWorld,
  places: readonly Parameters<NodeWorld['run']>[0][],
): Promise<Truth> {
  const sum = { packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };
  for (const place of places) {
    const { stdout } = await world.run(place, ['nft', 'list', 'table', 'inet', TABLE]);
    const [into, out] = [...stdout.matchAll(/counter packets (\d+) bytes (\d+)/g)];
    sum.packetsIn += Number(into![1]);
    sum.bytesIn += Number(into![2]);
    sum.packetsOut += Number(out![1]);
    sum.bytesOut += Number(out![2]);
  }
  return sum;
}
