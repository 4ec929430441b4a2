/**
 * Sums of what the kernel's counters have moved, over all dataplanes that the agent has had: a switch of modes is no
 * reset. Gathered when somebody asks, and at most every GATHER_MS.
 */
import {
  COUNTS,
  type TrafficCell,
  type TrafficCounts,
  type TrafficReader,
  type TrafficSettings,
} from '../dataplane/traffic.ts';
import type { DesiredPort, DesiredState } from '../model/desired.ts';
import { formatSocket } from '../model/socket.ts';

export const GATHER_MS = 10_000;
/** Series of endpoints at most; what is beyond them counts for its service alone. */
const ENDPOINTS_MAX = 100_000;

export interface TrafficSum extends TrafficCounts {
  /** DesiredPort.name, and '' or formatSocket() of the endpoint. */
  readonly port: string;
  readonly endpoint: string;
}

export interface TrafficReport {
  readonly settings: TrafficSettings;
  readonly services: readonly TrafficSum[];
  /** Empty unless they are counted. */
  readonly endpoints: readonly TrafficSum[];
}

export interface MeterParts {
  readonly settings: TrafficSettings;
  /** The dataplane in charge first, then those that drain. */
  readonly readers: () => readonly TrafficReader[];
  readonly state: () => DesiredState;
  /** Milliseconds, never going back. */
  readonly now: () => number;
  readonly onFailure: (reader: TrafficReader, error: unknown) => void;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
interface Sum extends Mutable<TrafficSum> {
  moved: boolean;
}

const none = (): TrafficCounts => ({ connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 });

export class TrafficMeter {
  readonly #parts: MeterParts;
  readonly #services = new Map<string, Sum>();
  readonly #endpoints = new Map<string, Sum>();
  /** What each counter stood at when it was last read. */
  readonly #last = new WeakMap<TrafficReader, ReadonlyMap<string, TrafficCounts>>();
  #gatheredMs = Number.NEGATIVE_INFINITY;
  #gathering: Promise<void> | null = null;

  constructor(parts: MeterParts) {
    this.#parts = parts;
  }

  /** As of at most GATHER_MS ago. */
  async report(): Promise<TrafficReport> {
    const { settings, now } = this.#parts;
    if (settings.level !== 'off' && now() - this.#gatheredMs >= GATHER_MS) await this.gather();
    return {
      settings,
      services: [...this.#services.values()],
      endpoints: [...this.#endpoints.values()],
    };
  }

  /** Reads all counters now: before a dataplane goes, what it counted last is taken. Never throws. */
  gather(): Promise<void> {
    if (this.#parts.settings.level === 'off') return Promise.resolve();
    this.#gathering ??= this.#gatherNow().finally(() => {
      this.#gathering = null;
    });
    return this.#gathering;
  }

  async #gatherNow(): Promise<void> {
    const { readers, state, now, onFailure } = this.#parts;
    for (const sums of [this.#services, this.#endpoints]) for (const sum of sums.values()) sum.moved = false;
    for (const reader of readers()) {
      try {
        this.#take(reader, await reader.read(state()));
      } catch (error) {
        onFailure(reader, error);
      }
    }
    this.#dropGone();
    this.#gatheredMs = now();
  }

  #take(reader: TrafficReader, cells: readonly TrafficCell[]): void {
    const before = this.#last.get(reader);
    const last = new Map<string, TrafficCounts>();
    for (const cell of cells) {
      last.set(cell.cell, cell);
      const moved = differenceOf(cell, before?.get(cell.cell) ?? none());
      if (moved === null) continue;
      add(this.#sumOf(this.#services, cell.port, ''), moved);
      if (this.#parts.settings.by === 'service' || cell.endpoint === '') continue;
      const known = this.#endpoints.has(keyOf(cell.port, cell.endpoint));
      if (known || this.#endpoints.size < ENDPOINTS_MAX)
        add(this.#sumOf(this.#endpoints, cell.port, cell.endpoint), moved);
    }
    this.#last.set(reader, last);
  }

  #sumOf(sums: Map<string, Sum>, port: string, endpoint: string): Sum {
    const key = keyOf(port, endpoint);
    const known = sums.get(key);
    if (known) return known;
    const made: Sum = { ...none(), port, endpoint, moved: false };
    sums.set(key, made);
    return made;
  }

  /** What is gone and did not move any more since the last look has been told for the last time. */
  #dropGone(): void {
    const ports = portsOf(this.#parts.state());
    for (const [key, { port, moved }] of this.#services)
      if (!moved && !ports.has(port)) this.#services.delete(key);
    if (this.#endpoints.size === 0) return;
    const endpoints = new Map<string, Set<string>>();
    for (const [key, { port, endpoint, moved }] of this.#endpoints) {
      if (moved) continue;
      const known = endpoints.get(port) ?? endpointsOf(ports.get(port) ?? []);
      endpoints.set(port, known);
      if (!known.has(endpoint)) this.#endpoints.delete(key);
    }
  }
}

function keyOf(port: string, endpoint: string): string {
  return `${port} ${endpoint}`;
}

/** null: nothing moved. A counter that stands lower than it did began anew. */
function differenceOf(now: TrafficCounts, before: TrafficCounts): TrafficCounts | null {
  const base = COUNTS.some((count) => now[count] < before[count]) ? none() : before;
  if (COUNTS.every((count) => now[count] === base[count])) return null;
  const moved: Mutable<TrafficCounts> = none();
  for (const count of COUNTS) moved[count] = now[count] - base[count];
  return moved;
}

function add(sum: Sum, moved: TrafficCounts): void {
  for (const count of COUNTS) sum[count] += moved[count];
  sum.moved = true;
}

function portsOf({ services }: DesiredState): Map<string, DesiredPort[]> {
  const ports = new Map<string, DesiredPort[]>();
  for (const service of services.values())
    for (const port of service.ports) {
      const known = ports.get(port.name);
      if (known) known.push(port);
      else ports.set(port.name, [port]);
    }
  return ports;
}

function endpointsOf(ports: readonly DesiredPort[]): Set<string> {
  const endpoints = new Set<string>();
  for (const { cluster, local } of ports)
    for (const { address, port } of [...cluster, ...local]) endpoints.add(formatSocket({ address, port }));
  return endpoints;
}
