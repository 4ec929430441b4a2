/** What a call costs in each lane, beside the same call through plain routing. */
import type { Family } from '../../src/model/records.ts';
import { type Histogram, histogramQuantile, merge, middleOf } from '../support/histogram.ts';
import { pairedRatioOf, type Ratio, typical, UNKNOWN } from '../support/ratio.ts';
import { calledAmong } from './cluster.ts';
import type { Lane, Target } from './lane.ts';
import { isTranslated, type LaneMode } from './lane-mode.ts';
import type { DataKind, DataRow } from './result.ts';

/** One lane as the data path sees it. */
export interface DataLane {
  readonly lane: Lane;
  readonly mode: LaneMode;
  readonly services: number;
}

interface Measurement {
  readonly in: DataLane;
  readonly target: Target;
  readonly which: string;
  readonly kind: DataKind;
  /** Same call without a proxy. */
  readonly base: Measurement | null;
  /** ns a call, one for each round. */
  readonly samples: number[];
  /** The same of `base`, made meanwhile. */
  readonly beside: number[];
  readonly histogram: Map<number, number>;
  /** Calls without an answer, in all tries. */
  failed: number;
}

const KINDS: readonly DataKind[] = ['tcp', 'udp', 'tcp-rr', 'udp-rr', 'stream'];
/** MiB in one connection. */
const STREAM_MIB = 64;
/** Shares of calls at which a curve has its points: what a plot needs, and more of them at the far end. */
const CURVE_SHARES = [
  ...[0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
  ...[0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1],
];
const ITSELF: Ratio = { ratio: 1, low: 1, high: 1 };
/** Calls without a proxy and with it in turns of some milliseconds: however the machine's speed drifts, it hits both alike. */
const SLICES = ['base', 'own', 'own', 'base'] as const;

function targetsOf({ mode, services }: DataLane, family: Family): { target: Target; which: string }[] {
  if (!isTranslated(mode))
    return (['pod', 'pod from outside'] as const).map((kind) => ({
      target: { kind, family, service: -1, place: -1 },
      which: '',
    }));
  const called = calledAmong(services);
  const names =
    called.length === 1 ? [''] : called.length === 2 ? ['first', 'last'] : ['first', 'middle', 'last'];
  return called.flatMap((service, place) => {
    const kinds =
      place === called.length - 1
        ? (['ClusterIP', 'NodePort', 'LoadBalancer'] as const)
        : (['ClusterIP'] as const);
    return kinds.map((kind) => ({ target: { kind, family, service, place }, which: names[place]! }));
  });
}

/** A stream needs a second port, which no NodePort stands for; only new connections look at the table's size. */
function isAsked(kind: DataKind, { kind: target }: Target, which: string, services: number): boolean {
  if (kind === 'stream' && target === 'NodePort') return false;
  if (kind === 'tcp' || kind === 'udp') return true;
  return which === '' || which === 'last' || services === 1;
}

function plan(lanes: readonly DataLane[]): Measurement[] {
  const all: Measurement[] = [];
  for (const lane of lanes) {
    for (const family of lane.lane.families) {
      for (const { target, which } of targetsOf(lane, family)) {
        for (const kind of KINDS) {
          if (!isAsked(kind, target, which, lane.services)) continue;
          const outside = target.kind !== 'ClusterIP' && target.kind !== 'pod';
          const base = all.find(
            (one) =>
              one.in === lanes[0] &&
              one.kind === kind &&
              one.target.family === family &&
              one.target.kind === (outside ? 'pod from outside' : 'pod'),
          );
          const histogram = new Map<number, number>();
          all.push({
            in: lane,
            target,
            which,
            kind,
            base: base ?? null,
            samples: [],
            beside: [],
            histogram,
            failed: 0,
          });
        }
      }
    }
  }
  return all;
}

/** [latency in us, share of calls up to it], at most one point for each of CURVE_SHARES. */
export function curveOf(histogram: Histogram): [number, number][] {
  const buckets = [...histogram].sort(([a], [b]) => a - b);
  const total = buckets.reduce((sum, [, n]) => sum + n, 0);
  const curve: [number, number][] = [];
  let seen = 0;
  let next = 0;
  for (const [bucket, n] of buckets) {
    seen += n;
    const share = seen / total;
    if (share < CURVE_SHARES[next]!) continue;
    curve.push([Number((middleOf(bucket) / 1000).toPrecision(4)), Number(share.toFixed(5))]);
    while (next < CURVE_SHARES.length && CURVE_SHARES[next]! <= share) next++;
  }
  return curve;
}

function rowOf(one: Measurement): DataRow {
  const { kind, target, which, histogram } = one;
  const { mode, services } = one.in;
  const us = (share: number) => Number((histogramQuantile(histogram, share) / 1000).toPrecision(4));
  const quiet = kind === 'stream';
  return {
    ...{ mode, services, target: target.kind, which, family: target.family, kind },
    ...(one.base ? pairedRatioOf(one.beside, one.samples) : ITSELF),
    us: typical(one.samples) / 1000,
    p50: quiet ? null : us(0.5),
    p99: quiet ? null : us(0.99),
    p999: quiet ? null : us(0.999),
    curve: curveOf(histogram),
    ...(one.failed > 0 ? { failed: one.failed } : {}),
  };
}

export interface DataOptions {
  readonly rounds: number;
  readonly calls: number;
  /** Before each round, of which the first one is for warming up. */
  readonly onRound: () => void;
}

function callsOf(kind: DataKind, calls: number): number {
  if (kind === 'stream') return STREAM_MIB;
  return kind === 'tcp-rr' || kind === 'udp-rr' ? calls * 2 : calls;
}

/** A try in which a call fails is made again, so often. */
const TRIES = 3;

/** One sample of it, and one of the same call without a proxy. Throws when calls go on to fail, of whichever of the two. */
async function sample(one: Measurement, calls: number): Promise<void> {
  let failing: Measurement | null = one;
  for (let left = TRIES; left > 0 && failing; left--) failing = await takeSample(one, calls);
  if (!failing) return;
  const { in: lane, kind, target, failed } = failing;
  const what = `${kind} calls to a ${target.kind} of IPv${target.family}`;
  throw new Error(
    failing === one
      ? `${lane.mode}: ${what} fail: ${failed}`
      : `${one.in.mode}: left out, since without a proxy ${what} fail: ${failed}`,
  );
}

/** Whose calls failed, of which nothing is kept but their number; null: none did. */
async function takeSample(one: Measurement, calls: number): Promise<Measurement | null> {
  const histograms: Histogram[] = [];
  const took = { base: 0, own: 0 };
  for (const side of SLICES) {
    const from = side === 'base' ? one.base : one;
    if (!from) continue;
    const { nanoseconds, failed, histogram } = await from.in.lane.call(
      one.kind,
      from.target,
      Math.ceil(callsOf(one.kind, calls) / 2),
    );
    if (failed > 0) {
      from.failed += failed;
      return from;
    }
    took[side] += nanoseconds / 2;
    if (side === 'own') histograms.push(histogram);
  }
  for (const histogram of histograms) merge(one.histogram, histogram);
  one.samples.push(took.own);
  if (one.base) one.beside.push(took.base);
  return null;
}

/** The first round is for warming up. */
function forget({ samples, beside, histogram }: Measurement): void {
  samples.length = 0;
  beside.length = 0;
  histogram.clear();
}

/**
 * Measures all lanes in turns. The first lane must be plain routing; a second one of plain routing is the noise.
 */
export async function measureData(
  lanes: readonly DataLane[],
  { rounds, calls, onRound }: DataOptions,
): Promise<{ rows: DataRow[]; noise: Ratio; broken: string[] }> {
  let all = plan(lanes);
  const broken: string[] = [];
  /** What goes on to fail is named and left out: the rest of an hour is not lost with it. */
  const attempt = async (one: Measurement) => {
    try {
      await sample(one, calls);
    } catch (error) {
      broken.push((error as Error).message);
      all = all.filter((other) => other !== one);
    }
  };
  for (let round = -1; round < rounds; round++) {
    onRound();
    for (const kind of KINDS) {
      const some = all.filter((one) => one.kind === kind);
      // Every other round the other way about: what drifts hits all alike.
      for (const one of round % 2 === 0 ? some : some.toReversed()) await attempt(one);
    }
    if (round < 0) all.forEach(forget);
  }
  const again = all.filter((one) => one.in !== lanes[0] && one.in.mode === 'none');
  const ratios = again.map((one) => pairedRatioOf(one.beside, one.samples).ratio);
  const noise =
    ratios.length === 0
      ? UNKNOWN
      : { ratio: typical(ratios), low: Math.min(...ratios), high: Math.max(...ratios) };
  return { rows: all.map(rowOf), noise, broken };
}
