/** What may be used again only after every program that might still read it has ended. */

/** No program runs for a thousandth of this, not even on a machine that is paused in between. */
export const GRACE_MS = 1000;

export class Grave {
  readonly #waiting: { readonly dueMs: number; readonly bury: () => void }[] = [];
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  get size(): number {
    return this.#waiting.length;
  }

  add(bury: () => void): void {
    this.#waiting.push({ dueMs: this.#now() + GRACE_MS, bury });
  }

  /** Does what is due, in the order of add(). */
  turn(): void {
    const now = this.#now();
    let due = 0;
    while (due < this.#waiting.length && this.#waiting[due]!.dueMs <= now) due++;
    for (const { bury } of this.#waiting.splice(0, due)) bury();
  }
}
