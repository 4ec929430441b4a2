/** Whether two records say the same. */
import type { ClusterRecord } from '../../model/records.ts';

function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length && a.every((value, i) => same(value, b[i]));
  }
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  const names = Object.keys(left);
  if (names.length !== Object.keys(right).length) return false;
  return names.every((name) => Object.hasOwn(right, name) && same(left[name], right[name]));
}

/** Deep equality of records, which are trees of plain values. Order in lists counts. */
export function sameRecord(a: ClusterRecord, b: ClusterRecord): boolean {
  return same(a, b);
}
