/**
 * What all manifest files together say. Each file has its own objects; where two name the same object, the
 * first file in byte order of the paths has it, and when it lets go the next one takes over.
 */
import { type ClusterRecord, keyOf, type RecordChange, type RecordKind } from '../../model/records.ts';
import { type Decoded, joinFaults } from '../decode/decoded.ts';
import { sameRecord } from '../decode/same.ts';
import type { ProblemBook } from '../problems.ts';

/** One object as one file has it. */
export interface Claim {
  readonly kind: RecordKind;
  readonly key: string;
  /** Null when the file has only ever said nonsense about it. */
  readonly record: ClusterRecord | null;
  /** '' or what is wrong with it. */
  readonly reason: string;
  /** "document 3". */
  readonly label: string;
}

/** What one reading of a file found. */
export interface FileReading {
  readonly claims: ReadonlyMap<string, Claim>;
  /** Some part could not be read: what is missing from `claims` may be in there. */
  readonly torn: boolean;
}

function idOf(kind: RecordKind, key: string): string {
  return `${kind} ${key}`;
}

/** Collects the claims of one file while its documents are decoded. */
export class ClaimCollector {
  readonly claims = new Map<string, Claim>();

  /** An object without a trustworthy name makes no claim; the caller reports it. */
  add(decoded: Decoded, label: string): void {
    if (decoded.outcome === 'ignored') return;
    const key = decoded.outcome === 'record' ? keyOf(decoded.record) : decoded.key;
    const kind = decoded.outcome === 'record' ? decoded.record.kind : decoded.kind;
    if (key === null) return;
    const id = idOf(kind, key);
    const first = this.claims.get(id);
    if (first) {
      this.claims.set(id, {
        ...first,
        reason: joinFaults([`${label} repeats ${first.label}, which counts`]),
      });
      return;
    }
    const record = decoded.outcome === 'record' ? decoded.record : null;
    const reason = decoded.outcome === 'record' ? joinFaults(decoded.faults) : decoded.reason;
    this.claims.set(id, { kind, key, record, reason, label });
  }
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

export class ManifestState {
  readonly #problems: ProblemBook;
  readonly #files = new Map<string, ReadonlyMap<string, Claim>>();
  /** The files that claim an object, in byte order. */
  readonly #claimants = new Map<string, string[]>();
  readonly #delivered = new Map<string, ClusterRecord>();

  constructor(problems: ProblemBook) {
    this.#problems = problems;
  }

  get files(): readonly string[] {
    return [...this.#files.keys()];
  }

  hasObjects(file: string): boolean {
    return (this.#files.get(file)?.size ?? 0) > 0;
  }

  /**
   * Takes over what files say now; null: the file is gone. Returns what really changed in all, so that an
   * object that moves from one file to another does not vanish in between.
   */
  update(readings: ReadonlyMap<string, FileReading | null>): RecordChange[] {
    const touched = new Map<string, Claim>();
    for (const [file, reading] of readings) {
      const before = this.#files.get(file) ?? new Map<string, Claim>();
      const after = reading ? settle(before, reading) : new Map<string, Claim>();
      if (reading) this.#files.set(file, after);
      else this.#files.delete(file);
      for (const [id, claim] of before) {
        touched.set(id, claim);
        if (!after.has(id)) this.#withdraw(id, file);
      }
      for (const [id, claim] of after) {
        touched.set(id, claim);
        if (!before.has(id)) this.#enter(id, file);
      }
    }
    const changes: RecordChange[] = [];
    for (const [id, claim] of touched) {
      const change = this.#resolve(id, claim);
      if (change) changes.push(change);
    }
    return changes;
  }

  #enter(id: string, file: string): void {
    const files = this.#claimants.get(id) ?? [];
    this.#claimants.set(id, [...files, file].sort(byBytes));
  }

  #withdraw(id: string, file: string): void {
    const files = (this.#claimants.get(id) ?? []).filter((other) => other !== file);
    if (files.length > 0) this.#claimants.set(id, files);
    else this.#claimants.delete(id);
  }

  /** Decides whose record counts, says what is wrong, and returns the change if there is one. */
  #resolve(id: string, { kind, key }: Claim): RecordChange | null {
    const files = this.#claimants.get(id) ?? [];
    const claims = files.map((file) => ({ file, claim: this.#files.get(file)!.get(id)! }));
    const winner = claims.find(({ claim }) => claim.record !== null);
    const faults = claims
      .filter(({ claim }) => claim.reason !== '')
      .map(({ file, claim }) => `${file} ${claim.label}: ${claim.reason}`);
    const losers = claims.filter(({ file, claim }) => claim.record !== null && file !== winner?.file);
    if (winner && losers.length > 0) {
      faults.push(`also in ${losers.map(({ file }) => file).join(' and ')}; ${winner.file} counts`);
    }
    if (faults.length === 0) this.#problems.clear(id);
    else {
      const origin = claims.find(({ claim }) => claim.reason !== '')?.file ?? winner!.file;
      this.#problems.report({ code: 'TP_BAD_OBJECT', object: id, reason: joinFaults(faults), origin });
    }
    return this.#difference(id, { kind, key }, winner?.claim.record ?? null);
  }

  #difference(
    id: string,
    name: Pick<Claim, 'kind' | 'key'>,
    record: ClusterRecord | null,
  ): RecordChange | null {
    const before = this.#delivered.get(id);
    if (record === null) {
      if (!before) return null;
      this.#delivered.delete(id);
      return { op: 'delete', kind: name.kind, key: name.key };
    }
    if (before && sameRecord(before, record)) return null;
    this.#delivered.set(id, record);
    return { op: 'set', record };
  }
}

/**
 * What a file says after a reading: an object that is malformed now keeps the record that it had, and so
 * does everything that is missing while part of the file cannot be read.
 */
function settle(before: ReadonlyMap<string, Claim>, reading: FileReading): ReadonlyMap<string, Claim> {
  const after = new Map(reading.torn ? before : []);
  for (const [id, claim] of reading.claims) {
    const record = claim.record ?? before.get(id)?.record ?? null;
    after.set(id, { ...claim, record });
  }
  return after;
}
