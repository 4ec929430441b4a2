/** Two runs beside each other: what is slower, what is faster, and what is noise. */
import { type Ratio, ratioOfMedians } from '../support/ratio.ts';
import { formatTable } from '../support/table.ts';
import { isUneven } from './evenness.ts';
import { isKubeProxy } from './kube-proxy.ts';
import { isPlain, type LaneMode } from './lane-mode.ts';
import { dataName, FORMAT, type PacketRow, type Result } from './result.ts';

/** Ratios to plain routing carry over from machine to machine; a difference below this is nobody's concern. */
export const SHARE_MIN = 0.05;
/** Of the control path, which has no plain routing beside it and fewer samples. */
export const CONTROL_SHARE_MIN = 0.25;
/** Two shares of failed requests further apart than so many standard deviations are no chance. */
const DEVIATIONS_MIN = 3;

export type Judgement = 'slower' | 'faster' | 'noise';

/**
 * `b` against `a`: both are ratios to the same thing of their own run. Slower or faster is what stands outside of the
 * other's interval and differs by more than `share`.
 */
export function judge(a: Ratio, b: Ratio, share = SHARE_MIN): Judgement {
  const apart = b.low > a.high || b.high < a.low;
  if (!apart || Math.abs(b.ratio / a.ratio - 1) < share) return 'noise';
  return b.ratio > a.ratio ? 'slower' : 'faster';
}

/** How far plain routing was from itself: what differs less says nothing, whatever its own interval. */
export function noiseOf({ noise }: Result): number {
  const apart = Math.max(noise.high, 1 / noise.low) - 1;
  return Number.isFinite(apart) ? apart : 0;
}

export interface Comparison {
  readonly name: string;
  readonly a: Ratio;
  readonly b: Ratio;
  readonly judgement: Judgement;
}

/** Throws a RangeError for what is no result of this bench. */
export function parseResult(text: string, label: string): Result {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RangeError(`${label} is no JSON`);
  }
  const { format, data } = (value ?? {}) as Partial<Result>;
  if (format !== FORMAT || !Array.isArray(data))
    throw new RangeError(`${label} is no result of this bench (format ${FORMAT})`);
  return value as Result;
}

/** Rows of one kind by their names, ready to be compared. */
type Named = ReadonlyMap<string, Ratio>;

const dataRows = ({ data }: Result): Named =>
  new Map(data.filter((row) => !isPlain(row.mode)).map((row) => [dataName(row), row]));

function packetRows({ perPacket = [] }: Partial<Result>): Named {
  const nameOf = ({ hook, family, flows, what }: PacketRow) =>
    `packet, ${hook} IPv${family} ${what}, ${flows} flows`;
  return new Map(perPacket.map((row) => [nameOf(row), row]));
}

/**
 * Costs of the control path are times, which say nothing on another machine: they are told as ratios to the mode that
 * is the yardstick of its run, at the same size.
 */
function controlRows({ control }: Result, yardstick: LaneMode): Named {
  const rows = new Map<string, Ratio>();
  for (const row of control) {
    const base = control.find(
      (one) => one.mode === yardstick && one.services === row.services && one.endpoints === row.endpoints,
    );
    if (!base || row.mode === yardstick) continue;
    const at = `${row.mode} ${row.services} x ${row.endpoints}`;
    const single = (value: number) => ({ ratio: value, low: value, high: value });
    rows.set(`one change, ${at}`, ratioOfMedians(row.changeMs, base.changeMs));
    rows.set(`cold start, ${at}`, single(row.coldMs / base.coldMs));
    rows.set(`memory, ${at}`, single(row.residentMiB / base.residentMiB));
    if (row.stream && base.stream)
      rows.set(`processor time of a stream of changes, ${at}`, single(row.stream.cpu / base.stream.cpu));
  }
  return rows;
}

/** Shares of requests that failed in rolling updates, plus one, so that none at all can be compared with some. */
function rollingRows({ rolling }: Result): Named {
  return new Map(
    rolling.map(({ mode, endpoints, requests, failed }) => {
      const share = failed / requests;
      // Rule of three for none: below 3 / n.
      const deviation = Math.sqrt(Math.max(share * (1 - share), 1 / requests) / requests);
      const far = (DEVIATIONS_MIN / 2) * deviation;
      const row = { ratio: 1 + share, low: 1 + share - far, high: 1 + share + far };
      return [`requests and failures, rolling update of ${endpoints}, ${mode}`, row] as const;
    }),
  );
}

