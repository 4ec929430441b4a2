/** tp_ranges: source ranges, shared by the frontends that have the same ones. */
import { cidrParts } from '../../model/address.ts';
import type { Cidr, Family } from '../../model/records.ts';
import { LAYOUTS } from './abi.ts';
import { type Guard, TableFull } from './entries.ts';
import type { Grave } from './grave.ts';
import { Indexes } from './indexes.ts';
import type { TableMaps } from './maps.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_range_key;
/** Bits of `guard`, which stands before the address in the key. */
const GUARD_BITS = 32;
const GUARDS_MAX = 65_536;
const ONE = new Uint8Array(Uint32Array.of(1).buffer);

export class Guards {
  readonly ids = new Indexes(GUARDS_MAX, 1);
  readonly byKey = new Map<string, Guard>();
  readonly limit: number;
  readonly #maps: TableMaps;
  readonly #grave: Grave;
  #rows = 0;

  constructor(maps: TableMaps, grave: Grave) {
    this.#maps = maps;
    this.#grave = grave;
    this.limit = maps.ranges.handle.entries;
  }

  /** Rows of tp_ranges. */
  get used(): number {
    return this.#rows;
  }

  /** The guard for ranges, of which those of the other family do not count. Throws TableFull. */
  obtain(family: Family, ranges: readonly Cidr[], undo: (() => void)[]): Guard {
    const cidrs = [...new Set(ranges)].filter((cidr) => cidrParts(cidr).family === family).sort();
    const key = `${family} ${cidrs.join(' ')}`;
    let guard = this.byKey.get(key);
    if (!guard) {
      const id = this.#rows + cidrs.length > this.limit ? -1 : this.ids.take();
      if (id < 0) throw new TableFull(`the table of ${this.limit} source ranges is full`);
      guard = { id, key, family, cidrs, uses: 0, written: false };
      this.byKey.set(key, guard);
      this.#rows += cidrs.length;
    }
    guard.uses++;
    undo.push(() => this.release(guard));
    return guard;
  }

  release(guard: Guard): void {
    guard.uses--;
    if (guard.uses > 0) return;
    this.byKey.delete(guard.key);
    this.#grave.add(() => {
      if (guard.written) this.#maps.ranges.removeAll(guard.cidrs.map((cidr) => rangeKey(guard.id, cidr)));
      this.#rows -= guard.cidrs.length;
      this.ids.release(guard.id);
    });
  }

  /** Before any frontend refers to them. Returns how many rows were written. */
  write(guards: readonly Guard[]): number {
    const fresh = guards.filter((guard) => !guard.written);
    const keys = fresh.flatMap((guard) => guard.cidrs.map((cidr) => rangeKey(guard.id, cidr)));
    if (keys.length > 0) this.#maps.ranges.update(Buffer.concat(keys), Buffer.concat(keys.map(() => ONE)));
    for (const guard of fresh) guard.written = true;
    return keys.length;
  }

  /** For rows that a predecessor wrote; nobody uses them yet. */
  adopt(id: number, family: Family, ranges: readonly Cidr[]): Guard | null {
    const cidrs = [...ranges].sort();
    const key = `${family} ${cidrs.join(' ')}`;
    if (this.byKey.has(key) || !this.ids.reserve(id)) return null;
    const guard: Guard = { id, key, family, cidrs, uses: 0, written: true };
    this.byKey.set(key, guard);
    this.#rows += cidrs.length;
    return guard;
  }

  /**
   * After adopt(): rows under numbers that nobody has are those of a predecessor that ended before it took them away. They
   * go after the usual grace, and nobody gets their numbers before.
   */
  bury(): void {
    const stray = this.#maps.ranges.keys().filter((key) => !this.ids.isUsed(guardOf(key)));
    const ids = [...new Set(stray.map(guardOf))].filter((id) => this.ids.reserve(id));
    if (stray.length === 0) return;
    this.#rows += stray.length;
    this.#grave.add(() => {
      this.#maps.ranges.removeAll(stray);
      this.#rows -= stray.length;
      for (const id of ids) this.ids.release(id);
    });
  }

  /** Puts back rows that are missing and takes out those that nobody wrote. Returns how many of each. */
  repair(): { missing: number; strange: number } {
    const text = (key: Uint8Array) => Buffer.from(key).toString('latin1');
    const held = new Map(this.#maps.ranges.keys().map((key) => [text(key), key]));
    let missing = 0;
    for (const guard of this.byKey.values()) {
      for (const cidr of guard.written ? guard.cidrs : []) {
        const key = rangeKey(guard.id, cidr);
        if (held.delete(text(key))) continue;
        this.#maps.ranges.update(key, ONE);
        missing++;
      }
    }
    // Rows of a guard that waits in the grave go by themselves.
    const strange = [...held.values()].filter((key) => !this.ids.isUsed(guardOf(key)));
    this.#maps.ranges.removeAll(strange);
    return { missing, strange: strange.length };
  }
}

/** The id in a key of tp_ranges. */
export function guardOf(key: Uint8Array): number {
  return new DataView(key.buffer, key.byteOffset).getUint32(M.guard, true);
}

export function rangeKey(guard: number, cidr: Cidr): Uint8Array {
  const { bytes, bits } = cidrParts(cidr);
  const key = new Uint8Array(BYTES);
  const view = new DataView(key.buffer);
  view.setUint32(M.prefixlen, GUARD_BITS + bits, true);
  view.setUint32(M.guard, guard, true);
  key.set(bytes, M.addr);
  return key;
}
