/** A listener that remembers everything a source said, and lets a test wait for something to be said. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ClusterRecord, keyOf, type RecordChange } from '../../src/model/records.ts';
import type { Problem, SourceListener } from '../../src/source/source.ts';

const WAIT_MS_MAX = 15_000;

export class Recorder implements SourceListener {
  /** The state as an agent would hold it, by "Kind key". */
  readonly records = new Map<string, ClusterRecord>();
  readonly problems = new Map<string, Problem>();
  /** Every change ever, as "set Kind key" or "delete Kind key". */
  readonly log: string[] = [];
  synced = 0;

  onChanges(changes: readonly RecordChange[]): void {
    for (const change of changes) {
      if (change.op === 'set') {
        const id = `${change.record.kind} ${keyOf(change.record)}`;
        this.records.set(id, change.record);
        this.log.push(`set ${id}`);
      } else {
        const id = `${change.kind} ${change.key}`;
        this.records.delete(id);
        this.log.push(`delete ${id}`);
      }
    }
  }

  onSynced(): void {
    this.synced++;
  }

  onProblem(problem: Problem): void {
    this.problems.set(problem.object, problem);
  }

  onProblemGone(object: string): void {
    this.problems.delete(object);
  }

  keys(): string[] {
    return [...this.records.keys()].sort();
  }

  /** Waits until it holds; throws with what was recorded when it does not in time. */
  async until(what: string, holds: (recorder: this) => boolean): Promise<void> {
    const deadline = performance.now() + WAIT_MS_MAX;
    while (!holds(this)) {
      if (performance.now() > deadline) {
        const problems = [...this.problems.values()].map((problem) => `${problem.object}: ${problem.reason}`);
        throw new Error(
          `never: ${what}\nrecords: ${this.keys().slice(0, 20).join(', ')}\nproblems: ${problems.join('; ')}\nsynced: ${this.synced}`,
        );
      }
      await sleep(5);
    }
  }
}
