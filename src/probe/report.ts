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

export interface ProbeReport {
  readonly kernel: string;
  readonly rows: readonly ProbeRow[];
  /** '' when no mode can run. */
  readonly auto: { readonly mode: Mode | ''; readonly reason: string };
}

/** The order in which `auto` tries. */
export const PREFERENCE: readonly Mode[] = ['ebpf', 'nft', 'ipvs'];

/** What a mode lacks, one line each; empty: it can run, as far as could be tried. */
export function missingOf(rows: readonly ProbeRow[], mode: Mode): string[] {
  return rows
    .filter((row) => row.mode === mode && row.weight === 'required' && row.answer === 'no')
    .map(({ need, remedy }) => `${need} (${remedy})`);
}

/** Modes of which everything required was tried and found. */
export function modesThatRun(rows: readonly ProbeRow[]): Mode[] {
  return PREFERENCE.filter((mode) => {
    const required = rows.filter((row) => row.mode === mode && row.weight === 'required');
    return required.length > 0 && required.every(({ answer }) => answer === 'yes');
  });
}

/** What `auto` takes, and what spoke against the modes before it. */
export function autoOf(rows: readonly ProbeRow[]): ProbeReport['auto'] {
  const able = modesThatRun(rows);
  const against = (mode: Mode) => {
    const missing = missingOf(rows, mode);
    return missing.length > 0 ? `${mode} lacks ${missing.join(', ')}` : `${mode} could not be tried`;
  };
  const [mode] = able;
  if (!mode) return { mode: '', reason: PREFERENCE.map(against).join('; ') };
  const passed = PREFERENCE.slice(0, PREFERENCE.indexOf(mode)).map(against);
  return { mode, reason: ['the best mode that can run', ...passed].join('; ') };
}
