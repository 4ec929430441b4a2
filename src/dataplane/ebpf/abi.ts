/**
 * The TypeScript side of bpf/abi.h: where each member of each record lies, and the numbers that mean something.
 * test/bpf/abi.test.ts holds the layouts against the BTF of the built object and the constants against the header.
 */
import type { Address, Family, Protocol } from '../../model/records.ts';

/** Byte offsets of the members of each struct that a map holds. */
export const LAYOUTS = {
  tp_frontend: {
    bytes: 64,
    members: {
      addr: 0,
      port: 16,
      proto: 18,
      family: 19,
      flags: 20,
      inside: 24,
      outside: 32,
      service: 40,
      affinity: 44,
      guard: 48,
      spare: 52,
    },
  },
  tp_backend: { bytes: 32, members: { addr: 0, port: 16, flags: 18, incarnation: 20, hop: 24, hop_gen: 28 } },
  tp_nat_line: { bytes: 64, members: { slot: 0 } },
  tp_bucket: { bytes: 64, members: { slot: 0 } },
  tp_conn: {
    bytes: 64,
    members: {
      state: 0,
      frontend: 4,
      client: 8,
      client_port: 24,
      proto: 26,
      flags: 27,
      backend: 28,
      last_seen: 32,
      nat_port: 36,
      seen_forward: 38,
      seen_reply: 39,
      nat_addr: 40,
      hop_forward: 56,
      hop_reply: 58,
      hop_gen: 60,
      spilled: 62,
      family: 63,
    },
  },
  tp_hop: {
    bytes: 64,
    members: {
      state: 0,
      ifindex: 4,
      dmac: 8,
      smac: 14,
      mtu: 20,
      gen: 24,
      nat4: 28,
      nat6: 32,
      flags: 48,
      spare: 52,
    },
  },
  tp_device: { bytes: 24, members: { flags: 0, nat4: 4, nat6: 8 } },
  tp_settings: {
    bytes: 1120,
    members: {
      flags: 0,
      route_gen: 4,
      node_netns: 8,
      cluster_low: 16,
      cluster_high: 48,
      service_cidrs: 80,
      pod_cidrs: 592,
      service_cidr_count: 1104,
      pod_cidr_count: 1112,
    },
  },
  tp_prefix: { bytes: 32, members: { addr: 0, mask: 16 } },
  tp_range_key: { bytes: 24, members: { prefixlen: 0, guard: 4, addr: 8 } },
  tp_affinity_key: { bytes: 20, members: { client: 0, service: 16 } },
  tp_affinity: { bytes: 16, members: { backend: 0, incarnation: 4, last_used: 8, spare: 12 } },
  tp_name: { bytes: 192, members: { text: 0 } },
  tp_meta: { bytes: 4096, members: { text: 0 } },
  tp_traffic: { bytes: 40, members: { connections: 0, packets: 8, bytes: 24 } },
  tp_knobs: {
    bytes: 72,
    members: {
      seed: 0,
      index_mask: 16,
      conn_mask: 20,
      pair_mask: 24,
      nat_mask: 28,
      hop_mask: 32,
      tick_shift: 36,
      nat_ports: 40,
      has_set_retval: 48,
      has_netns_cookie: 49,
      has_redirect_neigh: 50,
      partial_checksums: 51,
      has_ct_lookup: 52,
      traffic: 53,
      traffic_by_backend: 54,
      traffic_shared: 55,
      traffic_stride: 56,
      traffic_part_mask: 60,
      has_kernel_context: 64,
      spare: 65,
    },
  },
} as const;

/** Named as in the header, without TP_. */
export const ABI = {
  LAYOUT: 5,
  BUCKET_SLOTS: 8,
  BUCKET_TRIES: 4,
  NAT_SLOTS: 16,
  CONN_WAYS: 4,
  CONN_TRIES: 8,
  PREFIXES: 8,
  GONE: 0,
  CLUSTER: 1,
  LOCAL: 2,
  REJECT: 3,
  DROP: 4,
  F_MASQ_STRANGERS: 1,
  F_MASQ_ALWAYS: 2,
  F_MASQ_NODE: 128,
  F_GUARDED: 4,
  F_XDP: 8,
  F_SOCK_POD: 16,
  F_SOCK_NODE: 32,
  F_ADDRESS: 64,
  B_LOCAL: 1,
  B_IN_CLUSTER: 2,
  B_IN_LOCAL: 4,
  FREE: 0,
  BUSY: 1,
  LIVE: 2,
  DYING: 3,
  C_MASQ: 1,
  C_WHOLE: 2,
  C_NODE: 4,
  C_PAIR: 8,
  C_REMAP: 16,
  C_DIRECT: 32,
  D_PODS: 1,
  D_XDP_SEND: 2,
  TAIL_IN_RARE: 0,
  TAIL_OUT_RARE: 1,
  TAIL_IN_ICMP: 2,
  TAIL_OUT_ICMP: 3,
  TAIL_REJECT: 4,
  TAIL_STUCK: 5,
  TAIL_NODE: 6,
  TAILS: 7,
  S_DRAIN: 1,
  S_NODE_EGRESS: 2,
  S_SOURCE_ROUTES: 4,
  S_SOCK_NODE: 8,
  S_SOCK_POD: 16,
  S_SOCK_OPTOUT: 32,
  S_DETECTOR: 64,
  S_ASK_KERNEL: 128,
  S_OLDER: 256,
  TRAFFIC_OFF: 0,
  TRAFFIC_CONNECTIONS: 1,
  TRAFFIC_PACKETS: 2,
} as const;

