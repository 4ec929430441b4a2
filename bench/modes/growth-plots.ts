/** Growth curves of a run: costs against the size of the cluster. */
import { lookOf } from './look.ts';
import { type Axes, figure, linePlot, type Point, type Series } from './plot.ts';
import type { ControlRow, Result } from './result.ts';

const countOf = <T>(values: readonly T[]) => new Set(values).size;

/** A new connection to the last service, beside plain routing. '' with one size. */
export function dataGrowthFigure({ data }: Result): string {
  const family = data[0]?.family;
  const rows = data.filter(
    (row) =>
      row.kind === 'tcp' &&
      row.target === 'ClusterIP' &&
      row.family === family &&
      row.services > 0 &&
      row.mode !== 'none-nat' &&
      (row.which === 'last' || row.which === ''),
  );
  if (countOf(rows.map(({ services }) => services)) < 2) return '';
  const series = [...new Set(rows.map(({ mode }) => mode))].map((mode): Series => {
    const mine = rows.filter((row) => row.mode === mode).sort((a, b) => a.services - b.services);
    const points = mine.map(({ services, ratio, low, high }) => ({ x: services, y: ratio, low, high }));
    return { name: mode, look: lookOf(mode), points };
  });
  const axes = {
    x: { name: 'services', scale: 'log' },
    y: { name: 'times plain routing', scale: 'linear' },
  } as const;
  return figure(
    `New TCP connection to a ClusterIP, IPv${family}, with 95% intervals`,
    linePlot(series, axes),
  );
}

interface Way {
  readonly name: string;
  readonly rows: readonly ControlRow[];
  readonly of: (row: ControlRow) => number;
  /** Where these grow. */
  readonly at: string;
}

/** Over the sizes, with the usual number of endpoints; over the endpoints, where a size has been measured with several. */
function waysOf({ control }: Result): Way[] {
  const usual = control[0]?.endpoints;
  const largest = Math.max(
    0,
    ...control.filter((row) => row.endpoints !== usual).map(({ services }) => services),
  );
  return [
    {
      ...{ name: 'services', at: `${usual} endpoints a service` },
      rows: control.filter((row) => row.endpoints === usual),
      of: (row: ControlRow) => row.services,
    },
    {
      ...{ name: 'endpoints of a service', at: `${largest} services` },
      rows: control.filter((row) => row.services === largest),
      of: (row: ControlRow) => row.endpoints,
    },
  ].filter(({ rows, of }) => countOf(rows.map(of)) > 1);
}

/** Cost against the number of services and of endpoints, for every mode. */
export function controlGrowthFigures(result: Result): string[] {
  return waysOf(result).flatMap(({ name, rows, of, at }) => {
    const plot = (title: string, unit: string, pointOf: (row: ControlRow) => Omit<Point, 'x'>) => {
      const series = [...new Set(rows.map(({ mode }) => mode))].map((mode): Series => {
        const mine = rows.filter((row) => row.mode === mode).sort((a, b) => of(a) - of(b));
        return {
          name: mode,
          look: lookOf(mode),
          points: mine.map((row) => ({ x: of(row), ...pointOf(row) })),
        };
      });
      const axes: Axes = { x: { name, scale: 'log' }, y: { name: unit, scale: 'log' } };
      return figure(`${title}, ${at}`, linePlot(series, axes));
    };
    return [
      plot('Cold start', 'ms', (row) => ({ y: row.coldMs })),
      plot('One change, p50 and up to p99', 'ms', ({ changeMs: { p50, p99 } }) => ({
        y: p50,
        low: p50,
        high: p99,
      })),
      plot('Resident memory', 'MiB', (row) => ({ y: row.residentMiB })),
    ];
  });
}
