/** Counting in the ipvs mode: the kernel does it anyway, for each virtual service and each of its destinations. */
import { formatSocket } from '../../model/socket.ts';
import {
  COUNTS,
  type TrafficCell,
  type TrafficCounts,
  type TrafficReader,
  type TrafficSettings,
} from '../traffic.ts';
import { openIpvsSocket } from './native.ts';
import { keyOf } from './owners.ts';
import { readServices, type ServiceRow } from './packed-ipvs.ts';
import { poolOfMark } from './scheme.ts';

interface Known extends TrafficCell {
  /** Of its virtual service. */
  readonly service: string;
}

export class IpvsTraffic implements TrafficReader {
  readonly mode = 'ipvs';
  readonly #settings: TrafficSettings;
  readonly #netns: string;
  readonly #owners: () => ReadonlyMap<string, string>;
  /** What a predecessor's services had counted before us, by cell. */
  readonly #base = new Map<string, TrafficCounts>();
  /** By cell. A destination that left may come back with what it had counted: it is the same one. */
  readonly #known = new Map<string, Known>();
  #begun = false;

  /** @param owners names of DesiredPorts by keyOf() of their pools */
  constructor(settings: TrafficSettings, netns: string, owners: () => ReadonlyMap<string, string>) {
    this.#settings = settings;
    this.#netns = netns;
    this.#owners = owners;
  }

  /** This, where it reads anything. */
  get reader(): TrafficReader | null {
    return this.#settings.level === 'off' ? null : this;
  }

  /** Before the first connection of ours: what is counted already is not. */
  async begin(): Promise<void> {
    if (this.#begun || this.reader === null) return;
    this.#begun = true;
    for (const row of await this.#rows())
      for (const { cell, counts } of this.#cellsOf(row)) this.#base.set(cell, counts);
  }

  async read(): Promise<readonly TrafficCell[]> {
    const services = new Set<string>();
    const owners = this.#owners();
    for (const row of await this.#rows()) {
      const service = keyOf(row);
      services.add(service);
      const owner = owners.get(service);
      for (const { cell, endpoint, counts } of this.#cellsOf(row)) {
        const known = this.#known.get(cell);
        const port = owner ?? known?.port;
        if (port === undefined) continue;
        this.#known.set(cell, { ...this.#sinceBegun(cell, counts), cell, service, port, endpoint });
      }
    }
    for (const [cell, { service }] of this.#known) if (!services.has(service)) this.#known.delete(cell);
    return [...this.#known.values()].filter((cell) => COUNTS.some((count) => cell[count] > 0));
  }

  async #rows(): Promise<ServiceRow[]> {
    const socket = openIpvsSocket(this.#netns);
    try {
      return readServices(await socket.dump()).filter(({ mark }) => poolOfMark(mark) !== 0);
    } finally {
      socket.close();
    }
  }

  #cellsOf(row: ServiceRow): { cell: string; endpoint: string; counts: TrafficCounts }[] {
    const service = keyOf(row);
    if (this.#settings.by === 'service') return [{ cell: service, endpoint: '', counts: row.counts }];
    return row.destinations.map(({ address, port, counts }) => {
      const endpoint = formatSocket({ address, port });
      return { cell: `${service} ${endpoint}`, endpoint, counts };
    });
  }

  #sinceBegun(cell: string, counts: TrafficCounts): TrafficCounts {
    const base = this.#base.get(cell);
    const since = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };
    // Made anew since: what it stands at is all ours.
    const anew = base !== undefined && COUNTS.some((count) => counts[count] < base[count]);
    if (anew) this.#base.delete(cell);
    const counted = this.#settings.level === 'connections' ? (['connections'] as const) : COUNTS;
    for (const count of counted) since[count] = counts[count] - (anew ? 0 : (base?.[count] ?? 0));
    return since;
  }
}
