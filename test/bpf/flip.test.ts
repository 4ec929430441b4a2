/**
 * A pool that flips between two disjoint sets ten thousand times while two threads open connections: each gets a
 * backend of the set that is whole at that moment. What lies beside the ranges in tp_pool_slots are backends of
 * neither set, so a base of one pool with the count of another would be seen.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { packageRoot } from '../../src/node/native.ts';
import { loadWorld, SMALL, TestNet, type World } from '../support/bpf-world.ts';
import { packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const FLIPS = 10_000;
const VIP = '10.96.0.10';
/** Room for every range: each generation of the pool has its own until the ring comes round. */
const AREA = 8;
/** Last octets of the two sets and of the poison. */
const SETS = [
  [2, 3, 4],
  [5, 6, 7, 8, 9],
] as const;
const POISON = 99;

interface Report {
  readonly wrong: readonly string[];
  readonly seen: readonly [number, number];
  readonly certain: number;
  readonly dropped: number;
}

const root = skipUnless(privilege() === 'root', 'needs root');

root.describe('ten thousand flips', () => {
  let net: TestNet;
  let world: World;
  beforeAll(async () => {
    net = new TestNet('f');
    world = await loadWorld({ sizes: { ...SMALL, connections: 262_144, backends: 8192 } });
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });

  /** Opens connections from one client until told to stop. */
  function hammer(shared: SharedArrayBuffer, client: string): Promise<Report> {
    const frame = packet({
      src: client,
      dst: VIP,
      sport: 1,
      dport: 80,
      proto: 'udp',
      payload: new Uint8Array(2),
    });
    const context = new Uint8Array(192);
    new Uint32Array(context.buffer)[10] = net.device('up0').ifindex;
    const worker = new Worker(new URL('./flip-worker.mjs', import.meta.url), {
      workerData: {
        ...{ addon: `${packageRoot()}/build/Release/triplane.node`, program: world.programs.tp_ingress },
        ...{ frame, context, shared, ports: 34, backendAt: 33, backendsOf: SETS },
      },
    });
    return new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  }

  test('no packet meets a mixed pool', { timeout: 60_000 }, async () => {
    const { tables } = world;
    const add = (octets: readonly number[]) =>
      world.addBackends(
        octets.map((n) => [`10.1.0.${n}`, 8080] as const),
        ABI.B_IN_CLUSTER,
      );
    const sets = SETS.map(add);
    const [poison] = add([POISON]);
    const areas = Math.floor(tables.poolSlots.entries / AREA);
    tables.writePool(0, new Array<number>(areas * AREA).fill(poison!));
    const { frontend } = world.addService({
      address: VIP,
      port: 80,
      protocol: 'UDP',
      inside: 'drop',
      outside: 'drop',
    });
    const shared = new SharedArrayBuffer(16);
    const state = new Int32Array(shared);
    const flip = (n: number) => {
      const backends = sets[n % 2]!;
      const base = (n % areas) * AREA;
      tables.writePool(base, [...backends, ...new Array<number>(AREA - backends.length).fill(poison!)]);
      Atomics.store(state, 0, 2 * n - 1);
      for (const side of ['inside', 'outside'] as const)
        tables.flip(frontend, side, { base, count: backends.length, answer: ABI.CLUSTER });
      Atomics.store(state, 0, 2 * n);
    };
    flip(2);
    const reports = [hammer(shared, '10.0.0.9'), hammer(shared, '10.0.0.10')];
    try {
      while (Atomics.load(state, 2) < 100) await sleep(1);
      for (let n = 3; n < FLIPS + 3; n++) {
        flip(n);
        // Each generation lives long enough to be met.
        const until = Atomics.load(state, 2) + 2;
        while (Atomics.load(state, 2) < until);
      }
    } finally {
      Atomics.store(state, 1, 1);
    }
    for (const { wrong, seen, certain, dropped } of await Promise.all(reports)) {
      expect(wrong).toEqual([]);
      expect(dropped).toBe(0);
      expect(Math.min(...seen)).toBeGreaterThan(1000);
      expect(certain).toBeGreaterThan(1000);
    }
  });
});
