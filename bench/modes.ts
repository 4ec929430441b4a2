/**
 * `triplane bench`, `npm run bench`: every mode that this kernel can run beside plain routing, in one
 * interleaved run. See bench/modes/arguments.ts for what it takes.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { packageRoot } from '../src/node/native.ts';
import {
  type BenchArguments,
  type BenchCommand,
  controlSizes,
  parseArguments,
  USAGE,
} from './modes/arguments.ts';
import { calledAmong, clusterObjects, FAKE_ENDPOINTS } from './modes/cluster.ts';
import { compareResults, comparisonText, missingRows, newlyUneven, parseResult } from './modes/compare.ts';
import { comparisonHead } from './modes/compare-head.ts';
import { measureControl } from './modes/control-path.ts';
import { type DataLane, measureData } from './modes/data-path.ts';
import { measureEvenness } from './modes/evenness.ts';
import { growthOf } from './modes/growth.ts';
import { resultHtml } from './modes/html.ts';
import { isKubeProxy, missingTools } from './modes/kube-proxy.ts';
import { Lane } from './modes/lane.ts';
import { isPacketVariant, isPlain, isUntracked, type LaneMode, type RunMode } from './modes/lane-mode.ts';
import { lastLine } from './modes/last-words.ts';
import {
  type Asked,
  type ControlRow,
  FORMAT,
  type Result,
  type RollingRow,
  resultJson,
} from './modes/result.ts';
import { expectRival, type Rival, startRival, versionOf } from './modes/rival.ts';
import { measureRolling } from './modes/rolling.ts';
import { resultText } from './modes/text.ts';
import { measurePackets } from './per-packet/measure.ts';
import { Progress } from './support/progress.ts';
import { describeMachine, headline, lookForQuiet } from './support/quiet.ts';
import { UNKNOWN } from './support/ratio.ts';

type Skipped = { readonly mode: string; readonly reason: string };

const CPU = os.cpus().length - 1;
const QUIET_PATIENCE_MS = 20_000;
const EVENNESS_CALLS = 3000;

const progress = new Progress((line) => process.stderr.write(`${line}\n`));

const reasonOf = (error: unknown) => lastLine((error as Error).message);

/** Tries each mode with a cluster of one service: what cannot run is named, not measured. */
async function runnableModes(
  args: BenchArguments,
  rival: Rival | null,
): Promise<{ modes: RunMode[]; skipped: Skipped[] }> {
  const modes: RunMode[] = [];
  const skipped: Skipped[] = [];
  for (const mode of args.modes) {
    const missing = isKubeProxy(mode) ? missingTools(mode) : '';
    try {
      if (missing !== '') throw new Error(missing);
      const { lane } = await dataLane(mode, 1, args, rival);
      await lane.close();
      modes.push(mode);
    } catch (error) {
      skipped.push({ mode, reason: reasonOf(error) });
    }
  }
  return { modes, skipped };
}

async function dataLane(
  mode: LaneMode,
  services: number,
  args: BenchArguments,
  rival: Rival | null,
): Promise<DataLane> {
  const { families } = args;
  const lane = await Lane.create(mode, families, CPU, isKubeProxy(mode) ? rival : null);
  try {
    await lane.startLoad();
    if (mode === 'none-nat') {
      lane.translate();
      await lane.routeBalancer(0);
    } else if (!isPlain(mode)) {
      await lane.feed.show('cluster', clusterObjects({ services, families, backends: lane.backends() }));
      await lane.startProxy({ services, endpoints: FAKE_ENDPOINTS });
      await lane.ready();
      await lane.carries(services);
      await lane.leaveRules();
      for (const service of calledAmong(services)) await lane.routeBalancer(service);
    }
  } catch (error) {
    await lane.close();
    throw error;
  }
  return { lane, mode, services };
}

