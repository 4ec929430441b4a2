/** What people read of a run. */
import type { Summary } from '../support/stats.ts';
import { formatTable } from '../support/table.ts';
import type { Size } from './cluster.ts';

/** Times in milliseconds. `planMs` is TypeScript of the dataplane and, on an empty kernel, the skeleton's child. */
export interface StartFigures {
  readonly operations: number;
  readonly totalMs: number;
  readonly modelMs: number;
  readonly planMs: number;
  readonly buildMs: number;
  readonly commitMs: number;
  readonly dumpMs: number;
  readonly commits: number;
  readonly dumps: number;
}

export interface RestartFigures {
  readonly restart: StartFigures;
  readonly rssRestartMiB: number;
  readonly changedServices: number;
}

export interface ControlPlaneFigures {
  readonly size: Size;
  readonly cold: StartFigures;
  readonly changes: Readonly<Record<string, Summary>>;
  readonly verifyMs: number;
  /** Before any record; after the cold start; after all changes; after a garbage collection. */
  readonly rssEmptyMiB: number;
  readonly rssColdMiB: number;
  readonly rssChangesMiB: number;
  readonly rssGcMiB: number;
  readonly heapMiB: number;
  readonly restart: RestartFigures;
  readonly changed: RestartFigures;
}

const ms = (value: number) => (value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2));
const mib = (value: number) => value.toFixed(0);

function startTable(all: readonly ControlPlaneFigures[]): string {
  const rows = [['', 'start, ms', 'model', 'plan', 'messages', 'kernel', 'read back', 'elements']];
  for (const { size, cold, restart, changed } of all) {
    const row = (what: string, s: StartFigures) =>
      rows.push([
        `${size.name}, ${what}`,
        ...[s.totalMs, s.modelMs, s.planMs, s.buildMs, s.commitMs, s.dumpMs].map(ms),
        String(s.operations),
      ]);
    row('cold', cold);
    row('restart', restart.restart);
    row(`restart, ${changed.changedServices} services changed`, changed.restart);
  }
  return formatTable(rows);
}

function changeTable(all: readonly ControlPlaneFigures[]): string {
  const rows = [['', 'one change, ms', 'p50', 'p99', 'max', 'of']];
  for (const { size, changes } of all) {
    for (const [kind, s] of Object.entries(changes))
      rows.push([size.name, kind, ms(s.p50), ms(s.p99), ms(s.max), String(s.count)]);
  }
  return formatTable(rows);
}

function memoryTable(all: readonly ControlPlaneFigures[]): string {
  const rows = [
    ['', 'resident, MiB: empty', 'cold', 'changes', 'collected', 'heap', 'restart', 'verify, ms'],
  ];
  for (const f of all) {
    const sizes = [
      f.rssEmptyMiB,
      f.rssColdMiB,
      f.rssChangesMiB,
      f.rssGcMiB,
      f.heapMiB,
      f.restart.rssRestartMiB,
    ];
    rows.push([f.size.name, ...sizes.map(mib), ms(f.verifyMs)]);
  }
  return formatTable(rows);
}

export function figureTables(all: readonly ControlPlaneFigures[]): string {
  return [startTable(all), changeTable(all), memoryTable(all)].join('\n');
}

/** Milliseconds. */
export interface Targets {
  readonly cold10kMs: number;
  readonly changeP99Ms: number;
}

export const TARGETS: Readonly<Record<'nft' | 'ebpf', Targets>> = {
  nft: { cold10kMs: 1000, changeP99Ms: 5 },
  ebpf: { cold10kMs: 500, changeP99Ms: 2 },
};

/** One line a target: what was to be reached, and what was. */
export function checkTargets(all: readonly ControlPlaneFigures[], targets: Targets): string {
  const rows: string[][] = [['target', 'limit', 'measured', '']];
  const check = (what: string, limit: number, measured: number, unit: string) =>
    rows.push([what, `< ${limit} ${unit}`, `${ms(measured)} ${unit}`, measured < limit ? 'ok' : 'MISSED']);
  const by = (name: string) => all.find((f) => f.size.name === name);
  const ten = by('10k x 10');
  const fifty = by('50k x 2');
  if (ten) check('10k x 10 cold', targets.cold10kMs, ten.cold.totalMs, 'ms');
  if (fifty) check('50k x 2 cold', 3000, fifty.cold.totalMs, 'ms');
  for (const f of all)
    check(
      `${f.size.name}: one change, p99`,
      targets.changeP99Ms,
      Math.max(...Object.values(f.changes).map((s) => s.p99)),
      'ms',
    );
  if (ten) check('10k x 10 restart', 2000, ten.restart.restart.totalMs, 'ms');
  if (ten) {
    const resident = Math.max(ten.rssColdMiB, ten.rssChangesMiB, ten.restart.rssRestartMiB);
    check('10k x 10 resident', 250, resident, 'MiB');
  }
  return formatTable(rows);
}
