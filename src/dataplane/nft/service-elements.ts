/** From one service, with the state of its pools, to the elements that it needs in one family. */
import { cidrParts } from '../../model/address.ts';
import type { Answer, DesiredNode, DesiredPort, Frontend } from '../../model/desired.ts';
import type { Cidr, Family } from '../../model/records.ts';
import { pickChainName } from './chains.ts';
import { type ElementSink } from './elements.ts';
import { addressSize, CHAIN, SET } from './layout.ts';
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

export function emitPort(sink: ElementSink, state: PortState): void {
  if (state.cluster) emitPool(sink, state.port, 'cluster', state.cluster);
  if (state.local) emitPool(sink, state.port, 'local', state.local);
  for (const frontend of state.port.frontends) emitFrontend(sink, state, frontend);
}

function emitPool(sink: ElementSink, port: DesiredPort, kind: PoolKind, pool: PoolState): void {
  const { family } = sink;
  sink.begin().pool(family, pool.number);
  sink.end(
    SET.pools,
    pickChainName({ size: pool.slots.length, affinitySeconds: port.affinitySeconds }),
    poolComment(port, kind),
  );
  pool.slots.forEach((backend, slot) => {
    const member = pool.ids ? pool.ids[slot]! : slot;
    const key = sink.begin();
    key.pool(family, pool.number);
    key.port(member);
    sink.data.address(backend.address);
    sink.data.port(backend.port);
    sink.end(SET.members);
    if (pool.ids) {
      const slotKey = sink.begin();
      slotKey.pool(family, pool.number);
      slotKey.port(slot);
      sink.data.port(member);
      sink.end(SET.slots);
    }
    const pair = sink.begin();
    pair.address(backend.address);
    pair.address(backend.address);
    sink.end(SET.hairpin);
  });
}

function frontendKey(sink: ElementSink, frontend: Frontend): PackedWriter {
  const key = sink.begin();
  key.address(frontend.address);
  key.protocol(frontend.protocol);
  key.port(frontend.port);
  return key;
}

function poolOf(state: PortState, answer: Answer): PoolState | null {
  if (answer === 'cluster') return state.cluster;
  if (answer === 'local') return state.local;
  return null;
}

function emitFrontend(sink: ElementSink, state: PortState, frontend: Frontend): void {
  const comment = frontendComment(state.port, frontend);
  const inside = poolOf(state, frontend.inside);
  frontendKey(sink, frontend);
  if (inside) {
    sink.data.pool(sink.family, inside.number);
    sink.end(SET.services, '', comment);
  } else {
    // An answer that names an empty pool is the model's mistake; nobody is the safe reading of it.
    sink.end(SET.noEndpoints, frontend.inside === 'drop' ? '' : CHAIN.reject, comment);
  }
  if (frontend.outside !== frontend.inside) {
    frontendKey(sink, frontend);
    sink.data.pool(sink.family, poolOf(state, frontend.outside)?.number ?? 0);
    sink.end(SET.outside, '', comment);
  }
  if (frontend.kind === 'ClusterIP') {
    sink.begin().address(frontend.address);
    sink.end(SET.clusterIPs);
  }
  emitMasquerade(sink, frontend);
  if (frontend.sourceRanges) emitRanges(sink, frontend, frontend.sourceRanges);
}

const MASQUERADE_CHAIN = {
  always: CHAIN.masqueradeAlways,
  strangers: CHAIN.masqueradeStrangers,
  node: CHAIN.masqueradeNode,
} as const;

function emitMasquerade(sink: ElementSink, frontend: Frontend): void {
  // The set of cluster IPs says so already, with one rule.
  if (frontend.kind === 'ClusterIP' && frontend.masquerade === 'strangers') return;
  frontendKey(sink, frontend);
  sink.end(SET.masquerade, MASQUERADE_CHAIN[frontend.masquerade]);
}

function emitRanges(sink: ElementSink, frontend: Frontend, ranges: readonly Cidr[]): void {
  frontendKey(sink, frontend);
  sink.end(SET.guarded);
  for (const range of ranges) {
    const { family, bytes, bits } = cidrParts(range);
    if (family !== sink.family) continue;
    frontendKey(sink, frontend).raw(bytes);
    sink.end(SET.ranges + bits);
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
    sink.begin().raw(bytes);
    sink.end(set);
    const end = rangeEnd(family, bytes, bits);
    if (!end) continue;
    sink.begin(INTERVAL_END).raw(end);
    sink.end(set);
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
