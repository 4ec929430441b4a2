/** `--output`: tables for people, JSON and YAML for programs. */
import { Option } from 'commander';
import { escapeText } from '../observe/escape.ts';

export type OutputFormat = 'table' | 'wide' | 'json' | 'yaml';

export function outputOption(): Option {
  return new Option('-o, --output <format>', 'table, wide (more columns), json or yaml')
    .choices(['table', 'wide', 'json', 'yaml'])
    .default('table');
}

export interface Column<Row> {
  readonly title: string;
  readonly text: (row: Row) => string;
  /** Only in the wide table. */
  readonly wide?: true;
  readonly align?: 'right';
}

/** Rows in the form that was asked for, ending with a newline. In JSON and YAML a row is whole. */
export async function render<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  format: OutputFormat,
): Promise<string> {
  if (format === 'table' || format === 'wide') return renderTable(rows, columns, format);
  return renderValue(rows, format);
}

export async function renderValue(value: unknown, format: 'json' | 'yaml'): Promise<string> {
  if (format === 'json') return `${JSON.stringify(value, null, 2)}\n`;
  const { stringify } = await import('yaml');
  return stringify(value, { lineWidth: 0 });
}

/** Nothing is ever cut: a column is as wide as its longest cell. The last one is not padded. */
export function renderTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  format: 'table' | 'wide',
): string {
  const shown = columns.filter((column) => format === 'wide' || column.wide !== true);
  const cells = rows.map((row) => shown.map((column) => cell(column.text(row))));
  const lines = [shown.map((column) => column.title), ...cells];
  const widths = shown.map((_, at) => Math.max(...lines.map((line) => line[at]!.length)));
  return lines
    .map((line) =>
      line
        .map((text, at) =>
          shown[at]!.align === 'right' ? text.padStart(widths[at]!) : text.padEnd(widths[at]!),
        )
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** An empty cell is a dash, so that columns can be told apart by blanks. */
function cell(text: string): string {
  return text === '' ? '-' : escapeText(text);
}
