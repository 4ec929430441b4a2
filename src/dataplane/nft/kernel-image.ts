/** One family's table as the kernel holds it: everything that adoption and read-back look at. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatAddress } from '../../model/address.ts';
import type { Backend, DesiredPort } from '../../model/desired.ts';
import type { Family } from '../../model/records.ts';
import { parsePickChain } from './chains.ts';
import { type ElementValue, mapKey, readElements } from './elements.ts';
import { asTriplaneError } from './kernel-errors.ts';
import {
  addressSize,
  FIXED_SETS,
  GUARD_CHECK,
  MARKER_PREFIX,
  SET,
  type SetLayout,
  shortHash,
} from './layout.ts';
import { type NameAnswer, NFPROTO, type NftSocket } from './native.ts';
import { poolNumber } from './packed.ts';
import type { PoolState } from './pool.ts';
import type { Scheme } from './scheme.ts';
import type { PoolKind } from './service-elements.ts';
import { poolComment } from './service-elements.ts';

const LOOKS_MAX = 5;
const LOOK_AGAIN_MS = 50;

/** Throws TP_NO_PRIVILEGE or TP_NO_FEATURE where nftables may not or cannot be asked. */
export function readNames(socket: NftSocket, proto: number, table: string): Promise<NameAnswer> {
  return socket.dumpNames(proto, table).catch((error) => {
    throw asTriplaneError(error);
  });
}

/** Sets whose elements are ours (not the kernel's own), by index, among those that exist. */
export function comparableSets(layouts: readonly SetLayout[], names: NameAnswer): number[] {
  const present = new Set(names.sets);
  return layouts.flatMap((layout, set) => (!layout.dynamic && present.has(layout.name) ? [set] : []));
}

/** True when every set of the skeleton is there. */
export function hasAllSets(layouts: readonly SetLayout[], names: NameAnswer): boolean {
  const present = new Set(names.sets);
  return layouts.slice(0, FIXED_SETS).every((layout) => present.has(layout.name));
}

/** One set as the kernel gave it. */
export interface SetDump {
  readonly shares: BigUint64Array;
  readonly packed: Uint8Array;
}

/**
 * The elements of one set, taken again when a dump met a growing hash table and shows an element twice: `take` gives
 * how many different ones there are.
 */
async function dumpSet(
  socket: NftSocket,
  proto: number,
  layouts: readonly SetLayout[],
  table: string,
  set: number,
  take: (packed: Uint8Array) => number,
): Promise<SetDump & { readonly strange: number }> {
  for (let look = 0; ; look++) {
    const { shares, packed, count, strange } = await socket.dumpElements(proto, table, layouts, set, false);
    if (take(packed) + strange === count || look >= LOOKS_MAX) return { shares, packed, strange };
    await sleep(LOOK_AGAIN_MS);
  }
}

/** The elements of one set by mapKey(). */
export async function readSet(
  socket: NftSocket,
  proto: number,
  layouts: readonly SetLayout[],
  table: string,
  set: number,
): Promise<{ elements: Map<string, ElementValue>; strange: number }> {
  let elements = new Map<string, ElementValue>();
  const { strange } = await dumpSet(socket, proto, layouts, table, set, (packed) => {
    elements = elementMap(layouts, set, packed);
    return elements.size;
  });
  return { elements, strange };
}

export function elementMap(
  layouts: readonly SetLayout[],
  set: number,
  packed: Uint8Array,
): Map<string, ElementValue> {
  const elements = new Map<string, ElementValue>();
  for (const element of readElements(layouts, set, packed)) elements.set(mapKey(set, element.key), element);
  return elements;
}

/** Chains whose rules never change while the table stands: all but pick chains and the guard's list. */
function isStatic(chain: string): boolean {
  return chain !== GUARD_CHECK && parsePickChain(chain) === null;
}

/** A digest of the static rules and of the base chains' hooks: what a person or program may have altered. */
export function staticDigest(names: NameAnswer, rules: readonly { chain: string; hash: string }[]): string {
  const chains = names.chains.filter((name) => isStatic(name) && !name.startsWith(MARKER_PREFIX)).sort();
  const lines = rules.filter((rule) => isStatic(rule.chain)).map((rule) => `${rule.chain} ${rule.hash}`);
  // Rules of one chain keep their order; chains may be dumped in any.
  return shortHash([...chains, ...stableByChain(lines)].join('\n'));
}

