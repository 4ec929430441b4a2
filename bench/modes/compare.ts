/** Two runs beside each other: what is slower, what is faster, and what is noise. */
import type { Ratio } from '../support/ratio.ts';
import { formatTable } from '../support/table.ts';
import { type DataRow, dataName, FORMAT, type Result } from './result.ts';

/** Ratios to plain routing carry over from machine to machine; a difference below this is nobody's concern. */
const SHARE_MIN = 0.05;

export type Judgement = 'slower' | 'faster' | 'noise';

/** `b` against `a`: both are ratios to plain routing of their own run. */
export function judge(a: Ratio, b: Ratio): Judgement {
  const apart = b.low > a.high || b.high < a.low;
  if (!apart || Math.abs(b.ratio / a.ratio - 1) < SHARE_MIN) return 'noise';
  return b.ratio > a.ratio ? 'slower' : 'faster';
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

export function compareResults(a: Result, b: Result): Comparison[] {
  const old = new Map(a.data.filter((row) => row.mode !== 'none').map((row) => [dataName(row), row]));
  return b.data.flatMap((row: DataRow) => {
    const before = old.get(dataName(row));
    if (!before) return [];
    return [{ name: dataName(row), a: before, b: row, judgement: judge(before, row) }];
  });
}

export function comparisonText(all: readonly Comparison[]): string {
  const told = all.filter(({ judgement }) => judgement !== 'noise');
  const table = [['ratio to plain routing', 'before', 'after', '']];
  for (const { name, a, b, judgement } of told)
    table.push([name, a.ratio.toFixed(3), b.ratio.toFixed(3), judgement.toUpperCase()]);
  const count = (judgement: Judgement) => all.filter((one) => one.judgement === judgement).length;
  const sum = `${all.length} compared: ${count('slower')} slower, ${count('faster')} faster, ${count('noise')} within noise\n`;
  return told.length > 0 ? `${formatTable(table)}\n${sum}` : sum;
}
