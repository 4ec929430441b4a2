/** What a reflector is made of. */
import type { RecordChange } from '../../model/records.ts';
import type { ProblemBook } from '../problems.ts';
import type { Cluster } from './cluster.ts';
import type { ReflectorLimits } from './options.ts';
import type { Resource } from './resources.ts';
import type { RecordStore } from './store.ts';

export interface ReflectorParts {
  readonly resource: Resource;
  readonly cluster: Cluster;
  readonly store: RecordStore;
  readonly problems: ProblemBook;
  readonly limits: ReflectorLimits;
  readonly onAnswer: (verb: 'list' | 'watch', status: number, durationMs: number) => void;
  readonly deliver: (changes: readonly RecordChange[]) => void;
  /**
   * Called when everything that there is has been delivered (or the resource does not exist) for the first time. For a
   * resource that is not required also when it has been reported that it cannot be had.
   */
  readonly onSettled: () => void;
}
