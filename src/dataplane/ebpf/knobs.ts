/** Sizes of the tables and .rodata of the programs. */
import { randomFillSync } from 'node:crypto';
import { TriplaneError } from '../../model/errors.ts';
import { ABI, LAYOUTS } from './abi.ts';
import type { TrafficKnobs } from './traffic-table.ts';

export interface Sizes {
  /** Frontends, their addresses (for undefined ports) included. */
  readonly frontends: number;
  readonly backends: number;
  /** Connections that may be open at a time; the table holds them at half load. */
  readonly connections: number;
  readonly affinities: number;
  readonly sourceRanges: number;
  readonly hops: number;
}

export const DEFAULT_SIZES: Sizes = {
  frontends: 131_072,
  backends: 262_144,
  connections: 262_144,
  affinities: 65_536,
  sourceRanges: 65_536,
  hops: 4096,
};

/** tp_nat holds the index of a connection in 24 bits (bpf/abi.h). */
const CONNECTIONS_MAX = 2 ** 23;

/** From what a person says: frontends, slots of pools, and connections. */
export function sizesFor(frontends: number, poolSlots: number, connections: number): Sizes {
  if (connections > CONNECTIONS_MAX) {
    const message = `--bpf-connections-max: ${connections} is too many: at most ${CONNECTIONS_MAX}`;
    throw new TriplaneError('TP_BAD_FLAG', message);
  }
  return {
    ...DEFAULT_SIZES,
    // Each cluster IP takes one more.
    frontends: frontends * 2,
    backends: Math.ceil(poolSlots / 4),
    connections: Math.ceil(connections / 2),
  };
}

/** Port ranges, inclusive. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

export interface Knobs {
  readonly sizes: Sizes;
  /** One or two ranges. */
  readonly natPorts: readonly PortRange[];
  /** 16 bytes; kept with the maps, because the tables are in its order. */
  readonly seed: Uint8Array;
  /** Timer ticks a second of the kernel (CONFIG_HZ). */
  readonly hz: number;
  readonly setRetval: boolean;
  readonly netnsCookie: boolean;
  readonly redirectNeigh: boolean;
  /** XDP: leave packets whose checksum looks unfinished to tc. */
  readonly partialChecksums: boolean;
  /** The kernel offers its connection tracking to programs (kernelOffersConntrack()). Default: no. */
  readonly ctLookup?: boolean;
  /** Programs may read the kernel's own struct of a packet (kernelOffersContext()). Default: no. */
  readonly kernelContext?: boolean;
  /** Default: nothing is counted. */
  readonly traffic?: TrafficKnobs;
}

export function newSeed(): Uint8Array {
  return randomFillSync(new Uint8Array(16));
}

const powerOfTwo = (n: number) => 2 ** Math.ceil(Math.log2(Math.max(n, 1)));

/** Entries of each table that is a power of two. */
export function tableSizes(sizes: Sizes) {
  const connections = powerOfTwo(sizes.connections);
  return {
    // Buckets of 8 slots at a quarter of their load: 1 in 10,000 runs over.
    indexBuckets: powerOfTwo((sizes.frontends * 4) / ABI.BUCKET_SLOTS),
    connSets: (connections * 2) / ABI.CONN_WAYS,
    pairBuckets: (connections * 4) / ABI.BUCKET_SLOTS,
    natSlots: connections * 2,
    hops: powerOfTwo(sizes.hops),
  };
}

/** max_entries by map. */
export function mapEntries(sizes: Sizes): Record<string, number> {
  const tables = tableSizes(sizes);
  return {
    tp_index: tables.indexBuckets,
    tp_frontends: sizes.frontends,
    // Two generations of every pool, inside and outside, and what is waiting to be freed.
    tp_pool_slots: sizes.backends * 4,
    tp_backends: sizes.backends,
    tp_conns: tables.connSets,
    tp_pairs: tables.pairBuckets,
    tp_nat: tables.natSlots / ABI.NAT_SLOTS,
    tp_hops: tables.hops,
    tp_affinities: sizes.affinities,
    tp_ranges: sizes.sourceRanges,
    tp_names: sizes.frontends,
  };
}

/** jiffies >> shift is a clock of about a second: 0.98 s at 300 Hz is 1.7 s, at 100 Hz 1.28 s. */
export function tickShift(hz: number): number {
  return Math.ceil(Math.log2(hz));
}

/** .rodata: struct tp_knobs. */
export function encodeKnobs(knobs: Knobs): Uint8Array {
  const { bytes, members } = LAYOUTS.tp_knobs;
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  const tables = tableSizes(knobs.sizes);
  out.set(knobs.seed, members.seed);
  view.setUint32(members.index_mask, tables.indexBuckets - 1, true);
  view.setUint32(members.conn_mask, tables.connSets - 1, true);
  view.setUint32(members.pair_mask, tables.pairBuckets - 1, true);
  view.setUint32(members.nat_mask, tables.natSlots - 1, true);
  view.setUint32(members.hop_mask, tables.hops - 1, true);
  view.setUint32(members.tick_shift, tickShift(knobs.hz), true);
  knobs.natPorts.slice(0, 2).forEach((range, i) => {
    view.setUint16(members.nat_ports + 4 * i, range.first, true);
    view.setUint16(members.nat_ports + 4 * i + 2, range.last, true);
  });
  out[members.has_set_retval] = Number(knobs.setRetval);
  out[members.has_netns_cookie] = Number(knobs.netnsCookie);
  out[members.has_redirect_neigh] = Number(knobs.redirectNeigh);
  out[members.partial_checksums] = Number(knobs.partialChecksums);
  out[members.has_ct_lookup] = Number(knobs.ctLookup ?? false);
  out[members.has_kernel_context] = Number(knobs.kernelContext ?? false);
  const { traffic } = knobs;
  if (!traffic) return out;
  out[members.traffic] = traffic.level;
  out[members.traffic_by_backend] = Number(traffic.by === 'endpoint');
  out[members.traffic_shared] = Number(traffic.shared);
  view.setUint32(members.traffic_stride, traffic.stride, true);
  view.setUint32(members.traffic_part_mask, traffic.parts - 1, true);
  return out;
}
