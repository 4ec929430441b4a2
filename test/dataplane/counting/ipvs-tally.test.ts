/** Sums of what the kernel counts for virtual services that come, go and come back, against a kernel that is made up. */
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { markOf } from '../../../src/dataplane/ipvs/marks.ts';
import { IpvsTraffic, rowsOf } from '../../../src/dataplane/ipvs/traffic.ts';
import { VirtualServices, type WantedPool } from '../../../src/dataplane/ipvs/virtual-services.ts';
import type { TrafficSettings } from '../../../src/dataplane/traffic.ts';
import type { Protocol } from '../../../src/model/records.ts';
import { FakeIpvs } from '../../support/fake-ipvs.ts';
import { backend } from '../../support/web.ts';

const A = '10.10.1.1 80';
const B = '10.10.1.2 80';
const PORT = 'test/web:tcp';

function pool(
  number: number,
  backends: readonly string[],
  port = PORT,
  protocol: Protocol = 'UDP',
): WantedPool {
  const scheduling = { scheduler: 'rr', flags: 0, timeoutSeconds: 0, weightOf: () => 1 };
  return {
    family: 4,
    number,
    protocol,
    scheduling,
    backends: backends.map(backend),
    owner: 'test/web',
    port,
  };
}

/** An agent's memory of one kernel. */
class Agent {
  readonly kernel: FakeIpvs;
  readonly counting: IpvsTraffic;
  readonly services: VirtualServices;
  readonly #pools = new Map<number, WantedPool>();
  #last = new Map<string, number>();
  readonly sums: Record<string, number>;
  nowMs = 0;

  /** @param sums what an agent before had told */
  constructor(kernel: FakeIpvs, settings: Partial<TrafficSettings> = {}, sums: Record<string, number> = {}) {
    this.kernel = kernel;
    this.sums = sums;
    this.counting = new IpvsTraffic(
      { level: 'traffic', by: 'service', ...settings },
      rowsOf(() => kernel),
    );
    this.services = new VirtualServices(kernel, 0, this.counting);
  }

  async start(...pools: WantedPool[]): Promise<void> {
    await this.services.read();
    await this.counting.begin();
    for (const one of pools) await this.set(one);
  }

  async set(wanted: WantedPool): Promise<void> {
    this.#pools.set(wanted.number, wanted);
    expect((await this.services.provide([wanted])).refused).toEqual([]);
    await this.services.withdraw(
      [{ name: nameOf(wanted.number), wanted, protocol: wanted.protocol }],
      this.nowMs,
    );
  }

  async end(number: number): Promise<void> {
    const { protocol } = this.#pools.get(number)!;
    this.#pools.delete(number);
    await this.services.withdraw([{ name: nameOf(number), wanted: null, protocol }], this.nowMs);
  }

  has(number: number): boolean {
    return this.#pools.has(number);
  }

