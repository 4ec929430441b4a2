/** What a probe of the kernel finds: the contract of `triplane probe` and of `auto`. */
import type { Mode } from '../dataplane/dataplane.ts';

/** One thing that a mode needs. */
export interface ProbeRow {
  readonly mode: Mode;
  readonly need: string;
  /** 'required': without it the mode cannot run. 'better': without it the mode runs in a lesser degree. */
  readonly weight: 'required' | 'better';
  /** 'unknown': could not be tried, mostly for lack of privilege. */
  readonly answer: 'yes' | 'no' | 'unknown';
  /** What to do about a no, or why it is unknown; '' for a yes. */
  readonly remedy: string;
}

export interface AutoChoice {
  /** '' when no mode can run. */
  readonly mode: Mode | '';
  readonly reason: string;
}

export interface ProbeReport {
  readonly kernel: string;
  readonly rows: readonly ProbeRow[];
  readonly auto: AutoChoice;
}

/**
 * The order in which `auto` tries: all of them pass the conformance table (docs/conformance.md), so the cheaper comes
 * first.
 */
export const PREFERENCE: readonly Mode[] = ['ebpf', 'nft', 'ipvs'];

const required = (rows: readonly ProbeRow[], mode: Mode) =>
  rows.filter((row) => row.mode === mode && row.weight === 'required');

/** What a mode lacks, one line each; empty: it can run, as far as could be tried. */
export function missingOf(rows: readonly ProbeRow[], mode: Mode): string[] {
  return required(rows, mode)
    .filter(({ answer }) => answer === 'no')
    .map(({ need, remedy }) => `${need} (${remedy})`);
}

/** Everything required was tried and found. */
export function canRun(rows: readonly ProbeRow[], mode: Mode): boolean {
  const needs = required(rows, mode);
  return needs.length > 0 && needs.every(({ answer }) => answer === 'yes');
}

/** Nothing is known to be missing, and it may be used; some of it could not be tried. */
function mayRun(rows: readonly ProbeRow[], mode: Mode): boolean {
  const needs = required(rows, mode);
  // The first row of each mode is whether this process may use it at all.
  return needs[0]?.answer === 'yes' && needs.every(({ answer }) => answer !== 'no');
}

export function modesThatRun(rows: readonly ProbeRow[], preference: readonly Mode[] = PREFERENCE): Mode[] {
  return preference.filter((mode) => canRun(rows, mode));
}

/** What `auto` takes, and what spoke against the modes before it. */
export function autoOf(rows: readonly ProbeRow[], preference: readonly Mode[] = PREFERENCE): AutoChoice {
  const whyUntried = (mode: Mode) => {
    const untried = required(rows, mode).find(({ answer }) => answer === 'unknown');
    return untried ? ` (${untried.remedy})` : '';
  };
  const against = (mode: Mode) => {
    const missing = missingOf(rows, mode);
    if (missing.length > 0) return `${mode} lacks ${missing.join(', ')}`;
    return `${mode} could not be tried${whyUntried(mode)}`;
  };
  const take = (mode: Mode, why: string): AutoChoice => {
    const passed = preference.slice(0, preference.indexOf(mode)).map(against);
    return { mode, reason: [why, ...passed].join('; ') };
  };
  const [able] = modesThatRun(rows, preference);
  if (able) return take(able, 'the best mode that can run');
  const untried = preference.find((mode) => mayRun(rows, mode));
  if (untried)
    return take(untried, `nothing speaks against it, and not all of it could be tried${whyUntried(untried)}`);
  return { mode: '', reason: preference.map(against).join('; ') };
}
