/**
 * The records of one resource as they were delivered. Turns raw objects into changes, and a full list into
 * additions, changes and, only once the list is complete, deletions.
 */
import { type ClusterRecord, keyOf, type RecordChange, type RecordKind } from '../../model/records.ts';
import { isRaw } from '../decode/check.ts';
import { type Decoded, joinFaults } from '../decode/decoded.ts';
import { DECODERS } from '../decode/object.ts';
import { sameRecord } from '../decode/same.ts';
import type { ProblemBook } from '../problems.ts';

export class RecordStore {
  readonly #kind: RecordKind;
  readonly #problems: ProblemBook;
  readonly #origin: string;
  readonly #records = new Map<string, ClusterRecord>();
  /** Objects that have a problem, by the name under which it was reported. */
  #troubled = new Set<string>();
  /** While a full list comes in: the keys in it, and the objects in it that have a problem. */
  #listed: { readonly keys: Set<string>; readonly troubled: Set<string> } | null = null;

  constructor(kind: RecordKind, problems: ProblemBook, origin: string) {
    this.#kind = kind;
    this.#problems = problems;
    this.#origin = origin;
  }

  get size(): number {
    return this.#records.size;
  }

  /** From here on until endReplace() all objects that there are will be set. Starts over when it was begun. */
  beginReplace(): void {
    this.#listed = { keys: new Set(), troubled: new Set() };
  }

  /** The list is complete: what was not in it is gone. */
  endReplace(): RecordChange[] {
    const listed = this.#listed;
    if (!listed) return [];
    this.#listed = null;
    for (const object of this.#troubled) if (!listed.troubled.has(object)) this.#problems.clear(object);
    this.#troubled = listed.troubled;
    const changes: RecordChange[] = [];
    for (const key of this.#records.keys()) {
      if (listed.keys.has(key)) continue;
      this.#records.delete(key);
      changes.push({ op: 'delete', kind: this.#kind, key });
    }
    return changes;
  }

  /** An object as it is now. Null when that changes nothing: a malformed one keeps the record that it had. */
  set(raw: unknown): RecordChange | null {
    const decoded = DECODERS[this.#kind](raw);
    if (decoded.outcome === 'ignored') return this.#forget(decoded.key);
    this.#note(decoded);
    if (decoded.outcome === 'refused') {
      if (decoded.key !== null) this.#listed?.keys.add(decoded.key);
      return null;
    }
    const key = keyOf(decoded.record);
    this.#listed?.keys.add(key);
    const before = this.#records.get(key);
    if (before && sameRecord(before, decoded.record)) return null;
    this.#records.set(key, decoded.record);
    return { op: 'set', record: decoded.record };
  }

  /** An object that is gone, or that the selectors no longer choose. Its last state may be malformed. */
  delete(raw: unknown): RecordChange | null {
    const decoded = DECODERS[this.#kind](raw);
    const key = decoded.outcome === 'record' ? keyOf(decoded.record) : decoded.key;
    if (key !== null) return this.#forget(key);
    if (decoded.outcome === 'refused') this.#clear(decoded.object);
    return null;
  }

  #forget(key: string): RecordChange | null {
    this.#listed?.keys.delete(key);
    this.#clear(`${this.#kind} ${key}`);
    return this.#records.delete(key) ? { op: 'delete', kind: this.#kind, key } : null;
  }

  #note(decoded: Exclude<Decoded, { outcome: 'ignored' }>): void {
    const isRecord = decoded.outcome === 'record';
    const object = isRecord ? `${this.#kind} ${keyOf(decoded.record)}` : decoded.object;
    const reason = isRecord ? joinFaults(decoded.faults) : decoded.reason;
    if (reason === '') {
      this.#clear(object);
      return;
    }
    this.#troubled.add(object);
    this.#listed?.troubled.add(object);
    this.#problems.report({ code: 'TP_BAD_OBJECT', object, reason, origin: this.#origin });
  }

  #clear(object: string): void {
    this.#listed?.troubled.delete(object);
    if (this.#troubled.delete(object)) this.#problems.clear(object);
  }
}

/** metadata.resourceVersion of an object or a list; '' when there is none. */
export function versionOf(raw: unknown): string {
  const metadata = isRaw(raw) && isRaw(raw.metadata) ? raw.metadata : {};
  return typeof metadata.resourceVersion === 'string' ? metadata.resourceVersion : '';
}
