/** What the fuzzer has found once: rows as it prints them, each with a name and a rule. */
import type { ConformanceRow } from './scenes.ts';

export const FOUND: readonly ConformanceRow[] = [];
