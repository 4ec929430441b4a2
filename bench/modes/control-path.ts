/** The control path: from a file on disk to what a client meets. Each measurement has a lane of its own. */
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Family } from '../../src/model/records.ts';
import { summarize } from '../support/stats.ts';
import { type Backend, changingObjects, clusterObjects, writeManifest } from './cluster.ts';
import { Lane, type LaneMode } from './lane.ts';
import type { ControlRow } from './result.ts';

const MS = 1e6;
const IDLE_SECONDS = 3;
/** The changed service comes after those of the cluster. */
const SPARE = 10;

export interface ControlOptions {
  readonly services: number;
  readonly endpoints: number;
  readonly families: readonly Family[];
  readonly cpu: number;
  readonly changes: number;
  /** 0: no stream of changes. */
  readonly streamSeconds: number;
}

/** CLOCK_MONOTONIC in ns, as the load program tells it. */
const nowNs = () => Number(process.hrtime.bigint());

class ControlPath {
  readonly #lane: Lane;
  readonly #service: number;
  readonly #family: Family;
  readonly #backends: Backend[];
  /** Ids of the load servers begin with 1. */
  #current = 1;

  constructor(lane: Lane, services: number) {
    this.#lane = lane;
    this.#service = services + SPARE;
    this.#family = lane.families[0]!;
    this.#backends = lane.backends();
  }

  /** Puts one backend behind the changing service. */
  write(id: number): void {
    const backends = [this.#backends[id - 1]!];
    writeManifest(this.#lane.lab, 'changing', changingObjects(this.#service, this.#lane.families, backends));
    this.#current = id;
  }

  /** ms from the moment before the change to the first answer of the new backend. */
  async change(): Promise<number> {
    const from = nowNs();
    this.write((this.#current % this.#backends.length) + 1);
    return ((await this.#lane.until(this.#family, this.#service, this.#current)) - from) / MS;
  }

  /** 100 changes a second; then how long until the last one is in force. */
  async stream(seconds: number): Promise<NonNullable<ControlRow['stream']>> {
    const before = this.#lane.usage().cpuMs;
    const began = nowNs();
    for (let i = 0; i < seconds * 100; i++) {
      this.write((this.#current % this.#backends.length) + 1);
      const ahead = (i + 1) * 10 - (nowNs() - began) / MS;
      if (ahead > 0) await sleep(ahead);
    }
    const last = nowNs();
    const answered = await this.#lane.until(this.#family, this.#service, this.#current);
    const spent = this.#lane.usage().cpuMs - before;
    return { seconds, lagMs: Math.max(0, answered - last) / MS, cpu: spent / ((answered - began) / MS) };
  }

  until(): Promise<number> {
    return this.#lane.until(this.#family, this.#service, this.#current);
  }
}

/** Cold start, single changes, a stream of them, memory and idle time of one mode at one size. */
export async function measureControl(
  mode: Exclude<LaneMode, 'none'>,
  { services, endpoints, families, cpu, changes, streamSeconds }: ControlOptions,
): Promise<ControlRow> {
  const lane = await Lane.create(mode, families, cpu);
  try {
    await lane.startLoad();
    const backends = lane.backends();
    writeManifest(lane.lab, 'cluster', clusterObjects({ services, endpoints, families, backends }));
    const path = new ControlPath(lane, services);
    path.write(1);
    const from = nowNs();
    await lane.startAgent('started');
    const coldMs = ((await path.until()) - from) / MS;
    await lane.agent!.ready();
    const took: number[] = [];
    for (let i = 0; i < changes; i++) took.push(await path.change());
    const quietFrom = lane.usage().cpuMs;
    await sleep(IDLE_SECONDS * 1000);
    const idleCpu = (lane.usage().cpuMs - quietFrom) / (IDLE_SECONDS * 1000);
    const stream = streamSeconds > 0 ? await path.stream(streamSeconds) : null;
    const { residentMiB } = lane.usage();
    return { mode, services, endpoints, coldMs, changeMs: summarize(took), residentMiB, idleCpu, stream };
  } finally {
    lane.close();
  }
}
