/**
 * `triplane bench`, `npm run bench`: every mode that this kernel can run beside plain routing, in one
 * interleaved run. See bench/modes/arguments.ts for what it takes.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { packageRoot } from '../src/node/native.ts';
import { type BenchArguments, parseArguments, USAGE } from './modes/arguments.ts';
import { calledAmong, clusterObjects, writeManifest } from './modes/cluster.ts';
import { compareResults, comparisonText, parseResult } from './modes/compare.ts';
import { measureControl } from './modes/control-path.ts';
import { type DataLane, measureData } from './modes/data-path.ts';
import { measureEvenness } from './modes/evenness.ts';
import { growthOf } from './modes/growth.ts';
import { resultHtml } from './modes/html.ts';
import { Lane, type LaneMode } from './modes/lane.ts';
import { FORMAT, type Result } from './modes/result.ts';
import { measureRolling } from './modes/rolling.ts';
import { resultText } from './modes/text.ts';
import { describeMachine, lookForQuiet } from './support/quiet.ts';

type Skipped = { readonly mode: string; readonly reason: string };
type RunMode = Exclude<LaneMode, 'none'>;

const MODES: readonly RunMode[] = ['nft', 'ipvs', 'ebpf', 'ebpf-tc'];
const CPU = os.cpus().length - 1;
const QUIET_PATIENCE_MS = 20_000;
const EVENNESS_CALLS = 3000;

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Tries each mode by starting its agent on an empty cluster: what cannot run is named, not measured. */
async function runnableModes(args: BenchArguments): Promise<{ modes: RunMode[]; skipped: Skipped[] }> {
  const modes: RunMode[] = [];
  const skipped: Skipped[] = [];
  for (const mode of args.modes ?? MODES) {
    const lane = await Lane.create(mode, args.families, CPU);
    try {
      await lane.startAgent();
      modes.push(mode);
    } catch (error) {
      skipped.push({ mode, reason: lastLine((error as Error).message) });
    } finally {
      lane.close();
    }
  }
  return { modes, skipped };
}

/** The agent's last words, without the frame of its log. */
function lastLine(message: string): string {
  const line = message.trimEnd().split('\n').at(-1)!;
  return /"msg":"((?:[^"\\]|\\.)*)"/.exec(line)?.[1] ?? line.slice(0, 300);
}

async function dataLane(mode: LaneMode, services: number, args: BenchArguments): Promise<DataLane> {
  const lane = await Lane.create(mode, args.families, CPU);
  await lane.startLoad();
  if (mode !== 'none') {
    const { families } = args;
    writeManifest(lane.lab, 'cluster', clusterObjects({ services, families, backends: lane.backends() }));
    await lane.startAgent();
    for (const service of calledAmong(services)) await lane.routeBalancer(service);
  }
  return { lane, mode, services };
}

async function dataPath(modes: readonly RunMode[], args: BenchArguments) {
  const lanes: DataLane[] = [];
  try {
    // The second one of plain routing says how much is noise.
    lanes.push(await dataLane('none', 0, args), await dataLane('none', 0, args));
    for (const services of args.sizes) {
      for (const mode of modes) {
        say(`data path: ${mode}, ${services} services`);
        lanes.push(await dataLane(mode, services, args));
      }
    }
    const { rounds, calls } = args;
    const onRound = (round: number) => say(`data path: round ${round + 1} of ${rounds}`);
    const { rows, noise } = await measureData(lanes, { rounds, calls, onRound });
    const evenness = [];
    for (const { lane, mode, services } of lanes)
      if (mode !== 'none' && services === args.sizes.at(-1))
        evenness.push(await measureEvenness(lane, services - 1, EVENNESS_CALLS));
    return { data: rows, noise, evenness };
  } finally {
    for (const { lane } of lanes) lane.close();
  }
}

/** Sizes with the usual number of endpoints; the other numbers of endpoints at a middling size. */
function controlSizes({ sizes, endpoints }: BenchArguments): { services: number; endpoints: number }[] {
  const usual = endpoints.includes(10) ? 10 : endpoints[0]!;
  const middle = sizes[Math.min(sizes.length - 1, 2)]!;
  const others = endpoints.filter((count) => count !== usual);
  return [
    ...sizes.map((services) => ({ services, endpoints: usual })),
    ...others.map((count) => ({ services: middle, endpoints: count })),
  ];
}

async function controlPath(modes: readonly RunMode[], args: BenchArguments) {
  const control = [];
  const rolling = [];
  // Socket programs make no difference to the control path.
  const some = modes.filter((mode) => mode !== 'ebpf-tc');
  const { families, changes } = args;
  for (const size of controlSizes(args)) {
    const streamSeconds = size.services === args.sizes.at(-1) ? args.streamSeconds : 0;
    for (const mode of some) {
      say(`control path: ${mode}, ${size.services} services of ${size.endpoints} endpoints`);
      control.push(await measureControl(mode, { ...size, families, cpu: CPU, changes, streamSeconds }));
    }
  }
  if (families.includes(4)) {
    for (const mode of some) {
      say(`rolling update: ${mode}, ${args.rollingEndpoints} endpoints`);
      rolling.push(await measureRolling(mode, args.rollingEndpoints, CPU));
    }
  }
  return { control, rolling };
}

async function measure(args: BenchArguments): Promise<Result> {
  const began = performance.now();
  const startedAt = new Date().toISOString();
  const machine = describeMachine();
  const quietness = await lookForQuiet(QUIET_PATIENCE_MS);
  const { modes, skipped } = await runnableModes(args);
  say(`modes: ${modes.join(', ')}${skipped.map(({ mode }) => `; not ${mode}`).join('')}`);
  const none = { ratio: Number.NaN, low: Number.NaN, high: Number.NaN };
  const { data, noise, evenness } = args.parts.has('data')
    ? await dataPath(modes, args)
    : { data: [], noise: none, evenness: [] };
  const { control, rolling } = args.parts.has('control')
    ? await controlPath(modes, args)
    : { control: [], rolling: [] };
  return {
    format: FORMAT,
    program: version(),
    startedAt,
    seconds: Math.round((performance.now() - began) / 1000),
    machine,
    quietness,
    skipped,
    noise,
    data,
    evenness,
    control,
    rolling,
    growth: growthOf(control, data),
  };
}

function version(): string {
  return (JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as { version: string })
    .version;
}

function write(file: string, text: string): void {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  writeFileSync(file, text);
}

function compare([a, b]: readonly [string, string]): number {
  const read = (file: string) => parseResult(readFileSync(file, 'utf8'), file);
  const all = compareResults(read(a), read(b));
  process.stdout.write(comparisonText(all));
  return all.some(({ judgement }) => judgement === 'slower') ? 1 : 0;
}

async function main(): Promise<number> {
  const command = parseArguments(process.argv.slice(2));
  if (command.run === 'help') {
    process.stdout.write(USAGE);
    return 0;
  }
  if (command.run === 'compare') return compare(command.files);
  if (process.getuid?.() !== 0) throw new RangeError('needs root: it makes network namespaces');
  const result = await measure(command.with);
  process.stdout.write(`\n${resultText(result)}`);
  const { json, html } = command.with;
  if (json) write(json, `${JSON.stringify(result, null, 1)}\n`);
  if (html) write(html, resultHtml(result));
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  const known = error instanceof RangeError || (error as { code?: string }).code !== undefined;
  process.stderr.write(`bench: ${known ? (error as Error).message : ((error as Error).stack ?? error)}\n`);
  process.exitCode = 1;
}
