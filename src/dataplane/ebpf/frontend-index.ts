/**
 * tp_index as its only writer keeps it. A key lies in its home bucket or, if that is full, in one of the next
 * three. Programs look into those only if the last slot of the home bucket is in use (bpf/frontend.h), so that slot
 * alone must stay a tomb while a key of this home lies behind it; all others are simply emptied.
 */
import { ABI, slotWord, TOMB } from './abi.ts';
import type { Mapped } from './tables.ts';

export interface Place {
  readonly bucket: number;
  readonly tag: number;
}

export class FrontendIndex {
  readonly #map: Mapped;
  /** Keys that lie behind their home bucket, by home. */
  readonly #spilled = new Map<number, number>();

  constructor(map: Mapped) {
    this.#map = map;
  }

  get buckets(): number {
    return this.#map.entries;
  }

  #slot(bucket: number, i: number): number {
    const where = (bucket + Math.floor(i / ABI.BUCKET_SLOTS)) & (this.#map.entries - 1);
    return where * ABI.BUCKET_SLOTS + (i % ABI.BUCKET_SLOTS);
  }

  #spill(bucket: number, slot: number, by: number): void {
    const home = bucket & (this.#map.entries - 1);
    if (Math.floor(slot / ABI.BUCKET_SLOTS) === home) return;
    const count = (this.#spilled.get(home) ?? 0) + by;
    if (count > 0) this.#spilled.set(home, count);
    else this.#spilled.delete(home);
  }

  /** Makes a record findable, which must be whole by now. The slot; -1: there is no room for this key. */
  link(place: Place, record: number): number {
    const { longs } = this.#map;
    for (let i = 0; i < ABI.BUCKET_TRIES * ABI.BUCKET_SLOTS; i++) {
      const slot = this.#slot(place.bucket, i);
      const word = longs[slot]!;
      if (word !== 0n && word !== TOMB) continue;
      Atomics.store(longs, slot, slotWord(place.tag, record));
      this.#spill(place.bucket, slot, 1);
      return slot;
    }
    return -1;
  }

  /** For what a predecessor linked. */
  adopt(place: Place, slot: number): void {
    this.#spill(place.bucket, slot, 1);
  }

  unlink(place: Place, slot: number): void {
    this.#spill(place.bucket, slot, -1);
    const bucket = Math.floor(slot / ABI.BUCKET_SLOTS);
    const last = slot % ABI.BUCKET_SLOTS === ABI.BUCKET_SLOTS - 1;
    Atomics.store(this.#map.longs, slot, last && this.#spilled.has(bucket) ? TOMB : 0n);
    // The tomb of a home whose last guest has left.
    const home = place.bucket & (this.#map.entries - 1);
    const end = home * ABI.BUCKET_SLOTS + ABI.BUCKET_SLOTS - 1;
    if (!this.#spilled.has(home) && this.#map.longs[end] === TOMB) Atomics.store(this.#map.longs, end, 0n);
  }

  holds(slot: number, place: Place, record: number): boolean {
    return this.#map.longs[slot] === slotWord(place.tag, record);
  }

  /** Puts a word back that somebody has overwritten. */
  restore(slot: number, place: Place, record: number): void {
    Atomics.store(this.#map.longs, slot, slotWord(place.tag, record));
  }
}
