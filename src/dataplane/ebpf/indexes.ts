/** Hands out record numbers below a limit. What comes back is given out again only after what never was. */
export class Indexes {
  readonly first: number;
  readonly limit: number;
  readonly #used: Uint8Array;
  readonly #free: number[] = [];
  #next: number;
  #count = 0;

  constructor(limit: number, first = 0) {
    this.first = first;
    this.limit = limit;
    this.#next = first;
    this.#used = new Uint8Array(limit);
  }

  get used(): number {
    return this.#count;
  }

  isUsed(index: number): boolean {
    return this.#used[index] === 1;
  }

  /** -1: none is left. */
  take(): number {
    while (this.#next < this.limit && this.#used[this.#next] === 1) this.#next++;
    let index = this.#next < this.limit ? this.#next++ : -1;
    while (index < 0 && this.#free.length > 0) {
      const freed = this.#free.pop()!;
      if (this.#used[freed] === 0) index = freed;
    }
    if (index < 0) return -1;
    this.#used[index] = 1;
    this.#count++;
    return index;
  }

  /** For what a predecessor gave out. False: it is out of bounds, or taken. */
  reserve(index: number): boolean {
    if (index < this.first || index >= this.limit || this.#used[index] === 1) return false;
    this.#used[index] = 1;
    this.#count++;
    return true;
  }

  release(index: number): void {
    if (this.#used[index] !== 1) throw new RangeError(`index ${index} is released twice`);
    this.#used[index] = 0;
    this.#count--;
    this.#free.push(index);
  }
}