function stableByChain(lines: readonly string[]): string[] {
  const byChain = new Map<string, string[]>();
  for (const line of lines) {
    const chain = line.slice(0, line.indexOf(' '));
    const list = byChain.get(chain);
    if (list) list.push(line);
    else byChain.set(chain, [line]);
  }
  return [...byChain.keys()].sort().flatMap((chain) => byChain.get(chain)!);
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** The members of a pool: of number n, its address bytes and port at `at[n]` of what the kernel gave. */
type MemberPlaces = number[];

/** Pools as a predecessor left them, to be found by the comment on their element. */
export class PoolImage {
  private readonly family: Family;
  private readonly numberByComment = new Map<string, number>();
  /** Of `members`, as the kernel gave it: a cluster has many, and few of them are looked at as values. */
  private packed: Buffer = Buffer.alloc(0);
  private members = new Map<number, MemberPlaces>();
  private slots = new Map<number, number[]>();
  private readonly take: (number: number) => boolean;
  private readonly poolNumberOf: (key: Uint8Array) => number;

  /** `adopt` claims a number; false: somebody has it already. */
  constructor(
    family: Family,
    adopt: (number: number) => boolean,
    poolNumberOf: (key: Uint8Array) => number = poolNumber,
  ) {
    this.family = family;
    this.take = adopt;
    this.poolNumberOf = poolNumberOf;
  }

  /** The sets that it is made of. */
  static setsOf({ draws }: Scheme): readonly number[] {
    return draws === 'rules' ? [SET.pools, SET.members, SET.slots] : [SET.pools];
  }

  /** Reads the table `name`. Gives its own sets as the kernel has them. */
  async read(
    socket: NftSocket,
    name: string,
    { scheme, layouts }: { readonly scheme: Scheme; readonly layouts: readonly SetLayout[] },
  ): Promise<Map<number, SetDump>> {
    const dumps = new Map<number, SetDump>();
    const take = (set: number, packed: Uint8Array) => {
      if (set === SET.pools) return this.takePools(layouts, packed);
      return set === SET.members ? this.takeMembers(packed) : this.takeSlots(packed);
    };
    for (const set of PoolImage.setsOf(scheme)) {
      const proto = NFPROTO[this.family];
      dumps.set(set, await dumpSet(socket, proto, layouts, name, set, (packed) => take(set, packed)));
    }
    return dumps;
  }

  private takePools(layouts: readonly SetLayout[], packed: Uint8Array): number {
    const elements = elementMap(layouts, SET.pools, packed);
    this.numberByComment.clear();
    for (const { key, comment } of elements.values())
      this.numberByComment.set(comment, this.poolNumberOf(bytesOf(key.slice(1))));
    return elements.size;
  }

  private takeMembers(packed: Uint8Array): number {
    this.packed = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
    const { places, distinct } = this.placesOf(this.packed, addressSize(this.family) + 4);
    this.members = places;
    return distinct;
  }

  private takeSlots(packed: Uint8Array): number {
    const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
    const { places, distinct } = this.placesOf(bytes, 2);
    for (const list of places.values())
      for (const [slot, at] of list.entries()) if (at !== undefined) list[slot] = bytes.readUInt16BE(at);
    this.slots = places;
    return distinct;
  }

  /** Of elements with a pool's address and a port as their key: where the data of each begins, by pool and port. */
  private placesOf(bytes: Buffer, dataBytes: number): { places: Map<number, number[]>; distinct: number } {
    const size = addressSize(this.family);
    const places = new Map<number, number[]>();
    let distinct = 0;
    for (let at = 0; at < bytes.length; ) {
      // The last four bytes of the address are the number.
      const number = bytes.readUInt32BE(at + 1 + size - 4);
      const port = bytes.readUInt16BE(at + 1 + size);
      const data = at + 1 + size + 4;
      let list = places.get(number);
      if (!list) {
        list = [];
        places.set(number, list);
      }
      if (list[port] === undefined) distinct++;
      list[port] = data;
      at = data + dataBytes + 1 + bytes[data + dataBytes]!;
    }
    return { places, distinct };
  }

  private backendAt(at: number): Backend {
    const size = addressSize(this.family);
    return {
      address: formatAddress(this.packed.subarray(at, at + size)),
      port: this.packed.readUInt16BE(at + size),
      local: false,
    };
  }

  /** The pool that carries this comment; null when there is none or when it cannot be used as it is. */
  find(port: DesiredPort, kind: PoolKind): PoolState | null {
    if ((kind === 'cluster' ? port.cluster : port.local).length === 0) return null;
    const number = this.numberByComment.get(poolComment(port, kind));
    if (number === undefined || !this.take(number)) return null;
    const members = this.members.get(number);
    const nothing: PoolState = { number, slots: [], ids: null, lastId: 0 };
    if (!members) return nothing;
    const ids = this.slots.get(number);
    const order = ids ?? members.keys();
    const slots: Backend[] = [];
    // Holes: not as we left it. The number stays, the slots are made anew.
    for (const member of order) {
      const at = member === undefined ? undefined : members[member];
      if (at === undefined) return nothing;
      slots.push(this.backendAt(at));
    }
    return { number, slots, ids: ids ?? null, lastId: ids ? Math.max(...ids) : 0 };
  }
}
