/**
 * The table that stands beside IPVS: which frontend leads to which pool, and everything that IPVS cannot do.
 * Same sets and machinery as the nft mode's, but a pool is drawn from by IPVS: the element of a frontend says
 * the firewall mark of its pool's virtual service (docs/ipvs.md says why a mark).
 */
import type { Answer, DesiredPort } from '../../model/desired.ts';
import type { Family } from '../../model/records.ts';
import type { ElementSink } from '../nft/elements.ts';
import { SET, type SetLayout, setLayouts } from '../nft/layout.ts';
import type { PackedWriter } from '../nft/packed.ts';
import type { PoolState } from '../nft/pool.ts';
import type { Scheme } from '../nft/scheme.ts';
import {
  beginFrontend,
  emitFrontend,
  emitHairpin,
  frontendComment,
  type PoolKind,
  type PortState,
  poolComment,
} from '../nft/service-elements.ts';
import { markOf, POOL_NUMBER_MAX, poolOfMark } from './marks.ts';
import { skeletonText } from './skeleton.ts';

export const IPVS_TABLE = 'triplane-ipvs';

/** Places of SET with another meaning here. */
export const IPVS_SET = {
  /** Service addresses that our device holds; kept by ServiceDevice, of no owner. */
  addresses: SET.members,
  /** Frontend : the port at which all its backends listen, of pools with affinity. */
  ports: SET.slots,
  /** The same frontends: before Linux 6.9 or so a map cannot be asked like a set. */
  ported: SET.affinity,
  /** Marks of others while ours stands in the packet; the kernel's own. */
  marks: SET.memberIds,
  /** All frontends with a pool, for the same reason. */
  frontends: SET.picks,
} as const;

const layouts = new Map<Family, readonly SetLayout[]>();

function layoutsOf(family: Family): readonly SetLayout[] {
  let made = layouts.get(family);
  if (!made) {
    const rows = [...setLayouts(family)];
    const change = (set: number, row: SetLayout) => {
      rows[set] = row;
    };
    const address = rows[SET.clusterIPs]!.keyBytes;
    const frontend = rows[SET.services]!.keyBytes;
    change(SET.services, { name: 'services', keyBytes: frontend, dataBytes: 4 });
    change(SET.outside, { name: 'outside', keyBytes: frontend, dataBytes: 4 });
    change(SET.pools, { name: 'pools', keyBytes: 4, dataBytes: 0 });
    change(IPVS_SET.frontends, { name: 'frontends', keyBytes: frontend, dataBytes: 0 });
    change(IPVS_SET.addresses, { name: 'addresses', keyBytes: address, dataBytes: 0, dynamic: true });
    change(IPVS_SET.ports, { name: 'ports', keyBytes: frontend, dataBytes: 2 });
    change(IPVS_SET.ported, { name: 'ported', keyBytes: frontend, dataBytes: 0 });
    change(IPVS_SET.marks, { name: 'marks', keyBytes: 4, dataBytes: 4, dynamic: true });
    made = rows;
    layouts.set(family, made);
  }
  return made;
}

/**
 * The one port at which all backends of both pools listen; null when they differ. Persistence of IPVS leaves
 * the port of a marked packet as it is (ip_vs_sched_persist), so the rules must write it.
 */
export function commonPort(port: DesiredPort): number | null {
  const first = port.cluster[0] ?? port.local[0];
  if (!first) return null;
  const all = [...port.cluster, ...port.local];
  return all.every((backend) => backend.port === first.port) ? first.port : null;
}

function emitPool(sink: ElementSink, port: DesiredPort, kind: PoolKind, pool: PoolState): void {
  sink.begin(SET.pools).u32(markOf(pool.number));
  sink.end('', poolComment(port, kind));
  for (const backend of pool.slots) emitHairpin(sink, backend.address);
}

function answers(state: PortState, answer: Answer): boolean {
  return (answer === 'cluster' && state.cluster !== null) || (answer === 'local' && state.local !== null);
}

function writeMark(out: PackedWriter, pool: number): void {
  out.u32(markOf(pool));
}

function emitPort(sink: ElementSink, state: PortState): void {
  const { port, cluster, local } = state;
  if (cluster) emitPool(sink, port, 'cluster', cluster);
  if (local) emitPool(sink, port, 'local', local);
  const target = port.affinitySeconds > 0 ? commonPort(port) : null;
  for (const frontend of port.frontends) {
    emitFrontend(sink, state, frontend, writeMark);
    if (answers(state, frontend.inside) || answers(state, frontend.outside)) {
      beginFrontend(sink, IPVS_SET.frontends, frontend);
      sink.end();
    }
    if (target === null || target === frontend.port) continue;
    beginFrontend(sink, IPVS_SET.ports, frontend).lonePort(target);
    sink.end('', frontendComment(port, frontend));
    beginFrontend(sink, IPVS_SET.ported, frontend);
    sink.end();
  }
}

export const IPVS_SCHEME: Scheme = {
  table: IPVS_TABLE,
  nextTable: `${IPVS_TABLE}-next`,
  layouts: layoutsOf,
  skeleton: skeletonText,
  writeRules: null,
  emitPort,
  poolNumbers: () => ({ first: 1, last: POOL_NUMBER_MAX }),
  poolNumberOf: (key) => poolOfMark(Buffer.from(key).readUInt32LE(0)),
  draws: 'elsewhere',
};