  pools(): WantedPool[] {
    return [...this.#pools.values()];
  }

  /** Much later, as far as it waits for anything. */
  async sweep(): Promise<void> {
    this.nowMs += 60_000;
    await this.services.sweep((_, number) => this.#pools.has(number), this.nowMs);
  }

  /** Somebody else changed IPVS. */
  async repair(): Promise<void> {
    await this.services.read();
    for (const wanted of this.#pools.values()) await this.services.provide([wanted]);
  }

  /** What whoever reads makes of it: it adds up what moved, cell by cell. By port and endpoint. */
  async cells(): Promise<Record<string, number>> {
    const last = new Map<string, number>();
    for (const { cell, port, endpoint, connections } of await this.counting.read()) {
      const before = this.#last.get(cell) ?? 0;
      expect(connections).toBeGreaterThanOrEqual(before);
      const key = `${port} ${endpoint}`.trim();
      if (connections > before) this.sums[key] = (this.sums[key] ?? 0) + connections - before;
      last.set(cell, connections);
    }
    this.#last = last;
    return this.sums;
  }
}

function nameOf(number: number) {
  return { family: 4 as const, mark: markOf(number) };
}

/** Connections by a destination of a pool, and the kernel's sum of them. */
function connect(kernel: FakeIpvs, number: number, to: string, count: number, held?: 'held'): void {
  for (let i = 0; i < count; i++) kernel.connect(`4 ${markOf(number)}`, to, held);
  kernel.sumUp();
}

describe('counters of virtual services', () => {
  test('all that is counted of a connection arrives under its name', async () => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel);
    await agent.start(pool(1, [A]));
    expect(await agent.counting.read()).toEqual([]);
    connect(kernel, 1, A, 3);
    const counts = { connections: 3, packetsIn: 3, packetsOut: 6, bytesIn: 300, bytesOut: 900 };
    const [cell] = await agent.counting.read();
    expect(cell).toEqual({ ...counts, cell: expect.any(String), port: PORT, endpoint: '' });
  });

  type Step = (agent: Agent, kernel: FakeIpvs) => unknown;
  const flush: Step = (_, kernel) => kernel.services.clear();
  const zero: Step = (_, kernel) => kernel.zero();
  const repair: Step = (agent) => agent.repair();
  const read: Step = (agent) => agent.cells();
  const set =
    (wanted: WantedPool): Step =>
    (agent) =>
      agent.set(wanted);
  const end =
    (number: number): Step =>
    (agent) =>
      agent.end(number);
  const sweep: Step = (agent) => agent.sweep();
  const traffic =
    (number: number, to: string, count: number, held?: 'held'): Step =>
    (_, kernel) =>
      connect(kernel, number, to, count, held);
  interface Case {
    readonly title: string;
    readonly steps: readonly Step[];
    readonly service: Record<string, number>;
    /** Default: as `service`, under A. */
    readonly endpoint?: Record<string, number>;
  }
  const CASES: readonly Case[] = [
    {
      title: 'made again under its number after somebody removed it, and busier than it was',
      steps: [traffic(1, A, 5), read, flush, repair, traffic(1, A, 9)],
      service: { [PORT]: 14 },
    },
    {
      title: 'made again and not as busy as it was',
      steps: [traffic(1, A, 5), read, flush, repair, traffic(1, A, 2)],
      service: { [PORT]: 7 },
    },
    {
      title: 'made again, with no reading since',
      steps: [traffic(1, A, 5), read, end(1), sweep, set(pool(1, [A])), traffic(1, A, 5)],
      service: { [PORT]: 10 },
    },
    {
      title: 'set to zero, and read before it counts as much as it had',
      steps: [traffic(1, A, 5), read, zero, traffic(1, A, 2), read, traffic(1, A, 4)],
      service: { [PORT]: 11 },
    },
    {
      title: 'set to zero twice, and nothing comes',
      steps: [traffic(1, A, 5), read, zero, read, zero, read],
      service: { [PORT]: 5 },
    },
    {
      title: 'removed while it counts, never read while it was there',
      steps: [traffic(1, A, 5), end(1), sweep],
      service: { [PORT]: 5 },
    },
    {
      title: 'a number that another port gets',
      steps: [traffic(1, A, 5), end(1), sweep, set(pool(1, [A], 'test/other')), traffic(1, A, 7)],
      service: { [PORT]: 5, 'test/other': 7 },
      endpoint: { [`${PORT} 10.10.1.1:80`]: 5, 'test/other 10.10.1.1:80': 7 },
    },
    {
      title: 'two pools of a port are one sum',
      steps: [set(pool(2, [A])), traffic(1, A, 5), traffic(2, A, 7)],
      service: { [PORT]: 12 },
    },
    {
      title: 'a destination that leaves and comes back anew',
      steps: [traffic(1, A, 5), set(pool(1, [B])), set(pool(1, [A])), traffic(1, A, 9)],
      service: { [PORT]: 14 },
    },
    {
      title: 'a destination that leaves and comes back with what it had counted',
      steps: [traffic(1, A, 5, 'held'), set(pool(1, [B])), read, set(pool(1, [A])), traffic(1, A, 9)],
      service: { [PORT]: 14 },
    },
    {
      title: 'a destination that comes later',
      steps: [traffic(1, A, 5), set(pool(1, [A, B])), traffic(1, B, 4)],
      service: { [PORT]: 9 },
      endpoint: { [`${PORT} 10.10.1.1:80`]: 5, [`${PORT} 10.10.1.2:80`]: 4 },
    },
  ];
  test.each(CASES)('$title', async ({ steps, service, endpoint }) => {
    const of = async (by: TrafficSettings['by']) => {
      const kernel = new FakeIpvs();
      const agent = new Agent(kernel, { by });
      await agent.start(pool(1, [A]));
      for (const step of steps) await step(agent, kernel);
      return agent.cells();
    };
    expect(await of('service')).toEqual(service);
    expect(await of('endpoint')).toEqual(endpoint ?? { [`${PORT} 10.10.1.1:80`]: service[PORT] });
  });

  test.each(['service', 'endpoint'] as const)(
    'by %s, an agent that starts anew counts what is new, and what came before it knew whose',
    async (by) => {
      const kernel = new FakeIpvs();
      const first = new Agent(kernel, { by });
      await first.start(pool(1, [A]), pool(2, [A], 'test/gone'));
      connect(kernel, 1, A, 5);
      const second = new Agent(kernel, { by });
      await second.services.read();
      await second.counting.begin();
      connect(kernel, 1, A, 3);
      connect(kernel, 2, A, 3);
      expect(await second.cells()).toEqual({});
      await second.set(pool(1, [A]));
      expect(Object.values(await second.cells())).toEqual([3]);
      kernel.services.clear();
      await second.repair();
      connect(kernel, 1, A, 8);
      expect(Object.values(await second.cells())).toEqual([11]);
    },
  );

  test('a service that is gone is told once more, and stays until the kernel has summed it up', async () => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel);
    await agent.start(pool(1, [A]));
    kernel.connect(`4 ${markOf(1)}`, A);
    await agent.end(1);
    expect(kernel.services.size).toBe(1);
    kernel.sumUp();
    await agent.sweep();
    expect(kernel.services.size).toBe(0);
    expect(agent.services.isAnyLeaving()).toBe(false);
    expect(await agent.counting.read()).toMatchObject([{ port: PORT, connections: 1 }]);
    expect(await agent.counting.read()).toEqual([]);
  });

