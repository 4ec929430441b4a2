/**
 * How often work comes whose cost depends on the machine: walks through a table of the kernel, of every process, of all
 * connections. After each turn it rests in proportion to what that took, so that it never takes more than a share of a
 * processor, however often it is asked for.
 */
export interface Rests {
  /** How many times the length of a turn the rest takes: 20 for at most a twenty-first of a processor. */
  readonly rests: number;
  /** The shortest rest. */
  readonly leastMs?: number;
}

export class Pace {
  readonly #times: Rests;
  #soonestMs = Number.NEGATIVE_INFINITY;

  constructor(times: Rests) {
    this.#times = times;
  }

  /** The end of the rest, by performance.now(). Before the first turn: -Infinity. */
  get soonestMs(): number {
    return this.#soonestMs;
  }

  /** What is left of the rest, in ms. */
  get restMs(): number {
    return Math.max(0, this.#soonestMs - performance.now());
  }

  /** Does `work` now, resting or not. What failed took its time as well. */
  async turn<T>(work: () => Promise<T>): Promise<T> {
    const { rests, leastMs = 0 } = this.#times;
    const began = performance.now();
    try {
      return await work();
    } finally {
      const ended = performance.now();
      this.#soonestMs = ended + Math.max(leastMs, (ended - began) * rests);
    }
  }
}
