/** What a long run says while it goes on: how long it has taken, what it does now, what remains of its part. */

/** "2:07", "1:02:07". */
export function clockOf(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function roughly(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  return minutes < 1 ? 'less than a minute' : `some ${minutes} min`;
}

export class Progress {
  readonly #write: (line: string) => void;
  readonly #now: () => number;
  readonly #began: number;
  #part = { steps: 0, done: 0, began: 0, even: false };

  constructor(write: (line: string) => void, now = () => performance.now()) {
    this.#write = write;
    this.#now = now;
    this.#began = now();
  }

  say(line: string): void {
    this.#write(`[${clockOf(this.#now() - this.#began)}] ${line}`);
  }

  /** A part of so many steps. `even`: each takes about as long as another, so those that are done tell what remains. */
  begin(steps: number, even = false): void {
    this.#part = { steps, done: 0, began: this.#now(), even };
  }

  /** Before a step of the part. */
  step(what: string): void {
    const { steps, done, began, even } = this.#part;
    const took = this.#now() - began;
    const left = even && done > 0 ? `, ${roughly((took / done) * (steps - done))} left of this part` : '';
    this.say(`${what} (${done + 1} of ${steps}${left})`);
    this.#part.done++;
  }
}
