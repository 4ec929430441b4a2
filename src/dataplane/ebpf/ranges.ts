/**
 * Contiguous ranges of tp_pool_slots. Buddies: sizes are rounded up to powers of two and lie on multiples of
 * themselves, so that what is freed grows together again and a change costs the same however full the table is.
 */
export class Ranges {
  readonly limit: number;
  /** Free blocks by the logarithm of their size. */
  readonly #free: Set<number>[] = [];
  #used = 0;

  constructor(limit: number) {
    this.limit = limit;
    let base = 0;
    for (let order = 30; order >= 0; order--) this.#free[order] = new Set();
    while (base < limit) {
      const order = Math.floor(Math.log2(limit - base));
      this.#free[order]!.add(base);
      base += 2 ** order;
    }
  }

  /** Slots given out, with what rounding costs. */
  get used(): number {
    return this.#used;
  }

  /** The base of a range of at least `count` (1 or more) slots; -1: there is no room. */
  take(count: number): number {
    const order = orderOf(count);
    let from = order;
    while (from <= 30 && this.#free[from]!.size === 0) from++;
    if (from > 30) return -1;
    const [base] = this.#free[from]! as Set<number>;
    this.#free[from]!.delete(base!);
    while (from > order) this.#free[--from]!.add(base! + 2 ** from);
    this.#used += 2 ** order;
    return base!;
  }

  /** For what a predecessor gave out. False: it is no such range, or overlaps another one. */
  reserve(base: number, count: number): boolean {
    const order = orderOf(count);
    if (base % 2 ** order !== 0 || base + 2 ** order > this.limit) return false;
    let from = order;
    while (from <= 30 && !this.#free[from]!.has(base - (base % 2 ** from))) from++;
    if (from > 30) return false;
    let block = base - (base % 2 ** from);
    this.#free[from]!.delete(block);
    while (from > order) {
      from--;
      const upper = block + 2 ** from;
      this.#free[from]!.add(base >= upper ? block : upper);
      if (base >= upper) block = upper;
    }
    this.#used += 2 ** order;
    return true;
  }

  release(base: number, count: number): void {
    let order = orderOf(count);
    this.#used -= 2 ** order;
    for (; order < 30; order++) {
      const buddy = base % 2 ** (order + 1) === 0 ? base + 2 ** order : base - 2 ** order;
      if (!this.#free[order]!.delete(buddy)) break;
      base = Math.min(base, buddy);
    }
    this.#free[order]!.add(base);
  }
}

function orderOf(count: number): number {
  return count <= 1 ? 0 : 32 - Math.clz32(count - 1);
}