async function dataPath(modes: readonly RunMode[], args: BenchArguments, rival: Rival | null) {
  const lanes: DataLane[] = [];
  const skipped: Skipped[] = [];
  try {
    // The second one of plain routing says how much is noise.
    for (let i = 0; i < 2; i++) lanes.push(await dataLane('none', 0, args, null));
    lanes.push(await dataLane('none-nat', 1, args, null));
    if (modes.some(isUntracked)) lanes.push(await dataLane('none-untracked', 0, args, null));
    progress.begin(args.sizes.length * modes.length);
    for (const services of args.sizes) {
      for (const mode of modes) {
        progress.step(`data path: a lane for ${mode}, ${services} services`);
        try {
          lanes.push(await dataLane(mode, services, args, rival));
        } catch (error) {
          skipped.push({ mode: `${mode}, data path at ${services} services`, reason: reasonOf(error) });
        }
      }
    }
    const { rounds, calls } = args;
    // The first round is for warming up.
    progress.begin(rounds + 1, true);
    const onRound = () => progress.step('data path: round');
    const { rows, noise, broken } = await measureData(lanes, { rounds, calls, onRound });
    skipped.push(...broken.map((reason) => ({ mode: 'data path', reason })));
    const evenness = [];
    for (const { lane, mode, services } of lanes)
      if (!isPlain(mode) && services === args.sizes.at(-1))
        evenness.push(await measureEvenness(lane, services - 1, EVENNESS_CALLS));
    return { data: rows, noise, evenness, skipped };
  } finally {
    for (const { lane } of lanes) await lane.close();
  }
}

/** `keep` gets what there is after each row: of a large cluster one may take minutes. */
async function controlPath(
  modes: readonly RunMode[],
  args: BenchArguments,
  rival: Rival | null,
  keep: (part: Partial<Result>) => void,
): Promise<void> {
  const control: ControlRow[] = [];
  const { families, changes } = args;
  const sizes = controlSizes(args);
  progress.begin(sizes.length * agentsOf(modes).length);
  for (const size of sizes) {
    const options = { ...size, families, cpu: CPU, changes, streamSeconds: args.streamSeconds, rival };
    for (const mode of agentsOf(modes)) {
      const what = `control path: ${mode}, ${size.services} services of ${size.endpoints} endpoints`;
      const skipped = await attempt(what, async () => control.push(await measureControl(mode, options)));
      keep({ control, skipped });
    }
  }
}

async function rollingUpdates(
  modes: readonly RunMode[],
  { families, rollingEndpoints: endpoints }: BenchArguments,
  rival: Rival | null,
  keep: (part: Partial<Result>) => void,
): Promise<void> {
  if (!families.includes(4)) return;
  const rolling: RollingRow[] = [];
  progress.begin(agentsOf(modes).length, true);
  for (const mode of agentsOf(modes)) {
    const skipped = await attempt(`rolling update: ${mode}, ${endpoints} endpoints`, async () =>
      rolling.push(await measureRolling(mode, { endpoints, cpu: CPU, rival })),
    );
    keep({ rolling, skipped });
  }
}

function agentsOf(modes: readonly RunMode[]): RunMode[] {
  return modes.filter((mode) => !isPacketVariant(mode));
}

async function attempt(what: string, work: () => Promise<unknown>): Promise<Skipped[]> {
  progress.step(what);
  try {
    await work();
    return [];
  } catch (error) {
    return [{ mode: what, reason: reasonOf(error) }];
  }
}

/** `keep` gets what there is after each part, so that an hour is not lost when the rest is interrupted. */
async function measure(args: BenchArguments, keep: (result: Result) => void): Promise<void> {
  const began = performance.now();
  const machine = describeMachine();
  const quietness = await lookForQuiet(QUIET_PATIENCE_MS);
  process.stderr.write(`${headline(machine, quietness)}\n`);
  progress.say(`parts: ${[...args.parts].join(', ')}`);
  let result: Result = {
    ...{ format: FORMAT, program: version(), startedAt: new Date().toISOString(), seconds: 0 },
    ...{
      asked: askedOf(args),
      machine,
      quietness,
      skipped: [],
      noise: UNKNOWN,
      data: [],
      evenness: [],
      perPacket: [],
    },
    ...{ source: args.kubeProxy === null ? 'manifests' : 'API server', control: [], rolling: [], growth: [] },
  };
  const take = ({ skipped = [], ...part }: Partial<Result>) => {
    result = { ...result, ...part, skipped: [...result.skipped, ...skipped] };
    const seconds = Math.round((performance.now() - began) / 1000);
    keep({ ...result, seconds, growth: growthOf(result.control, result.data) });
  };
  if (args.parts.has('packet')) take(await packets(args));
  const rival = args.kubeProxy === null ? null : await startRival(args.kubeProxy);
  try {
    const { modes, skipped } = await runnableModes(args, rival);
    progress.say(`modes: ${modes.join(', ')}${skipped.map(({ mode }) => `; not ${mode}`).join('')}`);
    take({ skipped });
    if (args.parts.has('data')) take(await dataPath(modes, args, rival));
    if (args.parts.has('control')) await controlPath(modes, args, rival, take);
    if (args.parts.has('rolling')) await rollingUpdates(modes, args, rival, take);
  } finally {
    await rival?.api.stop();
  }
}

