/** Waits of growing length between attempts, jittered so that a thousand nodes do not return in step. */
export class Backoff {
  readonly #minMs: number;
  readonly #maxMs: number;
  #nextMs: number;

  constructor(minMs: number, maxMs: number) {
    this.#minMs = minMs;
    this.#maxMs = maxMs;
    this.#nextMs = minMs;
  }

  /** Milliseconds to wait now: between once and twice the step, which doubles up to the maximum (client-go). */
  next(): number {
    const step = this.#nextMs;
    this.#nextMs = Math.min(step * 2, this.#maxMs);
    return step * (1 + Math.random());
  }

  /** Something worked: the next wait is short again. */
  reset(): void {
    this.#nextMs = this.#minMs;
  }
}