function compareRows(a: Named, b: Named, share: number): Comparison[] {
  return [...b].flatMap(([name, after]) => {
    const before = a.get(name);
    return before ? [{ name, a: before, b: after, judgement: judge(before, after, share) }] : [];
  });
}

/** A mode that both runs have measured in the control path: kube-proxy, which we do not change, before one of ours. */
export function yardstickOf(a: Result, b: Result): LaneMode | null {
  const modes = new Set(a.control.map(({ mode }) => mode));
  const both = b.control.map(({ mode }) => mode).filter((mode) => modes.has(mode));
  return both.find(isKubeProxy) ?? null;
}

export function compareResults(a: Result, b: Result): Comparison[] {
  const share = Math.max(SHARE_MIN, noiseOf(a), noiseOf(b));
  const yardstick = a.source === b.source ? yardstickOf(a, b) : null;
  return [
    ...compareRows(dataRows(a), dataRows(b), share),
    ...compareRows(packetRows(a), packetRows(b), CONTROL_SHARE_MIN),
    ...(yardstick
      ? compareRows(controlRows(a, yardstick), controlRows(b, yardstick), CONTROL_SHARE_MIN)
      : []),
    ...compareRows(rollingRows(a), rollingRows(b), 0),
  ];
}

/** Of all rows that a run has. */
export function namesOf(result: Result): string[] {
  return [
    ...[dataRows, packetRows, rollingRows].flatMap((rows) => [...rows(result).keys()]),
    ...result.control.map((row) => `control path, ${row.mode} ${row.services} x ${row.endpoints}`),
  ];
}

/** Names of rows of `a` that `b` was asked for and has not: what failed is not what became no slower. */
export function missingRows(a: Result, b: Result): string[] {
  const { asked } = b;
  if (!asked) return [];
  const has = <T>(list: readonly T[], value: T) => list.includes(value);
  const wanted: Result = {
    ...a,
    data: a.data.filter(
      ({ mode, services, family }) =>
        has(asked.parts, 'data') &&
        has(asked.modes, mode) &&
        has(asked.sizes, services) &&
        has(asked.families, family),
    ),
    perPacket: a.perPacket.filter(
      ({ family, flows }) =>
        has(asked.parts, 'packet') && has(asked.families, family) && has(asked.packetFlows, flows),
    ),
    rolling: a.rolling.filter(({ mode }) => has(asked.parts, 'rolling') && has(asked.modes, mode)),
    control: a.control.filter(
      ({ mode, services, endpoints }) =>
        has(asked.parts, 'control') &&
        has(asked.modes, mode) &&
        has(asked.sizes, services) &&
        has(asked.endpoints, endpoints),
    ),
  };
  const found = new Set(namesOf(b));
  return namesOf(wanted).filter((name) => !found.has(name));
}

/** Names of modes that spread connections unevenly in `b` alone. */
export function newlyUneven(a: Result, b: Result): string[] {
  const before = new Set(a.evenness.filter(isUneven).map(({ mode }) => mode));
  return b.evenness.filter((row) => isUneven(row) && !before.has(row.mode)).map(({ mode }) => mode);
}

const wordsOf = ({ ratio, low, high }: Ratio) => [
  ratio.toFixed(3),
  low === high ? 'once' : `${low.toFixed(3)}..${high.toFixed(3)}`,
];

export function comparisonText(all: readonly Comparison[], wrong: readonly string[] = []): string {
  const told = all.filter(({ judgement }) => judgement !== 'noise');
  const table = [['ratio', 'before', 'interval', 'after', 'interval', 'after/before', '']];
  for (const { name, a, b, judgement } of told) {
    const change = (b.ratio / a.ratio).toFixed(2);
    table.push([name, ...wordsOf(a), ...wordsOf(b), change, judgement.toUpperCase()]);
  }
  const count = (judgement: Judgement) => all.filter((one) => one.judgement === judgement).length;
  const sum = `${all.length} compared: ${count('slower')} slower, ${count('faster')} faster, ${count('noise')} within noise\n`;
  const also = wrong.map((line) => `${line}\n`).join('');
  return told.length > 0 ? `${formatTable(table)}\n${also}${sum}` : also + sum;
}