  test.each(['off', 'connections'] as const)('level %s', async (level) => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel, { level });
    await agent.start(pool(1, [A]));
    connect(kernel, 1, A, 5);
    const shown = kernel.shown;
    await agent.end(1);
    if (level === 'off') {
      expect(agent.counting.reader).toBeNull();
      expect(kernel.services.size).toBe(0);
      expect(kernel.shown).toBe(shown);
    } else {
      const none = { packetsIn: 0, packetsOut: 0, bytesIn: 0, bytesOut: 0 };
      expect(await agent.counting.read()).toMatchObject([{ connections: 5, ...none }]);
    }
  });

  test('a change looks at what it takes away alone, and goes on when that fails', async () => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel, { by: 'endpoint' });
    await agent.start(...[1, 2, 3].map((number) => pool(number, [A, B])));
    const shown = kernel.shown;
    await agent.set(pool(2, [A]));
    expect(kernel.shown).toBe(shown + 1);
    kernel.dump = () => Promise.reject(new Error('no'));
    await agent.set(pool(3, [A]));
    expect(kernel.services.get(`4 ${markOf(3)}`)!.destinations.size).toBe(1);
    await expect(agent.counting.read()).rejects.toThrow('no');
  });

  test('a reading that arrives after a change is not of what came since', async () => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel);
    await agent.start(pool(1, [A]));
    connect(kernel, 1, A, 5);
    let arrive = () => {};
    kernel.late = new Promise((resolve) => {
      arrive = resolve;
    });
    const reading = agent.cells();
    await setImmediate();
    kernel.late = Promise.resolve();
    connect(kernel, 1, A, 4);
    await agent.end(1);
    const removed = agent.sweep().then(() => agent.set(pool(1, [A])));
    await setImmediate();
    arrive();
    await Promise.all([reading, removed]);
    connect(kernel, 1, A, 3);
    expect(await agent.cells()).toEqual({ [PORT]: 12 });
  });

  test('a service that comes back while a reading still misses it counts for its port', async () => {
    const kernel = new FakeIpvs();
    const agent = new Agent(kernel, { by: 'endpoint' });
    await agent.start(pool(1, [A]));
    await agent.end(1);
    await Promise.all([agent.cells(), agent.set(pool(1, [A]))]);
    connect(kernel, 1, A, 1);
    expect(await agent.cells()).toEqual({ [`${PORT} 10.10.1.1:80`]: 1 });
  });

  test('whatever happens in whatever order, sums are what happened', async () => {
    const number = fc.integer({ min: 1, max: 3 });
    const step = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({ what: fc.constant('traffic' as const), number, count: fc.nat(9) }),
      },
      fc.record({ what: fc.constantFrom('end', 'here', 'there', 'both'), number }),
      fc.record({ what: fc.constantFrom('read', 'sweep', 'flush', 'zero', 'adopt', 'at once') }),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('service' as const, 'endpoint' as const),
        fc.array(step as fc.Arbitrary<{ what: string; number?: number; count?: number }>, { maxLength: 40 }),
        async (by, steps) => {
          const world = new Everything(by);
          await world.agent.start();
          for (const one of steps) await world.step(one);
          expect(await world.agent.cells()).toEqual(world.happened);
        },
      ),
      { numRuns: 3000 },
    );
  });
});

