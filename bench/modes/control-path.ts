/** The control path: from a file on disk, or from the API server, to what a client meets. Each measurement has a lane of its own. */
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Family } from '../../src/model/records.ts';
import { summarize } from '../support/stats.ts';
import { type Backend, changingObjects, clusterObjects } from './cluster.ts';
import { Lane } from './lane.ts';
import type { RunMode } from './lane-mode.ts';
import type { ControlRow } from './result.ts';
import type { Rival } from './rival.ts';

const MS = 1e6;
/** As long as the default sync period of all proxies, so that what they do from time to time has its share. */
const IDLE_SECONDS = 30;
/** The changed service comes after those of the cluster. */
const SPARE = 10;
const CHANGES_MS_MAX = 40_000;
const CHANGES_MIN = 5;

export interface ControlOptions {
  readonly services: number;
  readonly endpoints: number;
  readonly families: readonly Family[];
  readonly cpu: number;
  readonly changes: number;
  /** 0: no stream of changes. */
  readonly streamSeconds: number;
  /** With one, cluster state comes from its API server. */
  readonly rival: Rival | null;
}

/** CLOCK_MONOTONIC in ns, as the load program tells it. */
const nowNs = () => Number(process.hrtime.bigint());

/**
 * The backends of a stream of so many changes from `current`, and of the one after it, which none before has: who answers
 * is the last change, and not an older state of a proxy that is behind.
 */
export function streamOf(current: number, backends: number, count: number): { ids: number[]; last: number } {
  const last = (current % backends) + 1;
  const others = Array.from({ length: backends }, (_, i) => i + 1).filter((id) => id !== last);
  const begin = others.indexOf(current) + 1;
  return { ids: Array.from({ length: count }, (_, i) => others[(begin + i) % others.length]!), last };
}

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
  async write(id: number): Promise<void> {
    const backends = [this.#backends[id - 1]!];
    this.#current = id;
    await this.#lane.feed.show('changing', changingObjects(this.#service, this.#lane.families, backends));
  }

  /** ms from the moment before the change to the first answer of the new backend. */
  async change(): Promise<number> {
    const from = nowNs();
    await this.write((this.#current % this.#backends.length) + 1);
    return ((await this.#lane.until(this.#family, this.#service, this.#current)) - from) / MS;
  }

  /** ms of up to so many changes, one after the other; fewer where they are slow. */
  async changes(count: number): Promise<number[]> {
    const took: number[] = [];
    const until = performance.now() + CHANGES_MS_MAX;
    while (took.length < count && (took.length < CHANGES_MIN || performance.now() < until))
      took.push(await this.change());
    return took;
  }

  /** 100 changes a second; then how long until the last one is in force. */
  async stream(seconds: number): Promise<NonNullable<ControlRow['stream']>> {
    const before = this.#lane.usage().cpuMs;
    const { ids, last } = streamOf(this.#current, this.#backends.length, seconds * 100);
    const began = nowNs();
    for (const [i, id] of ids.entries()) {
      await this.write(id);
      const ahead = (i + 1) * 10 - (nowNs() - began) / MS;
      if (ahead > 0) await sleep(ahead);
    }
    const from = nowNs();
    await this.write(last);
    const answered = await this.#lane.until(this.#family, this.#service, last);
    const spent = this.#lane.usage().cpuMs - before;
    return { seconds, lagMs: (answered - from) / MS, cpu: spent / ((answered - began) / MS) };
  }

  until(): Promise<number> {
    return this.#lane.until(this.#family, this.#service, this.#current);
  }
}

/** Cold start, single changes, a stream of them, memory and idle time of one mode at one size. */
export async function measureControl(
  mode: RunMode,
  { services, endpoints, families, cpu, changes, streamSeconds, rival }: ControlOptions,
): Promise<ControlRow> {
  const lane = await Lane.create(mode, families, cpu, rival);
  try {
    await lane.startLoad();
    const backends = lane.backends();
    await lane.feed.show('cluster', clusterObjects({ services, endpoints, families, backends }));
    const path = new ControlPath(lane, services);
    await path.write(1);
    const from = nowNs();
    await lane.startProxy({ services, endpoints });
    const coldMs = ((await path.until()) - from) / MS;
    await lane.ready();
    const took = await path.changes(changes);
    const quietFrom = lane.usage().cpuMs;
    await sleep(IDLE_SECONDS * 1000);
    const idleCpu = (lane.usage().cpuMs - quietFrom) / (IDLE_SECONDS * 1000);
    const stream = streamSeconds > 0 ? await path.stream(streamSeconds) : null;
    const { residentMiB } = lane.usage();
    return { mode, services, endpoints, coldMs, changeMs: summarize(took), residentMiB, idleCpu, stream };
  } finally {
    await lane.feed.show('changing', []);
    await lane.close();
  }
}
