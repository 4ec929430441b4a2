/** Every row of the option table with its value: what Config is made from. */
import { type ErrorCode, TriplaneError } from '../model/errors.ts';
import type { OptionSpec } from './spec.ts';

/** One row with its value and where that came from. */
export interface Setting {
  readonly spec: OptionSpec;
  readonly value: unknown;
  readonly from: 'flag' | 'file' | 'default';
}

export type Settings = ReadonlyMap<string, Setting>;

/** How a message names the setting: as the user wrote it. */
export function nameOf(setting: Setting): string {
  const { spec, from } = setting;
  return (from === 'file' && spec.field !== '') || spec.flag === '' ? spec.field : `--${spec.flag}`;
}

/** Throws if there are problems: all of them, in one line. */
export function refuse(code: ErrorCode, problems: readonly string[]): void {
  if (problems.length > 0) throw new TriplaneError(code, problems.join('; '));
}
