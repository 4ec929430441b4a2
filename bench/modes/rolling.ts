/** A rolling update of a service with many endpoints, while it is called. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Load } from '../../src/lab/place.ts';
import type { CallSummary } from '../../src/lab/results.ts';
import type { Family } from '../../src/model/records.ts';
import { type Backend, clusterIp, NAME_PORT, SERVICE_PORTS, slices } from './cluster.ts';
import { BACKEND_PODS, Lane } from './lane.ts';
import type { RunMode } from './lane-mode.ts';
import type { RollingRow } from './result.ts';
import type { Rival } from './rival.ts';

const SERVICE = 0;
const STEPS = 20;
const STEP_MS = 250;
/** How long an address goes on answering after it has left the service, as a pod that ends does. */
const GRACE_STEPS = 2;
/**
 * Requests a second. With more than a machine can answer they queue up and time out, in any mode: it is to answer twice as
 * many while nothing changes, since a change wants the processors as well.
 */
const RATES = [400, 200, 100, 50];
const REQUEST_MS_MAX = 1000;
const TRY_MS = 2000;
const TRY_P99_US_MAX = (REQUEST_MS_MAX / 10) * 1000;

/** Generation 0 or 1 of endpoint `index`: an address of one of the backend pods, in a range of its own. */
function addressOf(generation: number, index: number): string {
  return `10.11.${generation * 16 + (index >> 8)}.${index & 255}`;
}

class RollingUpdate {
  readonly #lane: Lane;
  readonly #endpoints: number;
  #updated = 0;

  constructor(lane: Lane, endpoints: number) {
    this.#lane = lane;
    this.#endpoints = endpoints;
  }

  /** Every address there will be, on the backend pods; routed to them by way of both nodes. */
  async wire(): Promise<void> {
    const { lab } = this.#lane;
    await lab.ip('node', [`route add 10.11.0.0/16 via ${lab.node('far').addresses[4]}`]);
    for (const [at, name] of BACKEND_PODS.entries()) {
      const mine: string[] = [];
      for (let generation = 0; generation < 2; generation++)
        for (let i = at; i < this.#endpoints; i += BACKEND_PODS.length) mine.push(addressOf(generation, i));
      await lab.ip(
        name,
        mine.map((address) => `addr add ${address}/32 dev lo`),
      );
      const { device, addresses } = lab.pod(name).plan;
      // By way of the pod's own address: each one by itself would want a place in the table of neighbours, which has 1,024.
      await lab.ip(
        'far',
        mine.map((address) => `route add ${address}/32 via ${addresses[4]} dev ${device} onlink`),
      );
    }
  }

  async write(): Promise<void> {
    const backends: Backend[] = Array.from({ length: this.#endpoints }, (_, i) => ({
      node: 'far',
      addresses: { 4: addressOf(i < this.#updated ? 1 : 0, i) },
    }));
    const service = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: `service-${SERVICE}`, namespace: `team-${SERVICE}` },
      spec: {
        type: 'ClusterIP',
        clusterIP: clusterIp(4, SERVICE),
        ports: [{ name: 'name', protocol: 'TCP', port: SERVICE_PORTS.name, targetPort: NAME_PORT }],
      },
    };
    const ports = [{ name: 'name', protocol: 'TCP', port: NAME_PORT }];
    await this.#lane.feed.show('rolling', [service, ...slices(SERVICE, [4], backends, ports)]);
  }

  /** Replaces everything step by step; old addresses go away some time after they have left the service. */
  async roll(): Promise<void> {
    const { lab } = this.#lane;
    const perStep = Math.ceil(this.#endpoints / STEPS);
    for (let step = 1; step <= STEPS + GRACE_STEPS; step++) {
      this.#updated = Math.min(this.#endpoints, step * perStep);
      await this.write();
      await sleep(STEP_MS);
      const gone = step - GRACE_STEPS;
      if (gone < 1) continue;
      const end = Math.min(this.#endpoints, gone * perStep);
      const lines: string[] = [];
      for (let i = (gone - 1) * perStep; i < end; i++)
        lines.push(`route replace blackhole ${addressOf(0, i)}/32`);
      await lab.ip('far', lines);
    }
  }
}

function load(lane: Lane, rate: number, durationMs: number): Promise<Load> {
  const options = { rate, durationMs, timeoutMs: REQUEST_MS_MAX };
  return lane.lab.pod('caller').load('tcp', clusterIp(4, SERVICE), SERVICE_PORTS.name, options);
}

/** The first of RATES of which twice as many are answered while nothing changes. */
export async function bearableRate(
  attempt: (rate: number) => Promise<Pick<CallSummary, 'total' | 'outcomes' | 'skipped' | 'latencyUs'>>,
): Promise<number> {
  for (const rate of RATES) {
    const { total, outcomes, skipped, latencyUs } = await attempt(2 * rate);
    if (skipped === 0 && outcomes.ok === total && latencyUs.p99 <= TRY_P99_US_MAX) return rate;
  }
  throw new Error(`${2 * RATES.at(-1)!} requests a second are too many, although nothing changes`);
}

export interface RollingOptions {
  readonly endpoints: number;
  readonly cpu: number;
  readonly rival: Rival | null;
}

export async function measureRolling(
  mode: RunMode,
  { endpoints, cpu, rival }: RollingOptions,
): Promise<RollingRow> {
  const families: readonly Family[] = [4];
  const lane = await Lane.create(mode, families, cpu, rival);
  try {
    const update = new RollingUpdate(lane, endpoints);
    await update.wire();
    await lane.feed.show('cluster', []);
    await update.write();
    await lane.startProxy();
    await lane.ready();
    await lane.answers(SERVICE);
    const rate = await bearableRate(async (tried) => (await load(lane, tried, TRY_MS)).done);
    const began = performance.now();
    const requests = await load(lane, rate, (STEPS + GRACE_STEPS + 8) * STEP_MS * 2);
    await update.roll();
    const { total, outcomes } = await requests.stop();
    const seconds = (performance.now() - began) / 1000;
    return { mode, endpoints, rate, requests: total, failed: total - (outcomes.ok ?? 0), seconds };
  } finally {
    await lane.feed.show('rolling', []);
    await lane.close();
  }
}
