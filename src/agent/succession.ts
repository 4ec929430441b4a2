/** The handover of a real agent: dataplanes of this machine, and what is found in its kernel. */
import type { Dataplane } from '../dataplane/dataplane.ts';
import type { DesiredState } from '../model/desired.ts';
import { Handover } from './handover.ts';
import { type DataplaneOptions, openDataplane } from './modes.ts';
import { predecessorsOf } from './predecessors.ts';
import type { Log } from './status.ts';

export interface SuccessionParts {
  readonly log: Log;
  /** As they are now: the configuration may change. */
  readonly options: () => DataplaneOptions;
  readonly state: () => DesiredState;
  readonly beforeRemoval: () => Promise<void>;
  readonly onMode: () => void;
  readonly onDrained: () => void;
}

export function makeHandover(
  first: Dataplane,
  { log, options, state, beforeRemoval, onMode, onDrained }: SuccessionParts,
): Handover {
  const parts = {
    ...{ log, state, beforeRemoval, onMode, onDrained },
    open: (mode: Dataplane['mode']) => openDataplane(mode, options()),
    predecessors: (mode: Dataplane['mode'], desired: DesiredState) =>
      predecessorsOf(mode, desired, { config: options().config, log }),
  };
  return new Handover(parts, first);
}
