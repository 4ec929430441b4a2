/** Whether the machine has anything else to do: a figure from a busy machine says little. */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const LOOK_MS = 1000;
/** Of all processors together. */
const QUIET_SHARE_MAX = 0.05;

interface Ticks {
  readonly busy: number;
  readonly all: number;
}

function readTicks(): Ticks {
  // user nice system idle iowait irq softirq steal: proc(5)
  const [, ...fields] = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!.split(/\s+/);
  const ticks = fields.slice(0, 8).map(Number);
  const all = ticks.reduce((sum, n) => sum + n, 0);
  return { busy: all - ticks[3]! - ticks[4]!, all };
}

export interface Quietness {
  /** Share of processor time that was in use while this process slept, 0 to 1. */
  readonly busy: number;
  readonly load1: number;
  readonly quiet: boolean;
}

/** Looks for a second at a time until the machine is quiet or `patienceMs` are over. */
export async function lookForQuiet(patienceMs: number): Promise<Quietness> {
  const until = performance.now() + patienceMs;
  for (;;) {
    const before = readTicks();
    await sleep(LOOK_MS);
    const after = readTicks();
    const busy = (after.busy - before.busy) / Math.max(1, after.all - before.all);
    const quiet = busy <= QUIET_SHARE_MAX;
    if (quiet || performance.now() > until) return { busy, load1: os.loadavg()[0]!, quiet };
  }
}

export interface Machine {
  readonly kernel: string;
  readonly cpus: number;
  readonly cpu: string;
  readonly memoryMiB: number;
  readonly node: string;
}

export function describeMachine(): Machine {
  return {
    kernel: os.release(),
    cpus: os.cpus().length,
    cpu: os.cpus()[0]?.model ?? '',
    memoryMiB: Math.round(os.totalmem() / 2 ** 20),
    node: process.version,
  };
}

/** The two lines that stand above every result. */
export function headline(machine: Machine, quietness: Quietness): string {
  const kernel = machine.kernel.split('-', 1)[0];
  const state = quietness.quiet ? 'quiet' : 'NOT QUIET, do not trust single figures';
  return (
    `${machine.cpus} x ${machine.cpu}, ${machine.memoryMiB} MiB, Linux ${kernel}, Node ${machine.node}\n` +
    `before the first run: ${(100 * quietness.busy).toFixed(1)}% of the processors in use, load ${quietness.load1.toFixed(2)}: ${state}\n`
  );
}
