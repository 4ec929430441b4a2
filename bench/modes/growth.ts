/** How costs grow with the number of services: a straight line through what was measured, by least squares. */
import { type Ratio, ratioOfMedians } from '../support/ratio.ts';
import { isPlain } from './lane-mode.ts';
import type { ControlRow, DataRow, GrowthRow } from './result.ts';

/** The line through the points; null with fewer than two different x. */
export function fitLine(
  points: readonly (readonly [number, number])[],
): { base: number; slope: number } | null {
  const n = points.length;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / n;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / n;
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  if (n < 2 || spread === 0) return null;
  const slope = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / spread;
  return { base: meanY - slope * meanX, slope };
}

/** Below it, what does not depend on services hides what does. */
const EXPONENT_FROM = 100;

/** The slope in logarithms: cost ~ services ** exponent. */
export function exponentOf(points: readonly (readonly [number, number])[]): number | null {
  const some = points.filter(([x, y]) => x >= EXPONENT_FROM && y > 0);
  return fitLine(some.map(([x, y]) => [Math.log(x), Math.log(y)]))?.slope ?? null;
}

interface Cost {
  readonly cost: string;
  readonly unit: string;
  readonly of: (row: ControlRow) => number;
}
const ONE_CHANGE: Cost = { cost: 'one change, p50', unit: 'ms', of: (row) => row.changeMs.p50 };
const CONTROL: readonly Cost[] = [
  { cost: 'cold start', unit: 'ms', of: (row) => row.coldMs },
  ONE_CHANGE,
  { cost: 'resident memory', unit: 'MiB', of: (row) => row.residentMiB },
];

/** The first and the last by size. */
function ends<T extends { readonly services: number }>(rows: readonly T[]): [T, T] | null {
  const sorted = rows.toSorted((a, b) => a.services - b.services);
  const [first, last] = [sorted[0], sorted.at(-1)];
  return first && last && first.services < last.services ? [first, last] : null;
}

/** Both intervals allow for it. */
function quotient(row: Ratio, base: Ratio): Ratio {
  return { ratio: row.ratio / base.ratio, low: row.low / base.high, high: row.high / base.low };
}

export function growthOf(control: readonly ControlRow[], data: readonly DataRow[]): GrowthRow[] {
  const modes = [...new Set([...control, ...data].map(({ mode }) => mode))].filter((mode) => !isPlain(mode));
  const rows: GrowthRow[] = [];
  for (const mode of modes) {
    const add = (
      what: { readonly cost: string; readonly unit: string },
      points: readonly (readonly [number, number])[],
      factor: Ratio | null,
    ) => {
      const line = fitLine(points);
      if (!line) return;
      const { cost, unit } = what;
      const exponent = exponentOf(points);
      const more = factor ? { factor } : {};
      rows.push({ mode, cost, unit, base: line.base, slope: line.slope * 1000, exponent, ...more });
    };
    // Other numbers of endpoints are measured at one size only, and are no part of how that grows.
    const mine = control.filter((row) => row.mode === mode && row.endpoints === control[0]!.endpoints);
    const both = ends(mine);
    for (const cost of CONTROL) {
      const points = mine.map((row) => [row.services, cost.of(row)] as const);
      const factor = cost === ONE_CHANGE && both ? ratioOfMedians(both[1].changeMs, both[0].changeMs) : null;
      add(cost, points, factor);
    }
    const calls = data.filter(
      (row) =>
        row.mode === mode &&
        row.kind === 'tcp' &&
        row.target === 'ClusterIP' &&
        row.family === data[0]!.family,
    );
    // The last service, which is the only one with one service.
    const lasts = ends(calls.filter(({ which }) => which === 'last' || which === ''));
    add(
      { cost: 'new connection, ClusterIP', unit: 'us' },
      calls.map((row) => [row.services, row.us]),
      lasts && quotient(lasts[1], lasts[0]),
    );
  }
  return rows;
}