/** tp_conn.frontend of an entry that is nobody's and waits for the collector. */
export const NOBODY = 0xffff_ffff;

/** A slot that was used and left: neither free nor an index. */
export const TOMB = 0xffff_ffffn;

/** Names of the counters in tp_counters, in their order (enum tp_counter, lower case). */
export const COUNTERS = [
  'new',
  'repicked',
  'conns_full',
  'pairs_full',
  'nat_full',
  'tuple_taken',
  'busy',
  'rejected',
  'dropped',
  'guarded',
  'unallocated',
  'fragment_lost',
  'affinity_full',
  'no_route',
  'xdp_forwarded',
  'icmp_translated',
  'kernel_owned',
  'icmp_answered',
] as const;
export type CounterName = (typeof COUNTERS)[number];

/** Protocol numbers (IANA). */
export const PROTOCOL_NUMBERS: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

/** A pool in one word: see TP_POOL_* in bpf/abi.h. */
export function poolWord(base: number, count: number, answer: number, flags = 0): bigint {
  const masquerade = (flags & ABI.F_MASQ_ALWAYS) !== 0 ? 128 : 0;
  return BigInt(base) | (BigInt(count) << 32n) | (BigInt(answer | masquerade) << 56n);
}

/** The parts of a pool word. */
export function poolParts(word: bigint): { base: number; count: number; answer: number } {
  return {
    base: Number(word & 0xffff_ffffn),
    count: Number((word >> 32n) & 0xff_ffffn),
    answer: Number(word >> 56n) & 127,
  };
}

/** A slot of an index. */
export function slotWord(tag: number, index: number): bigint {
  return (BigInt(tag) << 32n) | BigInt(index + 1);
}

/** Writes an address as the 16 bytes of struct tp_addr. */
export function writeAddress(into: Uint8Array, at: number, address: Address): void {
  into.fill(0, at, at + 16);
  if (!address.includes(':')) {
    address.split('.').forEach((octet, i) => {
      into[at + i] = Number(octet);
    });
    return;
  }
  const [head = '', tail = ''] = address.split('::');
  const first = head === '' ? [] : head.split(':');
  const last = tail === '' ? [] : tail.split(':');
  const groups = [...first, ...new Array<string>(8 - first.length - last.length).fill('0'), ...last];
  groups.forEach((group, i) => {
    const value = Number.parseInt(group, 16);
    into[at + 2 * i] = value >> 8;
    into[at + 2 * i + 1] = value & 255;
  });
}

/** Reads the 16 bytes of struct tp_addr as canonical text (RFC 5952). */
export function readAddress(from: Uint8Array, at: number, family: Family): Address {
  // Read for each backend when tables are taken over: no view of the bytes, no array.
  if (family === 4) return `${from[at]}.${from[at + 1]}.${from[at + 2]}.${from[at + 3]}` as Address;
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push((from[at + i]! << 8) | from[at + i + 1]!);
  let best = { start: -1, length: 1 };
  for (let start = 0; start < 8; start++) {
    let length = 0;
    while (start + length < 8 && groups[start + length] === 0) length++;
    if (length > best.length) best = { start, length };
  }
  const text = (part: number[]) => part.map((group) => group.toString(16)).join(':');
  if (best.start < 0) return text(groups) as Address;
  return `${text(groups.slice(0, best.start))}::${text(groups.slice(best.start + best.length))}` as Address;
}

/** The mask of a prefix length as 16 bytes, the address's own first. */
export function prefixMask(bits: number): Uint8Array {
  const mask = new Uint8Array(16);
  for (let i = 0; i < bits; i++) mask[i >> 3]! |= 128 >> (i & 7);
  return mask;
}
