/**
 * What the kernel's counters of virtual services and destinations have moved, summed by service port and endpoint. No
 * I/O. A counter of the kernel begins at 0 when its object is made, and whenever anybody wishes it (`ipvsadm -Z`); the
 * sums never fall.
 */
import { formatSocket } from '../../model/socket.ts';
import { COUNTS, type TrafficCell, type TrafficCounts, type TrafficSettings } from '../traffic.ts';
import type { Destination, ServiceName, ServiceRow } from './packed-ipvs.ts';

interface Counter {
  /** What it stood at when it was last added. */
  counts: TrafficCounts;
  /** The kernel has shown it; one that it has not is about to be made. */
  seen: boolean;
}

/** A virtual service. */
interface Counted {
  /** DesiredPort.name; null: not said yet, and a predecessor's. */
  port: string | null;
  /** By formatSocket() of the destination; '': of the virtual service itself. */
  readonly counters: Map<string, Counter>;
}

type Sum = { -readonly [K in keyof TrafficCell]: TrafficCell[K] };

const ZERO: TrafficCounts = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };

export type Place = Pick<Destination, 'address' | 'port'>;

function serviceKey({ family, mark }: ServiceName): string {
  return `${family} ${mark}`;
}

export class Tally {
  readonly #settings: TrafficSettings;
  readonly #services = new Map<string, Counted>();
  /** By port and endpoint: what several virtual services of one port count is one sum. */
  readonly #sums = new Map<string, Sum>();
  #births = 0;

  constructor(settings: TrafficSettings) {
    this.#settings = settings;
  }

  /** What this virtual service counts is this port's, also what it has counted since it was first seen. */
  own(name: ServiceName, port: string): void {
    this.#of(name).port = port;
  }

  /** Whether the kernel has shown a virtual service, and not that it is gone. */
  hasSeen(name: ServiceName): boolean {
    const counters = this.#services.get(serviceKey(name))?.counters.values() ?? [];
    return [...counters].some(({ seen }) => seen);
  }

  /**
   * A virtual service that we are about to make: whoever had its number before, its counters begin at 0. Its port is said
   * here once more: a reading that still missed it may have forgotten what own() was told.
   */
  made(name: ServiceName, port: string, destinations: readonly Place[]): void {
    const counted = this.#of(name);
    const { counters } = counted;
    counted.port = port;
    counters.clear();
    const endpoints = this.#settings.by === 'service' ? [''] : destinations.map(formatSocket);
    for (const endpoint of endpoints) counters.set(endpoint, { counts: ZERO, seen: false });
  }

  #of(name: ServiceName): Counted {
    const key = serviceKey(name);
    const known = this.#services.get(key);
    if (known) return known;
    const counted: Counted = { port: null, counters: new Map() };
    this.#services.set(key, counted);
    return counted;
  }

  /**
   * Adds what counters have moved. One that is seen for the first time, and that we did not make, counts from what it
   * stands at: a predecessor's, or a destination that came back with what it had counted.
   * @param rows as the kernel shows them, of ours alone
   * @param asked the virtual services that were asked for; null: all
   */
  take(rows: readonly ServiceRow[], asked: readonly ServiceName[] | null): void {
    const missing = new Set(asked ? asked.map(serviceKey) : this.#services.keys());
    for (const row of rows) {
      missing.delete(serviceKey(row));
      const counted = this.#of(row);
      const shown = new Map<string, TrafficCounts>();
      if (this.#settings.by === 'service') shown.set('', row.counts);
      else for (const to of row.destinations) shown.set(formatSocket(to), to.counts);
      for (const [endpoint, counts] of shown) this.#move(counted, endpoint, counts);
      forget(counted, shown);
    }
    for (const key of missing) {
      const counted = this.#services.get(key);
      if (!counted) continue;
      forget(counted, new Map());
      if (counted.counters.size === 0) this.#services.delete(key);
    }
  }

  #move({ port, counters }: Counted, endpoint: string, counts: TrafficCounts): void {
    const known = counters.get(endpoint);
    if (!known) {
      counters.set(endpoint, { counts, seen: true });
      return;
    }
    known.seen = true;
    // What it counts until somebody says whose it is is not lost.
    if (port === null) return;
    const sum = this.#sumOf(port, endpoint);
    const base = COUNTS.some((count) => counts[count] < known.counts[count]) ? ZERO : known.counts;
    const counted = this.#settings.level === 'connections' ? (['connections'] as const) : COUNTS;
    for (const count of counted) sum[count] += counts[count] - base[count];
    known.counts = counts;
  }

  #sumOf(port: string, endpoint: string): Sum {
    const key = `${port} ${endpoint}`;
    const known = this.#sums.get(key);
    if (known) return known;
    // One that was told for the last time and comes back is another counter to those who read it.
    const sum: Sum = { ...ZERO, cell: `${key} ${this.#births++}`, port, endpoint };
    this.#sums.set(key, sum);
    return sum;
  }

  /** The sums that are not 0. Those to which nothing can be added any more are told for the last time. */
  cells(): TrafficCell[] {
    const moving = new Set<string>();
    for (const { port, counters } of this.#services.values())
      for (const endpoint of counters.keys()) moving.add(`${port} ${endpoint}`);
    const cells: TrafficCell[] = [];
    for (const [key, sum] of this.#sums) {
      if (COUNTS.some((count) => sum[count] > 0)) cells.push({ ...sum });
      if (!moving.has(key)) this.#sums.delete(key);
    }
    return cells;
  }
}

/** Counters that the kernel shows no more. */
function forget({ counters }: Counted, shown: ReadonlyMap<string, TrafficCounts>): void {
  for (const [endpoint, { seen }] of counters) if (seen && !shown.has(endpoint)) counters.delete(endpoint);
}
