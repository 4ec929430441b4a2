/** Virtual services that pick nothing any more, and the addresses at which their connections arrive. */
import type { DesiredChange, DesiredState } from '../../model/desired.ts';
import type { Carried, Remains } from '../dataplane.ts';
import { backendKey } from '../nft/pool.ts';
import type { TrafficReader } from '../traffic.ts';
import { cleanupIpvs } from './cleanup.ts';

/** What is asked of the dataplane that drains. */
export interface Lingering {
  /** Asks the kernel, and takes away what has ended; datagrams have no end, but in their backend's. */
  linger(isServing: (backend: string) => boolean): Promise<Carried>;
  traffic(): TrafficReader | null;
  close(): Promise<void>;
}

export class IpvsRemains implements Remains {
  readonly mode = 'ipvs';
  readonly #dataplane: Lingering;
  readonly #netns: string;
  #state: DesiredState;
  /** Backends of datagram services, by backendKey(); null: to be worked out anew. */
  #serving: Set<string> | null = null;

  constructor(dataplane: Lingering, netns: string, state: DesiredState) {
    this.#dataplane = dataplane;
    this.#netns = netns;
    this.#state = state;
  }

  carried(): Promise<Carried> {
    this.#serving ??= datagramBackends(this.#state);
    const serving = this.#serving;
    return this.#dataplane.linger((backend) => serving.has(backend));
  }

  async apply(_change: DesiredChange, state: DesiredState): Promise<void> {
    this.#state = state;
    this.#serving = null;
  }

  traffic(): TrafficReader | null {
    return this.#dataplane.traffic();
  }

  async remove(): Promise<void> {
    await this.#dataplane.close();
    await cleanupIpvs(this.#netns);
  }

  close(): Promise<void> {
    return this.#dataplane.close();
  }
}

function datagramBackends({ services }: DesiredState): Set<string> {
  const found = new Set<string>();
  for (const { ports } of services.values())
    for (const { protocol, cluster, local } of ports)
      if (protocol === 'UDP') for (const backend of [...cluster, ...local]) found.add(backendKey(backend));
  return found;
}
