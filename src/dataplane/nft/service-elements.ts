/** From one service, with the state of its pools, to the elements that it needs in one family. */
import { cidrParts } from '../../model/address.ts';
import type { Answer, DesiredNode, DesiredPort, Frontend } from '../../model/desired.ts';
import type { Address, Cidr, Family } from '../../model/records.ts';
import type { PickChain } from './chains.ts';
import type { ElementSink } from './elements.ts';
import { addressSize, SET } from './layout.ts';
import { INTERVAL_END, type PackedWriter } from './packed.ts';
import type { PoolState } from './pool.ts';

/** A desired port together with what stands for its pools in the kernel. */
export interface PortState {
  readonly port: DesiredPort;
  readonly cluster: PoolState | null;
  readonly local: PoolState | null;
}

export type PoolKind = 'cluster' | 'local';

export function poolComment(port: DesiredPort, kind: PoolKind): string {
  return `${port.name} ${port.protocol} ${kind}`;
}
export function frontendComment(port: DesiredPort, frontend: Frontend): string {
  return `${frontend.kind} ${port.name}`;
}

/** The number of a way of drawing: see `picks` in layout.ts. */
export type ClassOf = (pick: PickChain) => number;

/** `other`: a state of the same port; slots that are the same in both need not be emitted. */
export function emitPort(sink: ElementSink, state: PortState, classOf: ClassOf, other?: PortState): void {
  if (state.cluster) emitPool(sink, state.port, 'cluster', state.cluster, classOf, other?.cluster);
  if (state.local) emitPool(sink, state.port, 'local', state.local, classOf, other?.local);
  const writePool: WritePool = (out, number) => out.pool(sink.family, number);
  for (const frontend of state.port.frontends) emitFrontend(sink, state, frontend, writePool);
}

/** Writes what a frontend's element says of its pool; 0: nobody, drop. */
export type WritePool = (out: PackedWriter, number: number) => void;

function emitPool(
  sink: ElementSink,
  port: DesiredPort,
  kind: PoolKind,
  pool: PoolState,
  classOf: ClassOf,
  other?: PoolState | null,
): void {
  const { family } = sink;
  const out = sink.begin(SET.pools);
  out.pool(family, pool.number);
  out.lonePort(classOf({ size: pool.slots.length, affinitySeconds: port.affinitySeconds }));
  sink.end('', poolComment(port, kind));
  for (let slot = 0; slot < pool.slots.length; slot++) {
    const backend = pool.slots[slot]!;
    if (other && sameSlot(pool, other, slot)) continue;
    const member = pool.ids ? pool.ids[slot]! : slot;
    const memberOut = sink.begin(SET.members);
    memberOut.pool(family, pool.number);
    memberOut.port(member);
    memberOut.address(backend.address);
    memberOut.port(backend.port);
    sink.end();
    if (pool.ids) {
      const slotOut = sink.begin(SET.slots);
      slotOut.pool(family, pool.number);
      slotOut.port(slot);
      slotOut.lonePort(member);
      sink.end();
      const idOut = sink.begin(SET.memberIds);
      idOut.pool(family, pool.number);
      idOut.port(member);
      sink.end();
    }
    emitHairpin(sink, backend.address);
  }
}

function sameSlot(a: PoolState, b: PoolState, slot: number): boolean {
  const left = a.slots[slot]!;
  const right = b.slots[slot];
  return (
    right !== undefined &&
    a.number === b.number &&
    left.address === right.address &&
    left.port === right.port &&
    a.ids?.[slot] === b.ids?.[slot]
  );
}

export function emitHairpin(sink: ElementSink, backend: Address): void {
  const pair = sink.begin(SET.hairpin);
  pair.address(backend);
  pair.address(backend);
  sink.end();
}

export function beginFrontend(sink: ElementSink, set: number, frontend: Frontend): PackedWriter {
  const out = sink.begin(set);
  out.address(frontend.address);
  out.protocol(frontend.protocol);
  out.port(frontend.port);
  return out;
}

