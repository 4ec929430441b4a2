/** The clock of the programs: jiffies, in ticks of about a second (struct tp_knobs, tick_shift). */
import { tickShift } from './knobs.ts';
import { bpfNative } from './native.ts';
import { lifeNative } from './native-life.ts';

/** CONFIG_HZ is one of these on every architecture that runs Kubernetes. */
const RATES = [100, 250, 300, 1000] as const;
/** Of jiffies reckoned from the time since boot, in seconds and as a part of that time. */
const TOLERANCE = { seconds: 20, part: 1e-4 } as const;

/** jiffies as a kernel of this rate would have them, by the time since boot: they start 5 minutes before zero. */
function expectedJiffies(hz: number, bootSeconds: number): number {
  return 2 ** 32 - 300 * hz + bootSeconds * hz;
}

/** Timer ticks a second. Reads the clock once; throws when it fits no known rate. */
export function kernelHz(): number {
  const program = lifeNative().bpfClockOpen(0);
  try {
    const seconds = Number(process.hrtime.bigint()) / 1e9;
    const jiffies = lifeNative().bpfClockRead(program);
    const off = (hz: number) => {
      const difference = (expectedJiffies(hz, seconds) - jiffies) % 2 ** 32;
      return Math.min(Math.abs(difference), 2 ** 32 - Math.abs(difference)) / hz;
    };
    const best = RATES.toSorted((a, b) => off(a) - off(b))[0]!;
    if (off(best) > TOLERANCE.seconds + seconds * TOLERANCE.part)
      throw new Error(`the timer rate of this kernel is not known: ${jiffies} jiffies after ${seconds} s`);
    return best;
  } finally {
    bpfNative().bpfClose(program);
  }
}

export class Clock {
  readonly hz: number;
  readonly #shift: number;
  readonly #program: number;

  constructor(hz: number) {
    this.hz = hz;
    this.#shift = tickShift(hz);
    this.#program = lifeNative().bpfClockOpen(this.#shift);
  }

  /** Now, as programs write it into last_seen. */
  ticks(): number {
    return lifeNative().bpfClockRead(this.#program);
  }

  close(): void {
    bpfNative().bpfClose(this.#program);
  }
}

/** Ticks that last at least so long. */
export function ticksOf(seconds: number, hz: number): number {
  return Math.min(Math.ceil((seconds * hz) / 2 ** tickShift(hz)), 0x7fff_ffff);
}

export function secondsOf(ticks: number, hz: number): number {
  return (ticks * 2 ** tickShift(hz)) / hz;
}
