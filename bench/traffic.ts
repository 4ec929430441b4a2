/**
 * `node scripts/bench.mjs traffic [--rounds N] [--calls N]`: what counting traffic costs (--traffic-metrics), for each mode
 * and level, as a ratio to the same mode that counts nothing. All lanes run in turns; both ends of a call and the node
 * between them work on one processor, so time is work.
 */
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Dataplane } from '../src/dataplane/dataplane.ts';
import { cleanupEbpf } from '../src/dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../src/dataplane/ebpf/ebpf-dataplane.ts';
import { DEFAULT_SIZES } from '../src/dataplane/ebpf/knobs.ts';
import { type TrafficKnobs, trafficKnobs } from '../src/dataplane/ebpf/traffic-table.ts';
import { NftDataplane } from '../src/dataplane/nft/nft-dataplane.ts';
import type { TrafficSettings } from '../src/dataplane/traffic.ts';
import { cgroupMount } from '../src/lab/cgroups.ts';
import { type Kind, Lane } from './data-path/lane.ts';
import { CLUSTER_IP, SERVICE_PORT, stateOf } from './data-path/services.ts';
import { compile, load } from './per-packet/measure.ts';
import { removeNamespacesAtExit, within } from './support/namespace.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';
import { ratioOf, typical } from './support/ratio.ts';
import { median } from './support/stats.ts';
import { formatTable } from './support/table.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '30' }, calls: { type: 'string', default: '300' } },
});
const ROUNDS = Number(values.rounds);
const CALLS = Number(values.calls);
const CPU = os.cpus().length - 1;
const KINDS: Readonly<Record<Kind, string>> = {
  tcp: 'TCP: connect, request, answer, close',
  udp: 'UDP: new socket, request, answer',
  'tcp-rr': 'TCP: request and answer on an open connection',
  'udp-rr': 'UDP: request and answer on one socket',
};
const WAYS = ['nft', 'ebpf, by packets', 'ebpf, by sockets'] as const;
type Way = (typeof WAYS)[number];
const LEVELS: readonly (readonly [string, TrafficSettings])[] = [
  ['off', { level: 'off', by: 'service' }],
  ['off, again', { level: 'off', by: 'service' }],
  ['connections', { level: 'connections', by: 'service' }],
  ['traffic', { level: 'traffic', by: 'service' }],
  ['traffic by endpoint', { level: 'traffic', by: 'endpoint' }],
];
const PACKET_FLOWS = [1 << 10, 1 << 16];
const PACKET_ROUNDS = 1;
const STATE = stateOf({ services: 1000, sourceRanges: 0 });
const SIZES = { ...DEFAULT_SIZES, frontends: 8192, backends: 32_768, connections: 65_536 };

interface Runner {
  readonly way: Way;
  readonly level: string;
  readonly lane: Lane;
  readonly samples: Record<Kind, number[]>;
}

const undo: (() => unknown)[] = [];
/** How long what has been told to end may take. */
const END_MS = 5000;

/** Its processes end by themselves, but not at once. */
async function removeCgroup(folder: string): Promise<void> {
  const until = performance.now() + END_MS;
  while (readFileSync(path.join(folder, 'cgroup.procs'), 'utf8') !== '' && performance.now() < until)
    await sleep(10);
  rmdirSync(folder);
}

function ebpf(index: number, lane: Lane, way: Way, traffic: TrafficSettings) {
  const root = `/sys/fs/bpf/tp-bench-${process.pid}-${index}`;
  const cgroup = path.join(cgroupMount() ?? '', `tp-bench-${process.pid}-${index}`);
  mkdirSync(cgroup);
  undo.push(
    () => cleanupEbpf(root),
    () => removeCgroup(cgroup),
  );
  const socketLb = way === 'ebpf, by sockets' ? 'all' : 'off';
  return {
    open: () =>
      within(lane.node, async () => {
        const dataplane = new EbpfDataplane({ root, cgroup, socketLb, traffic, sizes: SIZES, xdp: 'off' });
        return start(dataplane);
      }),
    under: ['sh', '-c', 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup],
  };
}

async function start(dataplane: Dataplane): Promise<Dataplane> {
  const { refusals } = await dataplane.start(STATE);
  if (refusals.length > 0) throw new Error(refusals[0]!.reason);
  return dataplane;
}

