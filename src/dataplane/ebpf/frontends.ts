/** tp_frontends and tp_index: which records there are, and the order of the stores in which they change. */
import { addressBytes, putAddress } from '../../model/address.ts';
import type { DesiredPort, Frontend, FrontendKind } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import { ABI, LAYOUTS, PROTOCOL_NUMBERS, poolWord } from './abi.ts';
import {
  type FrontendEntry,
  frontendKey,
  type Guard,
  NO_POOL,
  type PoolEntry,
  type PortEntry,
  TableFull,
} from './entries.ts';
import { FrontendIndex, type Place } from './frontend-index.ts';
import type { Grave } from './grave.ts';
import { Indexes } from './indexes.ts';
import type { TableMaps } from './maps.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_frontend;
/** The last words of a record are of no use to programs: what readers are told of affinity and source ranges. */
export const AFFINITY_SECONDS = M.spare;
export const RANGE_COUNT = M.spare + 4;
/** A flag for readers alone: strangers are to be masqueraded where the detector can tell them. */
export const U_STRANGERS = 1 << 10;
export const KIND_SHIFT = 8;
export const KINDS: readonly FrontendKind[] = ['ClusterIP', 'NodePort', 'ExternalIP', 'LoadBalancer'];

export const GONE_WORD = poolWord(0, 0, ABI.GONE);

/** What decides over the flags beside the frontend itself. */
export interface FrontendRules {
  /** Families in which the local detector can tell pods from others. */
  readonly speaks: ReadonlySet<Family>;
  /** Families in which it takes every pod of this node for one, whichever its address and device. */
  readonly podsKnown: ReadonlySet<Family>;
  readonly xdpForward: 'allowed' | 'never';
  /** Ticks for seconds, rounded up. */
  readonly ticks: (seconds: number) => number;
}

/** Whether a pod of this node and a stranger are answered alike, or the pod is known to be one. */
function servesPods(frontend: Frontend, family: Family, { speaks, podsKnown }: FrontendRules): boolean {
  const { masquerade, inside, outside } = frontend;
  if (masquerade === 'always') return false;
  const strangersDiffer = inside !== outside || (masquerade === 'strangers' && speaks.has(family));
  return !strangersDiffer || podsKnown.has(family);
}

export function flagsOf(frontend: Frontend, port: DesiredPort, rules: FrontendRules): number {
  const { masquerade, kind } = frontend;
  const { family, affinitySeconds } = port;
  let flags = KINDS.indexOf(kind) << KIND_SHIFT;
  if (masquerade === 'always') flags |= ABI.F_MASQ_ALWAYS;
  if (masquerade === 'strangers') {
    flags |= U_STRANGERS;
    if (rules.speaks.has(family)) flags |= ABI.F_MASQ_STRANGERS;
  }
  if (masquerade !== 'strangers' || rules.speaks.has(family)) flags |= ABI.F_MASQ_NODE;
  if (kind !== 'ClusterIP' && rules.xdpForward === 'allowed') flags |= ABI.F_XDP;
  if (frontend.sourceRanges !== null) flags |= ABI.F_GUARDED;
  // A socket has no source address yet when it is translated: what goes by it is left to the wire. SCTP's sockets
  // ask no program.
  if (frontend.sourceRanges !== null || affinitySeconds > 0 || port.protocol === 'SCTP') return flags;
  if (servesPods(frontend, family, rules)) flags |= ABI.F_SOCK_POD;
  return flags | ABI.F_SOCK_NODE;
}

type Pools = Pick<PortEntry, 'cluster' | 'local'>;

function wordOf(answer: Frontend['inside'], port: Pools, flags: number): bigint {
  if (answer === 'drop') return poolWord(0, 0, ABI.DROP, flags);
  const pool: PoolEntry = answer === 'reject' ? NO_POOL : port[answer];
  if (pool.base < 0) return poolWord(0, 0, ABI.REJECT, flags);
  return poolWord(pool.base, pool.records.length, answer === 'cluster' ? ABI.CLUSTER : ABI.LOCAL, flags);
}

