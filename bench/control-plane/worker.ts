/**
 * One life of the control plane on one size of cluster, in a process of its own so that its memory is its
 * own. `cold` programs an empty kernel, makes the changes and leaves the state; `restart` and
 * `restart-changed` find that state. The figures go to the parent as one message.
 */
import assert from 'node:assert/strict';
import process from 'node:process';
import type { Dataplane } from '../../src/dataplane/dataplane.ts';
import { EbpfDataplane } from '../../src/dataplane/ebpf/ebpf-dataplane.ts';
import { NftDataplane } from '../../src/dataplane/nft/nft-dataplane.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { RecordChange } from '../../src/model/records.ts';
import { loadNative } from '../../src/node/native.ts';
import { repeatableRandom, summarize } from '../support/stats.ts';
import { type ChangeKind, changedSlices, stepsOf } from './changes.ts';
import { allRecords, CONFIG, FACTS, podsOf, type Size, sparePod } from './cluster.ts';
import { installStopwatch, type Spent, takeSpent } from './stopwatch.ts';

export type BenchMode = 'nft' | 'ebpf';

export interface Task {
  readonly phase: 'cold' | 'restart' | 'restart-changed';
  readonly size: Size;
  readonly netns: string;
  readonly mode: BenchMode;
  /** Folder of pins, for ebpf. */
  readonly root: string;
  readonly changes: number;
}

const MIB = 2 ** 20;
const rssMiB = () => process.memoryUsage.rss() / MIB;
const collectGarbage = (globalThis as { gc?: () => void }).gc ?? (() => {});

/** A share of the services get another endpoint before `restart-changed`. */
const CHANGED_SHARE = 0.01;

function openDataplane({ mode, netns, root }: Task): Dataplane {
  if (mode === 'nft') return new NftDataplane({ netns });
  (loadNative() as unknown as { netnsEnter(path: string): void }).netnsEnter(netns);
  return new EbpfDataplane({ root, cgroup: '' });
}

class Life {
  readonly model = new ClusterModel(CONFIG, FACTS);
  readonly dataplane: Dataplane;

  constructor(task: Task) {
    this.dataplane = openDataplane(task);
  }

  /** From records to the kernel's acknowledgement. */
  async start(records: readonly RecordChange[]) {
    takeSpent();
    const began = performance.now();
    this.model.apply(records);
    this.model.produce();
    const modelled = performance.now();
    const result = await this.dataplane.start(this.model.state);
    const done = performance.now();
    assert.deepEqual(result.refusals, []);
    const spent = takeSpent();
    return { operations: result.operations, ...split(began, modelled, done, spent) };
  }

  /** One change of records, in milliseconds. */
  async change(records: readonly RecordChange[]): Promise<number> {
    const began = performance.now();
    this.model.apply(records);
    const change = this.model.produce();
    const result = await this.dataplane.apply(change, this.model.state);
    const took = performance.now() - began;
    assert.ok(result.operations > 0, 'a change must change something');
    assert.deepEqual(result.refusals, []);
    return took;
  }
}

function split(began: number, modelled: number, done: number, spent: Spent) {
  const totalMs = done - began;
  const modelMs = modelled - began;
  const { buildMs, commitMs, dumpMs } = spent;
  return {
    totalMs,
    modelMs,
    buildMs,
    commitMs,
    dumpMs,
    planMs: totalMs - modelMs - buildMs - commitMs - dumpMs,
    commits: spent.commits,
    dumps: spent.dumps,
  };
}

/** Each kind of change as often as asked for, in turns, so that every kind meets the same machine. */
async function makeChanges(life: Life, size: Size, count: number) {
  const random = repeatableRandom(1);
  const samples = new Map<ChangeKind, number[]>();
  for (let round = 0; round < count; round++) {
    for (const [kind, records] of stepsOf(size, round, random)) {
      const took = await life.change(records);
      if (!kind) continue;
      const list = samples.get(kind) ?? [];
      list.push(took);
      samples.set(kind, list);
    }
  }
  return Object.fromEntries([...samples].map(([kind, list]) => [kind, summarize(list)]));
}

async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const began = performance.now();
  const result = await work();
  return [performance.now() - began, result];
}

async function coldLife(task: Task) {
  const { size } = task;
  const rssEmptyMiB = rssMiB();
  const life = new Life(task);
  const cold = await life.start(allRecords(size));
  const rssColdMiB = rssMiB();
  // Something to warm up on: the first change of a process compiles code that the others use.
  await makeChanges(life, size, Math.min(50, task.changes));
  const changes = await makeChanges(life, size, task.changes);
  const rssChangesMiB = rssMiB();
  const [verifyMs, verified] = await timed(() => life.dataplane.verify(life.model.state));
  assert.deepEqual(verified.repaired, []);
  collectGarbage();
  const rssGcMiB = rssMiB();
  const heapMiB = process.memoryUsage().heapUsed / MIB;
  await life.dataplane.close();
  return { cold, changes, verifyMs, rssEmptyMiB, rssColdMiB, rssChangesMiB, rssGcMiB, heapMiB };
}

async function restartedLife(task: Task) {
  const { size } = task;
  const records = allRecords(size);
  const expected = task.phase === 'restart' ? 0 : change1Percent(size, records);
  const life = new Life(task);
  const restart = await life.start(records);
  const rssRestartMiB = rssMiB();
  // The ebpf mode counts its settings, which it always looks at, as one.
  const least = task.mode === 'ebpf' ? 1 : 0;
  if (expected === 0)
    assert.equal(restart.operations, least, 'a restart onto unchanged state changes nothing');
  else assert.ok(restart.operations > 0);
  const verified = await life.dataplane.verify(life.model.state);
  assert.deepEqual(verified.repaired, []);
  await life.dataplane.close();
  return { restart, rssRestartMiB, changedServices: expected };
}

/** Replaces one endpoint of every hundredth service. Returns how many services that are. */
function change1Percent(size: Size, records: RecordChange[]): number {
  const step = Math.max(1, Math.round(1 / CHANGED_SHARE));
  let changed = 0;
  for (let service = 0; service < size.services; service += step) {
    const pods = podsOf(size, service);
    const replaced = pods.with(0, sparePod(size, 5000 + service));
    for (const change of changedSlices(size, service, replaced, pods)) records.push(change);
    changed++;
  }
  return changed;
}

const task = JSON.parse(process.argv[2]!) as Task;
installStopwatch();
const figures = await (task.phase === 'cold' ? coldLife(task) : restartedLife(task));
process.send!(figures);
process.disconnect();
