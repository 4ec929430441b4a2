/**
 * `node scripts/bench.mjs control-plane [--mode nft|ebpf] [--services N --endpoints N] [--changes N]
 * [--json FILE]`: what the
 * control plane costs against the real kernel, in a network namespace that it makes and removes. Without
 * --services: the sizes that the targets name.
 */
import { fork } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import type { Size } from './control-plane/cluster.ts';
import { type ControlPlaneFigures, checkTargets, figureTables, TARGETS } from './control-plane/report.ts';
import type { BenchMode, Task } from './control-plane/worker.ts';
import { makeNamespace, removeNamespaces, removeNamespacesAtExit } from './support/namespace.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';

const WORKER = path.join(import.meta.dirname, 'control-plane-worker.mjs');
const WORKER_MS_MAX = 240_000;
const QUIET_PATIENCE_MS = 20_000;

const PLAIN = { families: [4], type: 'ClusterIP', affinitySeconds: 0 } as const;
const SIZES: readonly Size[] = [
  { name: '1k x 10', services: 1000, endpoints: 10, ...PLAIN },
  { name: '10k x 10', services: 10_000, endpoints: 10, ...PLAIN },
  { name: '50k x 2', services: 50_000, endpoints: 2, ...PLAIN },
  { name: '10k x 10 dual', services: 10_000, endpoints: 10, ...PLAIN, families: [4, 6] },
  { name: '10k x 10 LB', services: 10_000, endpoints: 10, ...PLAIN, type: 'LoadBalancer' },
  { name: '10k x 10 sticky', services: 10_000, endpoints: 10, ...PLAIN, affinitySeconds: 10_800 },
  { name: '1 x 1000', services: 1, endpoints: 1000, ...PLAIN },
];

function work<T>(task: Task): Promise<T> {
  const { size, phase } = task;
  return new Promise((resolve, reject) => {
    const child = fork(WORKER, [JSON.stringify(task)], {
      execArgv: ['--expose-gc', ...process.execArgv],
      timeout: WORKER_MS_MAX,
    });
    let answer: T | undefined;
    child.on('message', (message) => {
      answer = message as T;
    });
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      if (answer !== undefined && code === 0) resolve(answer);
      else reject(new Error(`${size.name}, ${phase}: the worker ended with ${signal ?? `code ${code}`}`));
    });
  });
}

/** Pins of the ebpf mode. */
const root = `/sys/fs/bpf/tpbench${process.pid}`;
const removePins = () => rmSync(root, { recursive: true, force: true });

async function measure(size: Size, changes: number, mode: BenchMode): Promise<ControlPlaneFigures> {
  const netns = makeNamespace('control');
  const task = { size, netns, mode, root, changes };
  try {
    const life = await work<Omit<ControlPlaneFigures, 'size' | 'restart' | 'changed'>>({
      ...task,
      phase: 'cold',
    });
    const restart = await work<ControlPlaneFigures['restart']>({ ...task, phase: 'restart' });
    const changed = await work<ControlPlaneFigures['changed']>({ ...task, phase: 'restart-changed' });
    return { size, ...life, restart, changed };
  } finally {
    removeNamespaces();
    removePins();
  }
}

const { values } = parseArgs({
  options: {
    mode: { type: 'string', default: 'nft' },
    services: { type: 'string' },
    endpoints: { type: 'string', default: '10' },
    size: { type: 'string', multiple: true },
    changes: { type: 'string', default: '1000' },
    json: { type: 'string' },
  },
});
const sizes = values.services
  ? [
      {
        name: `${values.services} x ${values.endpoints}`,
        services: Number(values.services),
        endpoints: Number(values.endpoints),
        ...PLAIN,
      },
    ]
  : SIZES.filter((size) => !values.size || values.size.includes(size.name));

if (values.mode !== 'nft' && values.mode !== 'ebpf') throw new Error('--mode: nft or ebpf');
const { mode } = values;
removeNamespacesAtExit();
process.on('exit', removePins);
const machine = describeMachine();
const quietness = await lookForQuiet(QUIET_PATIENCE_MS);
process.stdout.write(`${headline(machine, quietness)}\n`);
const all: ControlPlaneFigures[] = [];
for (const size of sizes) {
  process.stderr.write(`${size.name} ...\n`);
  all.push(await measure(size, Number(values.changes), mode));
}
process.stdout.write(`${figureTables(all)}\n${checkTargets(all, TARGETS[mode])}`);
if (values.json) {
  mkdirSync(path.dirname(path.resolve(values.json)), { recursive: true });
  writeFileSync(values.json, `${JSON.stringify({ machine, quietness, figures: all }, null, 1)}\n`);
}
