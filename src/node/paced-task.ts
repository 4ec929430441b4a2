import { Pace, type Rests } from './pace.ts';

export interface PacedTimes extends Rests {
  /** From a request to its turn, at least: what is asked for meanwhile is done with it. */
  readonly delayMs?: number;
}

type InTurn = (turn: () => Promise<void>) => Promise<void>;

/** Work that is asked for more often than it is worth. Asked for while it rests or runs, it comes once, afterwards. */
export class PacedTask {
  readonly #work: () => Promise<void>;
  readonly #inTurn: InTurn;
  readonly #delayMs: number;
  readonly #pace: Pace;
  #timer: NodeJS.Timeout | null = null;
  #running: Promise<void> | null = null;
  #wanted: 'no' | 'yes' | 'at once' = 'no';
  #isClosed = false;

  /**
   * @param work says itself what failed, and does not reject
   * @param inTurn does it when its turn among other work has come: to wait for that costs no processor, and no rest
   */
  constructor(work: () => Promise<void>, times: PacedTimes, inTurn: InTurn = (turn) => turn()) {
    this.#work = work;
    this.#inTurn = inTurn;
    this.#delayMs = times.delayMs ?? 0;
    this.#pace = new Pace(times);
  }

  request(): void {
    if (this.#wanted !== 'no') return;
    this.#wanted = 'yes';
    this.#arm();
  }

  /** Without delay or rest, though not beside itself. */
  requestAtOnce(): void {
    this.#wanted = 'at once';
    this.#arm();
  }

  /** Ends after what is under way; what was asked for meanwhile does not come. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#disarm();
    await this.#running;
  }

  #disarm(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #arm(): void {
    this.#disarm();
    if (this.#isClosed || this.#running || this.#wanted === 'no') return;
    const delayMs = this.#wanted === 'at once' ? 0 : Math.max(this.#delayMs, this.#pace.restMs);
    this.#timer = setTimeout(() => this.#run(), delayMs).unref();
  }

  #run(): void {
    this.#timer = null;
    this.#wanted = 'no';
    this.#running = this.#inTurn(() => this.#pace.turn(this.#work)).finally(() => {
      this.#running = null;
      this.#arm();
    });
  }
}