function poolOf(state: PortState, answer: Answer): PoolState | null {
  if (answer === 'cluster') return state.cluster;
  if (answer === 'local') return state.local;
  return null;
}

export function emitFrontend(
  sink: ElementSink,
  state: PortState,
  frontend: Frontend,
  writePool: WritePool,
): void {
  const comment = frontendComment(state.port, frontend);
  const inside = poolOf(state, frontend.inside);
  if (inside) {
    writePool(beginFrontend(sink, SET.services, frontend), inside.number);
  } else {
    // An answer that names an empty pool is the model's mistake; nobody is the safe reading of it.
    if (frontend.inside === 'drop') {
      beginFrontend(sink, SET.dropped, frontend);
      sink.end();
    }
    beginFrontend(sink, SET.unanswered, frontend);
  }
  sink.end('', comment);
  if (frontend.outside !== frontend.inside) {
    writePool(beginFrontend(sink, SET.outside, frontend), poolOf(state, frontend.outside)?.number ?? 0);
    sink.end('', comment);
    beginFrontend(sink, SET.outsideFrontends, frontend);
    sink.end();
  }
  if (frontend.kind === 'ClusterIP') {
    sink.begin(SET.clusterIPs).address(frontend.address);
    sink.end();
  }
  // 'strangers' needs no element: only ClusterIPs have it, and the set of cluster IPs says so with one rule.
  if (frontend.masquerade !== 'strangers') {
    beginFrontend(
      sink,
      frontend.masquerade === 'always' ? SET.masqueradeAlways : SET.masqueradeNode,
      frontend,
    );
    sink.end();
    sink.begin(SET.masqueradeAddresses).address(frontend.address);
    sink.end();
  }
  if (frontend.outside !== frontend.inside || frontend.sourceRanges) {
    beginFrontend(sink, SET.bySource, frontend);
    sink.end();
  }
  if (frontend.sourceRanges) emitRanges(sink, frontend, frontend.sourceRanges);
}

function emitRanges(sink: ElementSink, frontend: Frontend, ranges: readonly Cidr[]): void {
  beginFrontend(sink, SET.guarded, frontend);
  sink.end();
  for (const range of ranges) {
    const { family, bytes, bits } = cidrParts(range);
    if (family !== sink.family) continue;
    beginFrontend(sink, SET.ranges + bits, frontend).raw(bytes);
    sink.end();
  }
}

/** What belongs to no service: the interval sets of pods and ServiceCIDRs. */
export function emitNode(sink: ElementSink, node: DesiredNode): void {
  if (node.detector.by === 'cidr') emitIntervals(sink, SET.pods, node.detector.cidrs);
  emitIntervals(sink, SET.serviceCIDRs, node.serviceCIDRs);
}

function emitIntervals(sink: ElementSink, set: number, cidrs: readonly Cidr[]): void {
  for (const cidr of cidrs) {
    const { family, bytes, bits } = cidrParts(cidr);
    if (family !== sink.family) continue;
    sink.begin(set).raw(bytes);
    sink.end();
    const end = rangeEnd(family, bytes, bits);
    if (!end) continue;
    sink.begin(set, INTERVAL_END).raw(end);
    sink.end();
  }
}

/** The first address after the range; null when the range reaches the last address there is. */
function rangeEnd(family: Family, start: Uint8Array, bits: number): Uint8Array | null {
  const end = Uint8Array.from(start.subarray(0, addressSize(family)));
  if (bits === 0) return null;
  let carry = 1 << (7 - ((bits - 1) % 8));
  for (let at = (bits - 1) >> 3; at >= 0 && carry; at--) {
    const sum = end[at]! + carry;
    end[at] = sum & 0xff;
    carry = sum >> 8;
  }
  return carry ? null : end;
}
