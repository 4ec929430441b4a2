/** Programs and maps that pick nothing any more and carry what they have to its end. */
import type { DesiredChange, DesiredState } from '../../model/desired.ts';
import type { Carried, Dataplane, FlowTarget, Remains } from '../dataplane.ts';
import type { TrafficReader } from '../traffic.ts';
import { cleanupEbpf } from './cleanup.ts';

/** A pass that had begun before the last connection was made may not have seen it; the next one has. */
const PASSES = 2;

/** What is asked of the dataplane that drains. */
export interface Draining extends Pick<Dataplane, 'apply' | 'close' | 'traffic'> {
  /** Of the last pass of collection that has ended, and how many have begun. */
  connections(): { readonly live: number; readonly passes: number };
  sockets(): Promise<number>;
}

export class EbpfRemains implements Remains {
  readonly mode = 'ebpf';
  readonly #dataplane: Draining;
  readonly #root: string;
  readonly #passes: number;
  readonly #targets: () => readonly FlowTarget[];

  /**
   * @param passes of collection that had begun when nothing new was picked any more
   * @param targets of the node's own processes, whose packets tc translates after netfilter has seen them
   */
  constructor(dataplane: Draining, root: string, passes: number, targets: () => readonly FlowTarget[]) {
    this.#targets = targets;
    this.#dataplane = dataplane;
    this.#root = root;
    this.#passes = passes;
  }

  async carried(): Promise<Carried> {
    const { live, passes } = this.#dataplane.connections();
    const connections = live + (await this.#dataplane.sockets());
    // `live` is that of a pass that has ended.
    return { connections, ended: connections === 0 && passes > this.#passes + PASSES };
  }

  async apply(change: DesiredChange, state: DesiredState): Promise<void> {
    await this.#dataplane.apply(change, state);
  }

  untranslated(): readonly FlowTarget[] {
    return this.#targets();
  }

  traffic(): TrafficReader | null {
    return this.#dataplane.traffic?.() ?? null;
  }

  async remove(): Promise<void> {
    await this.#dataplane.close();
    cleanupEbpf(this.#root);
  }

  close(): Promise<void> {
    return this.#dataplane.close();
  }
}
