/** How costs grow with the number of services: a straight line through what was measured, by least squares. */
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
const CONTROL: readonly Cost[] = [
  { cost: 'cold start', unit: 'ms', of: (row) => row.coldMs },
  { cost: 'one change, p50', unit: 'ms', of: (row) => row.changeMs.p50 },
  { cost: 'resident memory', unit: 'MiB', of: (row) => row.residentMiB },
];

export function growthOf(control: readonly ControlRow[], data: readonly DataRow[]): GrowthRow[] {
  const modes = [...new Set([...control, ...data].map(({ mode }) => mode))].filter((mode) => !isPlain(mode));
  const rows: GrowthRow[] = [];
  for (const mode of modes) {
    const add = (cost: string, unit: string, points: readonly (readonly [number, number])[]) => {
      const line = fitLine(points);
      if (!line) return;
      const exponent = exponentOf(points);
      rows.push({ mode, cost, unit, base: line.base, slope: line.slope * 1000, exponent });
    };
    // Other numbers of endpoints are measured at one size only, and are no part of how that grows.
    const mine = control.filter((row) => row.mode === mode && row.endpoints === control[0]!.endpoints);
    for (const { cost, unit, of } of CONTROL)
      add(
        cost,
        unit,
        mine.map((row) => [row.services, of(row)]),
      );
    const calls = data.filter(
      (row) => row.mode === mode && row.kind === 'tcp' && row.target === 'ClusterIP' && row.family === 4,
    );
    add(
      'new connection, ClusterIP',
      'us',
      calls.map((row) => [row.services, row.us]),
    );
  }
  return rows;
}
