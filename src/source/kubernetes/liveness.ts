/** How much silence of a watch is normal: a half-open connection says nothing, and never that it is dead. */
import type { ReflectorLimits } from './options.ts';

export class Liveness {
  readonly #limits: ReflectorLimits;
  #bookmarkAt = 0;
  /** Longest time between two bookmarks of one watch so far; 0 before the second. */
  #gapMs = 0;

  constructor(limits: ReflectorLimits) {
    this.#limits = limits;
  }

  sawBookmark(): void {
    const now = performance.now();
    if (this.#bookmarkAt > 0) this.#gapMs = Math.max(this.#gapMs, now - this.#bookmarkAt);
    this.#bookmarkAt = now;
  }

  /** The watch is over; the time until the next one begins is no gap. */
  ended(): void {
    this.#bookmarkAt = 0;
  }

  /** A server that sends bookmarks (each minute or so) is dead when it sends nothing for three times as long. */
  get silenceMs(): number {
    const { silenceMinMs, watchTimeoutMs, watchGraceMs } = this.#limits;
    return this.#gapMs > 0 ? Math.max(silenceMinMs, 3 * this.#gapMs) : 2 * watchTimeoutMs + watchGraceMs;
  }
}
