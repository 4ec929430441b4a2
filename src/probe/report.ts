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
 * The order in which `auto` tries. ebpf is to come first (docs/architecture.md); until the whole conformance
 * table has passed through it, it is taken only where nothing else runs.
 */
export const PREFERENCE: readonly Mode[] = ['nft', 'ipvs', 'ebpf'];

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

export function modesThatRun(rows: readonly ProbeRow[], preference: readonly Mode[] = PREFERENCE): Mode[] {
  return preference.filter((mode) => canRun(rows, mode));
}

/** What `auto` takes, and what spoke against the modes before it. */
export function autoOf(rows: readonly ProbeRow[], preference: readonly Mode[] = PREFERENCE): AutoChoice {
  const against = (mode: Mode) => {
    const missing = missingOf(rows, mode);
    if (missing.length > 0) return `${mode} lacks ${missing.join(', ')}`;
    const untried = required(rows, mode).filter(({ answer }) => answer === 'unknown');
    return `${mode} could not be tried${untried.length > 0 ? `: ${untried[0]!.remedy}` : ''}`;
  };
  const [mode] = modesThatRun(rows, preference);
  if (!mode) return { mode: '', reason: preference.map(against).join('; ') };
  const passed = preference.slice(0, preference.indexOf(mode)).map(against);
  return { mode, reason: ['the best mode that can run', ...passed].join('; ') };
}