/** Where the programs cannot be made or run, that is the reason and the rest goes on. */
async function packets({ families, packetFlows }: BenchArguments) {
  try {
    return {
      perPacket: await measurePackets({ families, flows: packetFlows, say: (line) => progress.say(line) }),
    };
  } catch (error) {
    return { skipped: [{ mode: 'per packet', reason: reasonOf(error) }] };
  }
}

function version(): string {
  return (JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as { version: string })
    .version;
}

function askedOf(args: BenchArguments): Asked {
  const { sizes, modes, families, parts, endpoints, packetFlows, rounds, calls, kubeProxy } = args;
  const rival = kubeProxy === null ? null : versionOf(kubeProxy);
  return {
    sizes,
    modes,
    families,
    parts: [...parts],
    endpoints,
    packetFlows,
    rounds,
    calls,
    kubeProxy: rival,
  };
}

function write(file: string, text: string, flag: 'a' | 'w' = 'w'): void {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  writeFileSync(file, text, { flag });
}

/** What cannot be written is told before an hour of measuring, not after it. */
function expectWritable(flag: string, file: string): void {
  const there = existsSync(file);
  try {
    write(file, '', 'a');
  } catch (error) {
    throw new RangeError(`--${flag}: ${(error as Error).message}`);
  }
  if (!there) rmSync(file);
}

function compare([a, b]: readonly [string, string]): number {
  const read = (file: string) => parseResult(readFileSync(file, 'utf8'), file);
  const [before, after] = [read(a), read(b)];
  const all = compareResults(before, after);
  const wrong = [
    ...missingRows(before, after).map((name) => `NOT MEASURED any more: ${name}`),
    ...newlyUneven(before, after).map((mode) => `UNEVEN spread over backends: ${mode}`),
  ];
  if (all.length + wrong.length === 0)
    throw new RangeError(
      `${a} and ${b} have no row that can be compared (of the control path only those beside kube-proxy can)`,
    );
  process.stdout.write(`${comparisonHead({ file: a, result: before }, { file: b, result: after })}\n`);
  process.stdout.write(comparisonText(all, wrong));
  return wrong.length > 0 || all.some(({ judgement }) => judgement === 'slower') ? 1 : 0;
}

function understand(args: readonly string[]): BenchCommand {
  try {
    return parseArguments(args);
  } catch (error) {
    throw new RangeError(`${(error as Error).message} (triplane bench --help)`);
  }
}

async function main(): Promise<number> {
  const command = understand(process.argv.slice(2));
  if (command.run === 'help') {
    process.stdout.write(USAGE);
    return 0;
  }
  if (command.run === 'compare') return compare(command.files);
  if (process.getuid?.() !== 0) throw new RangeError('needs root: it makes network namespaces');
  const { json, html, kubeProxy } = command.with;
  if (json) expectWritable('json', json);
  if (html) expectWritable('html', html);
  if (kubeProxy !== null) expectRival(kubeProxy);
  let last = '';
  process.on('exit', (code) => {
    if (code <= 128) return;
    const kept = [json, html].filter((file) => file !== null && last !== '');
    const where = kept.length > 0 ? `; what was measured is in ${kept.join(', ')}` : '';
    process.stderr.write(`bench: interrupted, its namespaces are removed${where}\n`);
  });
  await measure(command.with, (result) => {
    last = resultText(result);
    if (json) write(json, resultJson(result));
    if (html) write(html, resultHtml(result));
  });
  process.stdout.write(`\n${last}`);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  const known = error instanceof RangeError || (error as { code?: string }).code !== undefined;
  process.stderr.write(`bench: ${known ? (error as Error).message : ((error as Error).stack ?? error)}\n`);
  process.exitCode = 1;
}