/** What is done to services, and what really happened: connections by port, or by port and endpoint. */
class Everything {
  readonly kernel = new FakeIpvs();
  readonly by: TrafficSettings['by'];
  agent: Agent;
  readonly happened: Record<string, number> = {};

  constructor(by: TrafficSettings['by']) {
    this.by = by;
    this.agent = new Agent(this.kernel, { by });
  }

  async step({
    what,
    number = 1,
    count = 0,
  }: {
    what: string;
    number?: number;
    count?: number;
  }): Promise<void> {
    const { agent, kernel } = this;
    const backends = { here: [A], there: [B], both: [A, B] }[what];
    if (backends) await agent.set(pool(number, backends, `test/${number}`));
    else if (what === 'traffic') this.#connect(number, count);
    else if (what === 'end') await (agent.has(number) && agent.end(number));
    else if (what === 'sweep') await agent.sweep();
    // A reading at the same time as a change.
    else if (what === 'at once') await Promise.all([agent.cells(), agent.set(pool(1, [A], 'test/1'))]);
    else await agent.cells();
    // What nobody has read when others begin anew is lost, or cannot be told from what came after it.
    if (what === 'zero') {
      kernel.zero();
      await agent.cells();
    } else if (what === 'flush') {
      kernel.services.clear();
      await agent.repair();
    } else if (what === 'adopt') {
      this.agent = new Agent(kernel, { by: this.by }, agent.sums);
      await this.agent.start(...agent.pools());
    }
  }

  #connect(number: number, count: number): void {
    for (const to of this.kernel.services.get(`4 ${markOf(number)}`)?.destinations.keys() ?? []) {
      connect(this.kernel, number, to, count, count % 2 === 1 ? 'held' : undefined);
      const key = this.by === 'service' ? `test/${number}` : `test/${number} ${to.replace(' ', ':')}`;
      if (count > 0) this.happened[key] = (this.happened[key] ?? 0) + count;
    }
  }
}
