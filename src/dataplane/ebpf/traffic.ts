/** Counting in the ebpf mode: whose the records of tp_traffic are, and what they hold. */
import type { DesiredPort } from '../../model/desired.ts';
import { formatSocket } from '../../model/socket.ts';
import type { TrafficCell, TrafficReader, TrafficSettings } from '../traffic.ts';
import type { PortEntry } from './entries.ts';
import type { TrafficTable } from './traffic-table.ts';

interface Owner {
  readonly cell: string;
  readonly port: string;
  readonly endpoint: string;
}

/** What hears of numbers when they are given out, before anything is counted under them. */
export interface Births {
  service(id: number, port: DesiredPort): void;
  backend(record: number, port: DesiredPort, backend: DesiredPort['cluster'][number]): void;
}

export class EbpfTraffic implements TrafficReader, Births {
  readonly mode = 'ebpf';
  readonly #table: TrafficTable;
  readonly #by: TrafficSettings['by'];
  readonly #ports: () => Iterable<readonly PortEntry[]>;
  /** By number. Of what is gone as well, until somebody else gets the number: it may go on being counted. */
  readonly #owners = new Map<number, Owner>();
  /** What owners of numbers that others have by now have counted, until it is read. */
  #ended: TrafficCell[] = [];
  #births = 0;

  /** @param ports what the services have now */
  constructor(table: TrafficTable, by: TrafficSettings['by'], ports: () => Iterable<readonly PortEntry[]>) {
    this.#table = table;
    this.#by = by;
    this.#ports = ports;
  }

  service(id: number, { name }: DesiredPort): void {
    if (this.#by === 'service') this.#own(id, name, '');
  }

  backend(record: number, { name }: DesiredPort, backend: DesiredPort['cluster'][number]): void {
    if (this.#by === 'endpoint') this.#own(record, name, formatSocket(backend));
  }

  #own(index: number, port: string, endpoint: string): void {
    const old = this.#owners.get(index);
    // One that comes back is the same one.
    if (old && old.port === port && old.endpoint === endpoint) return;
    const counts = old && this.#table.read(index);
    if (old && counts) {
      this.#ended.push({ ...old, ...counts });
      this.#table.clear(index);
    }
    this.#owners.set(index, { cell: `${index} ${this.#births++}`, port, endpoint });
  }

  async read(): Promise<readonly TrafficCell[]> {
    for (const ports of this.#ports()) for (const port of ports) this.#adopt(port);
    const cells = this.#ended;
    this.#ended = [];
    for (const [index, owner] of this.#owners) {
      const counts = this.#table.read(index);
      if (counts) cells.push({ ...owner, ...counts });
    }
    return cells;
  }

  /** Numbers that a predecessor gave out. */
  #adopt({ id, desired, cluster, local }: PortEntry): void {
    if (this.#by === 'service') {
      if (!this.#owners.has(id)) this.service(id, desired);
      return;
    }
    for (const [pool, backends] of [
      [cluster, desired.cluster],
      [local, desired.local],
    ] as const)
      pool.records.forEach((record, i) => {
        if (!this.#owners.has(record)) this.backend(record, desired, backends[i]!);
      });
  }
}