/** What a record is to say. */
export interface FrontendContent {
  readonly flags: number;
  readonly inside: bigint;
  readonly outside: bigint;
  readonly service: number;
  readonly affinity: number;
  readonly affinitySeconds: number;
  readonly guard: number;
  readonly rangeCount: number;
}

export function contentOf(
  port: PortEntry,
  frontend: Frontend,
  guard: Guard | null,
  rules: FrontendRules,
): FrontendContent {
  const { affinitySeconds } = port.desired;
  const flags = flagsOf(frontend, port.desired, rules);
  const inside = wordOf(frontend.inside, port, flags);
  return {
    flags,
    inside,
    outside: frontend.outside === frontend.inside ? inside : wordOf(frontend.outside, port, flags),
    service: port.id,
    affinity: affinitySeconds > 0 ? rules.ticks(affinitySeconds) : 0,
    affinitySeconds,
    guard: guard?.id ?? 0,
    rangeCount: guard?.cidrs.length ?? 0,
  };
}

export const protoOf = (port: DesiredPort) => PROTOCOL_NUMBERS[port.protocol];

export class Frontends {
  readonly byKey = new Map<string, FrontendEntry>();
  /** Withdrawn, since when. */
  readonly gone = new Map<FrontendEntry, number>();
  readonly records: Indexes;
  readonly #maps: TableMaps;
  readonly #index: FrontendIndex;
  readonly #grave: Grave;
  readonly #now: () => number;

  constructor(maps: TableMaps, grave: Grave, now: () => number) {
    this.#maps = maps;
    this.#index = new FrontendIndex(maps.index);
    this.#grave = grave;
    this.#now = now;
    this.records = new Indexes(maps.frontends.entries);
  }

  /** The entry of a key; a new one answers nobody yet. Throws TableFull. `undo` takes back what was made. */
  obtain(address: Address, port: number, proto: number, family: Family, undo: (() => void)[]): FrontendEntry {
    const key = frontendKey(address, port, proto);
    const known = this.byKey.get(key);
    if (known) return known;
    const index = this.records.take();
    if (index < 0) throw new TableFull(`the table of ${this.records.limit} frontends is full`);
    this.#writeKey(index, address, port, proto, family);
    const place = this.#maps.place(this.#maps.frontends.bytes.subarray(index * BYTES, index * BYTES + 20));
    const slot = this.#index.link(place, index);
    if (slot < 0) {
      this.records.release(index);
      throw new TableFull(`no room for ${address}:${port} in the index of frontends`);
    }
    const entry = { index, slot, place, key, address, port, proto, family, owner: null, uses: 0 };
    this.byKey.set(key, entry);
    undo.push(() => this.remove(entry));
    return entry;
  }