async function makeRunners(): Promise<Runner[]> {
  const runners: Runner[] = [];
  for (const way of WAYS)
    for (const [level, traffic] of LEVELS) {
      const lane = new Lane(`${way}, ${level}`, runners.length);
      const made =
        way === 'nft'
          ? { open: () => start(new NftDataplane({ netns: lane.node, traffic })), under: [] }
          : ebpf(runners.length, lane, way, traffic);
      const dataplane = await made.open();
      await lane.start(CPU, made.under);
      undo.unshift(
        () => lane.stop(),
        () => dataplane.close(),
      );
      runners.push({ way, level, lane, samples: { tcp: [], udp: [], 'tcp-rr': [], 'udp-rr': [] } });
    }
  return runners;
}

async function measure(runners: readonly Runner[]): Promise<void> {
  for (let round = -1; round < ROUNDS; round++) {
    // Every other round the other way about: what drifts hits all alike.
    for (const kind of Object.keys(KINDS) as Kind[])
      for (const { lane, samples } of round % 2 === 0 ? runners : runners.toReversed()) {
        const took = await lane.call(kind, CLUSTER_IP, SERVICE_PORT, CALLS);
        // The first round is for warming up.
        if (round >= 0) samples[kind].push(took);
      }
    process.stderr.write('.');
  }
  process.stderr.write('\n');
}

function report(runners: readonly Runner[]): string {
  return (Object.keys(KINDS) as Kind[])
    .map((kind) => {
      const rows = [[KINDS[kind], 'us', 'ratio to off', '95%']];
      for (const { way, level, samples } of runners) {
        const base = runners.find((one) => one.way === way && one.level === 'off')!.samples[kind];
        const { ratio, low, high } = ratioOf(base, samples[kind]);
        const interval = `${low.toFixed(3)}..${high.toFixed(3)}`;
        rows.push([`${way}: ${level}`, typical(samples[kind]).toFixed(1), ratio.toFixed(3), interval]);
      }
      return formatTable(rows);
    })
    .join('\n');
}

/** What the programs take for a packet, alone: per-packet/measure.ts says how it is measured. */
async function packets(): Promise<string> {
  const object = compile();
  const sizes = { frontends: 1024, backends: 2048 };
  const knobs = (by: 'service' | 'endpoint') => trafficKnobs({ level: 'traffic', by }, sizes)!;
  const levels: readonly (readonly [string, TrafficKnobs | undefined])[] = [
    ['off', undefined],
    ['traffic', knobs('service')],
    ['traffic by endpoint', knobs('endpoint')],
    ['traffic, parts shared by processors', { ...knobs('service'), shared: true }],
  ];
  const rows = [['ns a packet, IPv4', ...PACKET_FLOWS.flatMap((n) => [`xdp, ${n} flows`, `tc, ${n} flows`])]];
  const ns = levels.map(() => new Map<string, number[]>());
  for (let round = 0; round < PACKET_ROUNDS; round++)
    for (const [at, [, traffic]] of levels.entries())
      for (const flows of PACKET_FLOWS)
        for (const hook of ['xdp', 'tc'] as const) {
          const { bench, object: loaded } = await load(4, 1 << 16, object, traffic ? { traffic } : {});
          const { forward, reply } = bench.established(flows, hook);
          const key = `${hook} ${flows}`;
          ns[at]!.set(key, [...(ns[at]!.get(key) ?? []), (forward.ns + reply.ns) / 2]);
          loaded.close();
        }
  for (const [at, [level]] of levels.entries()) {
    const cells = PACKET_FLOWS.flatMap((n) => ['xdp', 'tc'].map((hook) => ns[at]!.get(`${hook} ${n}`)!));
    rows.push([level, ...cells.map((samples) => median(samples).toFixed(0))]);
  }
  return formatTable(rows);
}

removeNamespacesAtExit();
process.stdout.write(`${headline(describeMachine(), await lookForQuiet(20_000))}\n`);
process.stdout.write(`${await packets()}\n`);
try {
  const runners = await makeRunners();
  await measure(runners);
  process.stdout.write(report(runners));
} finally {
  for (const step of undo) await step();
}
process.exit(0);
