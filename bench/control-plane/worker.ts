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
import {
  allRecords,
  CONFIG,
  FACTS,
  podsOf,
  removalOf,
  type Size,
  serviceWithSlices,
  slicesOf,
  sparePod,
} from './cluster.ts';
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

/** Up to so many endpoints, adding a service counts as one change. */
const SMALL_ENDPOINTS_MAX = 100;

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
  const samples = {
    'service added': [] as number[],
    'service removed': [] as number[],
    'endpoint changed': [] as number[],
    'endpoint added': [] as number[],
    'endpoint removed': [] as number[],
  };
  type Step = [keyof typeof samples | null, RecordChange[]];
  // A service of a thousand endpoints is no small change; one of its endpoints is.
  const isSmall = size.endpoints <= SMALL_ENDPOINTS_MAX;
  for (let round = 0; round < count; round++) {
    const fresh = size.services + (round % 1000);
    const some = Math.floor(random() * size.services);
    const pods = podsOf(size, some);
    const spare = sparePod(size, round);
    const replaced = pods.with(Math.floor(random() * pods.length), spare);
    const steps: Step[] = [
      ...(isSmall ? [['service added', serviceWithSlices(size, fresh)] as Step] : []),
      ['endpoint changed', changedSlices(size, some, replaced, pods)],
      [null, changedSlices(size, some, pods, replaced)],
      ['endpoint added', changedSlices(size, some, [...pods, spare], pods)],
      ['endpoint removed', changedSlices(size, some, pods, [...pods, spare])],
      ...(isSmall ? [['service removed', removalOf(size, fresh)] as Step] : []),
    ];
    for (const [kind, records] of steps) {
      const took = await life.change(records);
      if (kind) samples[kind].push(took);
    }
  }
  return Object.fromEntries(
    Object.entries(samples)
      .filter(([, list]) => list.length > 0)
      .map(([kind, list]) => [kind, summarize(list)]),
  );
}

/** Only slices that differ are delivered, as a source does; one that lost its last endpoint comes empty. */
function changedSlices(size: Size, service: number, now: number[], before: number[]): RecordChange[] {
  const old = new Map(slicesOf(size, service, before).map((change) => [sliceName(change), change]));
  const changes = slicesOf(size, service, now).filter((change) => {
    const previous = old.get(sliceName(change));
    old.delete(sliceName(change));
    return JSON.stringify(previous) !== JSON.stringify(change);
  });
  for (const change of old.values()) {
    if (change.op === 'set' && change.record.kind === 'EndpointSlice')
      changes.push({ op: 'set', record: { ...change.record, endpoints: [] } });
  }
  return changes;
}

function sliceName(change: RecordChange): string {
  return change.op === 'set' && change.record.kind === 'EndpointSlice' ? change.record.name : '';
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
