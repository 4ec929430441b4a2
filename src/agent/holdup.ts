/** From the states of the agent's parts to the one thing that keeps the kernel from holding what the cluster says. */
import { oneLine } from '../source/decode/check.ts';
import type { Holdup, SourceHealth } from './status.ts';

export interface Standing {
  readonly sources: readonly SourceHealth[];
  /** What the agent waits for of its own Node; '' when for nothing. */
  readonly waitingFor: string;
  /** The kernel holds the first full state. */
  readonly synced: boolean;
  /** Why the last attempt to change the kernel failed; '' when it did not. */
  readonly kernelError: string;
}

function withoutPath(what: string): string {
  return what.split(' /', 1)[0]!;
}

/** The first in the order in which things happen at a start; null: nothing. */
export function holdupOf({ sources, waitingFor, synced, kernelError }: Standing): Holdup | null {
  if (kernelError !== '') {
    return {
      brief: 'the kernel refused what it was told last',
      detail: `the kernel could not be brought up to date: ${oneLine(kernelError)}`,
    };
  }
  if (synced) return null;
  const missing = sources.filter((source) => !source.synced);
  if (missing.length > 0) {
    return {
      brief: `not all is known yet of: ${missing.map(({ what }) => withoutPath(what)).join(', ')}`,
      detail: missing
        .map(({ what, lastError }) => `waiting for ${what}${lastError === '' ? '' : `: ${lastError}`}`)
        .join('; '),
    };
  }
  if (waitingFor !== '') return { brief: `waiting: ${waitingFor}`, detail: `waiting: ${waitingFor}` };
  return { brief: 'the first full state is on its way', detail: 'the first full state is on its way' };
}
