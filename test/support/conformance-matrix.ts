/** The matrix of docs/conformance.md: for each rule, how many rows of the table each mode answers as the table says. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { CONFORMANCE } from '../model/conformance.ts';
import { RULES, type Rule } from '../model/scenes.ts';
import { ROOT } from './checkout.ts';

export const MATRIX_FILE = 'docs/conformance.md';
const BEGIN = '<!-- matrix: npm run conformance -->';
const END = '<!-- end of matrix -->';
export const MATRIX_MODES = ['nft', 'ipvs', 'ebpf'] as const;
export type MatrixMode = (typeof MATRIX_MODES)[number];
/** Rule -> "31", or "28, otherwise: 3". */
export type Column = Readonly<Record<Rule, string>>;
/** How a row was answered: as the table says, or as docs/ says that this mode does. */
export type Answered = ReadonlyMap<string, 'table' | 'otherwise'>;

export const NOT_YET = '-';
const rules = Object.keys(RULES) as Rule[];
const rowsOf = (rule: Rule) => CONFORMANCE.filter((row) => row.rule === rule);

export function columnOf(answered: Answered): Column {
  const cell = (rule: Rule) => {
    const count = (how: string) => rowsOf(rule).filter(({ name }) => answered.get(name) === how).length;
    const otherwise = count('otherwise');
    return otherwise > 0 ? `${count('table')}, otherwise: ${otherwise}` : `${count('table')}`;
  };
  return Object.fromEntries(rules.map((rule) => [rule, cell(rule)])) as Column;
}

function parts(): { before: string; lines: readonly string[]; after: string } {
  const text = readFileSync(path.join(ROOT, MATRIX_FILE), 'utf8');
  const [before = '', rest = ''] = text.split(BEGIN);
  const [table = '', after = ''] = rest.split(END);
  return { before, lines: table.trim().split('\n').slice(2), after };
}

/** What the page says of a mode. */
export function readColumn(mode: MatrixMode): Column {
  const at = 3 + MATRIX_MODES.indexOf(mode);
  const cells = parts()
    .lines.map((line) => line.split('|').map((cell) => cell.trim()))
    .slice(0, rules.length);
  return Object.fromEntries(rules.map((rule, i) => [rule, cells[i]?.[at] ?? NOT_YET])) as Column;
}

function tableOf(columns: Readonly<Record<MatrixMode, Column>>): string {
  const head = ['rule', 'rows', ...MATRIX_MODES];
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const body = rules.map((rule) =>
    line([RULES[rule], `${rowsOf(rule).length}`, ...MATRIX_MODES.map((mode) => columns[mode][rule])]),
  );
  const total = line(['**all**', `**${CONFORMANCE.length}**`, ...MATRIX_MODES.map(() => '')]);
  return [line(head), line(head.map(() => '---')), ...body, total].join('\n');
}

/** The lines of the matrix as they ought to be, from what the page says of every mode. */
export function matrixLines(): readonly string[] {
  const columns = Object.fromEntries(MATRIX_MODES.map((mode) => [mode, readColumn(mode)]));
  return tableOf(columns as Record<MatrixMode, Column>)
    .split('\n')
    .slice(2);
}

export function writtenLines(): readonly string[] {
  return parts().lines;
}

/** Puts the column of a mode into the page. */
export function writeColumn(mode: MatrixMode, column: Column): void {
  const columns = Object.fromEntries(
    MATRIX_MODES.map((one) => [one, one === mode ? column : readColumn(one)]),
  ) as Record<MatrixMode, Column>;
  const { before, after } = parts();
  writeFileSync(path.join(ROOT, MATRIX_FILE), `${before}${BEGIN}\n${tableOf(columns)}\n${END}${after}`);
}
