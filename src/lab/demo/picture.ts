/** Shares as bars, load as a timeline, facts as a table. Pure. */
import type { LoadInterval } from '../results.ts';

const BAR_COLUMNS = 40;
const LEVELS = ' ▁▂▃▄▅▆▇█';

/** One line a name: its bar, share and count. */
export function shareBars(
  counts: Readonly<Record<string, number>>,
  names: readonly string[],
  total: number,
): string[] {
  const wide = Math.max(...names.map((name) => name.length));
  return names.map((name) => {
    const count = counts[name] ?? 0;
    const share = total ? count / total : 0;
    const full = Math.round(share * BAR_COLUMNS);
    const bar = '█'.repeat(full) + '░'.repeat(BAR_COLUMNS - full);
    return `  ${name.padEnd(wide)}  ${bar} ${(share * 100).toFixed(1).padStart(5)}%  ${String(count).padStart(5)}`;
  });
}

/** Adds counts up. */
export function addCounts(to: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(more)) to[name] = (to[name] ?? 0) + count;
}

/** A row for each pod and one for failures; a column for each interval. */
export class Timeline {
  readonly #names: readonly string[];
  readonly #columns: number;
  readonly #intervals: LoadInterval[] = [];
  readonly #marks = new Map<number, string>();

  constructor(names: readonly string[], columns: number) {
    this.#names = names;
    this.#columns = columns - Math.max(...names.map((name) => name.length), 6) - 4;
  }

  add(interval: LoadInterval): void {
    this.#intervals.push(interval);
  }

  /** Puts a letter above the column of this moment. */
  mark(letter: string): void {
    this.#marks.set(this.#intervals.length, letter);
  }

  lines(): string[] {
    const shown = this.#intervals.slice(-this.#columns);
    const skipped = this.#intervals.length - shown.length;
    const most = Math.max(1, ...shown.flatMap((interval) => Object.values(interval.pods)));
    const wide = Math.max(...this.#names.map((name) => name.length), 6);
    const row = (name: string, cell: (interval: LoadInterval) => string) =>
      `  ${name.padEnd(wide)}  ${shown.map(cell).join('')}`;
    const marks = shown.map((_, i) => this.#marks.get(i + skipped) ?? ' ').join('');
    const level = (count: number) => LEVELS[Math.ceil((count / most) * (LEVELS.length - 1))]!;
    const failed = ({ outcomes }: LoadInterval) =>
      Object.values(outcomes).reduce((sum, n) => sum + n, 0) - outcomes.ok;
    return [
      `  ${' '.repeat(wide)}  ${marks}`,
      ...this.#names.map((name) => row(name, (interval) => level(interval.pods[name] ?? 0))),
      row('failed', (interval) => (failed(interval) ? 'x' : '·')),
    ];
  }
}

/** Columns as wide as their longest cell. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    `  ${row.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd(),
  );
}
