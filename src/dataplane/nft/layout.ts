/**
 * The sets and maps of our tables, as data: what the skeleton declares, what batches write, what dumps read.
 * One table a family; the number of objects does not depend on the number of services.
 *
 * The idea in one paragraph: each pool of backends has a number, and that number is also an address in a
 * range that is never routed (0.0.0.0/8, or RFC 6666's 100::/64). At priority dstnat-5 the destination of a
 * new packet that meets a frontend becomes its pool's address, and its destination port the slot that was
 * drawn; at dstnat one look-up of (pool, slot) gives the backend. So pools stand once, not once for each
 * frontend, session affinity is per service port whichever address was used, and a packet that for any
 * reason leaves without its backend has an address that one constant rule drops.
 */
import { createHash } from 'node:crypto';
import type { Family } from '../../model/records.ts';

export const TABLE = 'triplane';
/** A table under construction while an old version of ours still carries traffic. */
export const NEXT_TABLE = 'triplane-next';

/** As the addon wants it: bytes with every part of a concatenation padded to four. */
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
  members: 3,
  slots: 4,
  noEndpoints: 5,
  clusterIPs: 6,
  hairpin: 7,
  masquerade: 8,
  guarded: 9,
  pods: 10,
  serviceCIDRs: 11,
  affinity: 12,
  ranges: 13,
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
    { name: 'pools', keyBytes: address, dataBytes: VERDICT },
    { name: 'members', keyBytes: address + 4, dataBytes: address + 4 },
    { name: 'slots', keyBytes: address + 4, dataBytes: 4 },
    { name: 'no-endpoints', keyBytes: frontend, dataBytes: VERDICT },
    { name: 'cluster-ips', keyBytes: address, dataBytes: 0, shared: true },
    { name: 'hairpin', keyBytes: 2 * address, dataBytes: 0, shared: true },
    { name: 'source-nat', keyBytes: frontend, dataBytes: VERDICT },
    { name: 'guarded', keyBytes: frontend, dataBytes: 0 },
    { name: 'pods', keyBytes: address, dataBytes: 0 },
    { name: 'service-cidrs', keyBytes: address, dataBytes: 0 },
    { name: 'affinity', keyBytes: 2 * address, dataBytes: 4, dynamic: true },
  ];
  for (let bits = 0; bits <= address * 8; bits++) {
    layouts.push({ name: `ranges-${bits}`, keyBytes: frontend + address, dataBytes: 0 });
  }
  return layouts;
}

/** Pools are numbered from 1; number 0 stands for "nobody": its packets are dropped. */
export const POOL_NUMBER_MAX = 0xffffff;

export const CHAIN = {
  reject: 'reject-it',
  masqueradeAlways: 'masquerade-always',
  masqueradeStrangers: 'masquerade-strangers',
  masqueradeNode: 'masquerade-node',
  guardCheck: 'guard-check',
} as const;

/** A chain whose name tells what skeleton this is: see skeletonMarker(). */
export const MARKER_PREFIX = 'skeleton-';

export function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}