  #writeKey(index: number, address: Address, port: number, proto: number, family: Family): void {
    const at = index * BYTES;
    const { bytes, view } = this.#maps.frontends;
    bytes.fill(0, at, at + BYTES);
    putAddress(bytes, at, address);
    view.setUint16(at + M.port, port);
    bytes[at + M.proto] = proto;
    bytes[at + M.family] = family;
  }

  /** For a record that a predecessor linked. False: it is not what it should be. */
  adopt(entry: FrontendEntry): boolean {
    if (this.byKey.has(entry.key) || !this.records.reserve(entry.index)) return false;
    this.byKey.set(entry.key, entry);
    this.#index.adopt(entry.place, entry.slot);
    return true;
  }

  word(entry: FrontendEntry, side: 'inside' | 'outside'): bigint {
    return this.#maps.frontends.longs[(entry.index * BYTES + M[side]) / 8]!;
  }

  #flip(entry: FrontendEntry, side: 'inside' | 'outside', word: bigint): number {
    const at = (entry.index * BYTES + M[side]) / 8;
    const { longs } = this.#maps.frontends;
    if (longs[at] === word) return 0;
    Atomics.store(longs, at, word);
    return 1;
  }

  #set(entry: FrontendEntry, member: number, value: number): number {
    const at = (entry.index * BYTES + member) / 4;
    const { words } = this.#maps.frontends;
    if (words[at] === value) return 0;
    Atomics.store(words, at, value);
    return 1;
  }

  #get(entry: FrontendEntry, member: number): number {
    return this.#maps.frontends.words[(entry.index * BYTES + member) / 4]!;
  }

  /**
   * Brings a record to `next` under the eyes of programs, which read pool, flags and guard one after the other:
   * - a guard is there before its flag, and stays after it;
   * - masquerade is in the pool's own word.
   * Returns how many stores it took.
   */
  write(entry: FrontendEntry, next: FrontendContent, owner: PortEntry | null): number {
    entry.owner = owner;
    this.gone.delete(entry);
    let stores = this.#set(entry, M.service, next.service);
    stores += this.#set(entry, M.affinity, next.affinity);
    if (next.guard !== 0) stores += this.#set(entry, M.guard, next.guard);
    this.#set(entry, AFFINITY_SECONDS, next.affinitySeconds);
    this.#set(entry, RANGE_COUNT, next.rangeCount);
    stores += this.#set(entry, M.flags, next.flags);
    stores += this.#flip(entry, 'inside', next.inside) + this.#flip(entry, 'outside', next.outside);
    return stores;
  }

  /** Whether the map says it; what is waiting in the grave counts as said. */
  says(entry: FrontendEntry, next: FrontendContent): boolean {
    return (
      this.#index.holds(entry.slot, entry.place, entry.index) &&
      this.word(entry, 'inside') === next.inside &&
      this.word(entry, 'outside') === next.outside &&
      this.#get(entry, M.flags) === next.flags &&
      this.#get(entry, M.service) === next.service &&
      this.#get(entry, M.affinity) === next.affinity &&
      (next.guard === 0 || this.#get(entry, M.guard) === next.guard) &&
      this.#keyHolds(entry)
    );
  }

  #keyHolds(entry: FrontendEntry): boolean {
    const at = entry.index * BYTES;
    const { bytes, view } = this.#maps.frontends;
    const address = addressBytes(entry.address);
    return (
      address.every((byte, i) => bytes[at + i] === byte) &&
      view.getUint16(at + M.port) === entry.port &&
      bytes[at + M.proto] === entry.proto &&
      bytes[at + M.family] === entry.family
    );
  }

  /** Writes all of it again, after somebody else did. */
  repair(entry: FrontendEntry, next: FrontendContent): void {
    const { bytes, view } = this.#maps.frontends;
    const at = entry.index * BYTES;
    if (!this.#keyHolds(entry)) {
      bytes.fill(0, at, at + 16);
      bytes.set(addressBytes(entry.address), at);
      view.setUint16(at + M.port, entry.port);
      bytes[at + M.proto] = entry.proto;
      bytes[at + M.family] = entry.family;
    }
    this.write(entry, next, entry.owner);
    this.#index.restore(entry.slot, entry.place, entry.index);
  }

  /** To new connections it is no frontend any more; those that it has go on. */
  withdraw(entry: FrontendEntry): number {
    entry.owner = null;
    if (this.gone.has(entry)) return 0;
    this.gone.set(entry, this.#now());
    return this.#flip(entry, 'inside', GONE_WORD) + this.#flip(entry, 'outside', GONE_WORD);
  }

  /** Nothing refers to it. Programs that have just found it may still look at it. */
  remove(entry: FrontendEntry): void {
    this.#index.unlink(entry.place, entry.slot);
    this.byKey.delete(entry.key);
    this.gone.delete(entry);
    this.#grave.add(() => this.records.release(entry.index));
  }

  /** Hash of a record's key, as the programs reckon it. */
  placeOf(index: number): Place {
    return this.#maps.place(this.#maps.frontends.bytes.subarray(index * BYTES, index * BYTES + 20));
  }
}
