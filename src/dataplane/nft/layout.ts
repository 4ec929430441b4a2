/**
 * The sets and maps of our tables, as data: what the skeleton declares, what batches write, what dumps read.
 * One table a family; the number of objects does not depend on the number of services.
 *
 * The idea in one paragraph: each pool of backends has a number, and that number is also an address in a
 * range that is never routed (0.0.0.0/8, or RFC 6666's 100::/64). The destination of a new packet that meets a
 * frontend becomes its pool's address, and its destination port the slot that was drawn; then one look-up of
 * (pool, slot) gives the backend. So pools stand once, not once for each frontend, session affinity is per
 * service port whichever address was used, and a packet that finds no backend is dropped.
 *
 * Only one verdict map, and a small one: whenever an element with a jump is added the kernel walks all
 * elements of all verdict maps of the table (nft_lookup_validate), 6 ms at 50,000 pools. So a pool's element
 * says the number of its way of drawing (how many backends, sticky or not), which becomes the packet's port,
 * and `picks` has one element for each such number.
 */
import { createHash } from 'node:crypto';
import type { Family } from '../../model/records.ts';

export const TABLE = 'triplane';
/** A table under construction while an old version of ours still carries traffic. */
export const NEXT_TABLE = 'triplane-next';

/** As the kernel has it: every part of a concatenation is padded to four bytes, a lone value is not. */
export interface SetLayout {
  readonly name: string;
  readonly keyBytes: number;
  /** 0: a set; -1: a verdict map. */
  readonly dataBytes: number;
  /** The kernel writes elements by itself; they are not ours to compare. */
  readonly dynamic?: true;
  /** Elements that several services may need: they stay until the last one goes. */
  readonly shared?: true;
}

const VERDICT = -1;

/** Indices into setLayouts(); ranges of prefix length n are at SET.ranges + n. */
export const SET = {
  services: 0,
  outside: 1,
  pools: 2,
  picks: 3,
  members: 4,
  slots: 5,
  unanswered: 6,
  dropped: 7,
  clusterIPs: 8,
  hairpin: 9,
  masqueradeAlways: 10,
  masqueradeNode: 11,
  guarded: 12,
  pods: 13,
  serviceCIDRs: 14,
  affinity: 15,
  memberIds: 16,
  outsideFrontends: 17,
  bySource: 18,
  masqueradeAddresses: 19,
  ranges: 20,
} as const;

/** How many leading layouts always exist; those of ranges exist while a prefix length is in use. */
export const FIXED_SETS = SET.ranges;

export function addressSize(family: Family): 4 | 16 {
  return family === 4 ? 4 : 16;
}

const layoutsByFamily = new Map<Family, readonly SetLayout[]>();

export function setLayouts(family: Family): readonly SetLayout[] {
  let layouts = layoutsByFamily.get(family);
  if (!layouts) {
    layouts = makeLayouts(family);
    layoutsByFamily.set(family, layouts);
  }
  return layouts;
}

function makeLayouts(family: Family): SetLayout[] {
  const address = addressSize(family);
  /** address . protocol . port */
  const frontend = address + 8;
  const layouts: SetLayout[] = [
    { name: 'services', keyBytes: frontend, dataBytes: address },
    { name: 'outside', keyBytes: frontend, dataBytes: address },
    { name: 'pools', keyBytes: address, dataBytes: 2 },
    { name: 'picks', keyBytes: 2, dataBytes: VERDICT },
    { name: 'members', keyBytes: address + 4, dataBytes: address + 4 },
    { name: 'slots', keyBytes: address + 4, dataBytes: 2 },
    { name: 'unanswered', keyBytes: frontend, dataBytes: 0 },
    { name: 'dropped', keyBytes: frontend, dataBytes: 0 },
    { name: 'cluster-ips', keyBytes: address, dataBytes: 0, shared: true },
    { name: 'hairpin', keyBytes: 2 * address, dataBytes: 0, shared: true },
    { name: 'masquerade-always', keyBytes: frontend, dataBytes: 0 },
    { name: 'masquerade-node', keyBytes: frontend, dataBytes: 0 },
    { name: 'guarded', keyBytes: frontend, dataBytes: 0 },
    { name: 'pods', keyBytes: address, dataBytes: 0 },
    { name: 'service-cidrs', keyBytes: address, dataBytes: 0 },
    { name: 'affinity', keyBytes: 2 * address, dataBytes: 2, dynamic: true },
    // The keys of `members` (pools with affinity) and of `outside`: before Linux 6.9 a rule cannot ask whether a
    // map has a key.
    { name: 'member-ids', keyBytes: address + 4, dataBytes: 0 },
    { name: 'outside-frontends', keyBytes: frontend, dataBytes: 0 },
    { name: 'by-source', keyBytes: frontend, dataBytes: 0 },
    { name: 'masquerade-addresses', keyBytes: address, dataBytes: 0, shared: true },
  ];
  for (let bits = 0; bits <= address * 8; bits++) {
    layouts.push({ name: `ranges-${bits}`, keyBytes: frontend + address, dataBytes: 0 });
  }
  return layouts;
}

/**
 * Which numbers a table gives to its pools. While one table takes another's place both are awake: numbers of
 * their own keep what one of them has begun from meaning anything to the other. Number 0 stands for "nobody":
 * dropped.
 */
export const POOL_NUMBERS: Readonly<Record<string, { readonly first: number; readonly last: number }>> = {
  [TABLE]: { first: 1, last: 0x7fffff },
  [NEXT_TABLE]: { first: 0x800000, last: 0xffffff },
};

export const GUARD_CHECK = 'guard-check';

/** A chain whose name tells what skeleton this is: see skeletonMarker(). */
export const MARKER_PREFIX = 'skeleton-';

export function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}
