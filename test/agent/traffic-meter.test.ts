/** Sums over readers that come, go and begin anew. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GATHER_MS, TrafficMeter } from '../../src/agent/traffic-meter.ts';
import type { TrafficCell, TrafficReader, TrafficSettings } from '../../src/dataplane/traffic.ts';
import type { DesiredService } from '../../src/model/desired.ts';
import { stateOf } from '../support/desired.ts';
import { NODE, web } from '../support/web.ts';

function cell(port: string, connections: number, rest: Partial<TrafficCell> = {}): TrafficCell {
  const nothing = { packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0, endpoint: '' };
  return { ...nothing, cell: port, port, connections, ...rest };
}

class FakeReader implements TrafficReader {
  readonly mode = 'nft';
  cells: TrafficCell[] = [];
  reads = 0;
  error: Error | null = null;
  async read() {
    this.reads++;
    if (this.error) throw this.error;
    return this.cells.map((one) => ({ ...one }));
  }
}

function meterOf(settings: Partial<TrafficSettings> = {}) {
  const world = {
    readers: [] as FakeReader[],
    services: [web(1, ['10.10.1.1 80']), web(2, ['10.10.1.1 80'])] as DesiredService[],
    nowMs: 0,
    failures: [] as unknown[],
  };
  const meter = new TrafficMeter({
    settings: { level: 'traffic', by: 'service', ...settings },
    readers: () => world.readers,
    state: () => stateOf(world.services, NODE),
    now: () => world.nowMs,
    onFailure: (_reader, error) => world.failures.push(error),
  });
  const connections = async () => {
    world.nowMs += GATHER_MS;
    const { services } = await meter.report();
    return Object.fromEntries(services.map(({ port, connections: count }) => [port, count]));
  };
  return { ...world, world, meter, connections };
}

const A = 'test/web-1:tcp';
const B = 'test/web-2:tcp';

describe('the meter of traffic', () => {
  test('a switch of modes is no reset, and what drains goes on counting', async () => {
    const { world, connections } = meterOf();
    const old = new FakeReader();
    world.readers = [old];
    old.cells = [cell(A, 5), cell(B, 1)];
    expect(await connections()).toEqual({ [A]: 5, [B]: 1 });
    const next = new FakeReader();
    next.cells = [cell(A, 2)];
    old.cells = [cell(A, 6), cell(B, 1)];
    world.readers = [next, old];
    expect(await connections()).toEqual({ [A]: 8, [B]: 1 });
    world.readers = [next];
    expect(await connections()).toEqual({ [A]: 8, [B]: 1 });
  });

  test('however counters move, are lost and begin anew, sums never fall and miss nothing that was read', async () => {
    const step = fc.oneof(
      fc.record({ what: fc.constant('move' as const), by: fc.nat(1000) }),
      fc.record({ what: fc.constant('anew' as const), by: fc.nat(1000) }),
      fc.record({ what: fc.constant('switch' as const), by: fc.nat(1000) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
        const { world, connections } = meterOf();
        let reader = new FakeReader();
        world.readers = [reader];
        let stands = 0;
        let expected = 0;
        for (const { what, by } of steps) {
          if (what === 'switch') {
            reader = new FakeReader();
            world.readers = [reader];
          }
          // A counter that was made anew is known as such by standing lower.
          const begins = what === 'switch' || (what === 'anew' && by < stands);
          expected += begins ? by : what === 'move' ? by : Math.max(by - stands, 0);
          stands = begins ? by : what === 'move' ? stands + by : Math.max(by, stands);
          reader.cells = [cell(A, stands)];
          expect((await connections())[A] ?? 0).toBe(expected);
        }
      }),
    );
  });

  test('whoever asks, counters are read every ten seconds at most, and once for all who wait', async () => {
    const { world, meter } = meterOf();
    const reader = new FakeReader();
    world.readers = [reader];
    await Promise.all([meter.report(), meter.report(), meter.report()]);
    expect(reader.reads).toBe(1);
    world.nowMs = GATHER_MS - 1;
    await meter.report();
    expect(reader.reads).toBe(1);
    world.nowMs = GATHER_MS;
    await meter.report();
    expect(reader.reads).toBe(2);
  });

  test('level off reads nothing', async () => {
    const { world, meter } = meterOf({ level: 'off' });
    const reader = new FakeReader();
    world.readers = [reader];
    await meter.gather();
    expect(await meter.report()).toMatchObject({ services: [], endpoints: [] });
    expect(reader.reads).toBe(0);
  });

  test('one reader that fails costs the others nothing, and is read again', async () => {
    const { world, connections } = meterOf();
    const [broken, good] = [new FakeReader(), new FakeReader()];
    broken.error = new Error('gone');
    broken.cells = [cell(A, 3)];
    good.cells = [cell(B, 4)];
    world.readers = [broken, good];
    expect(await connections()).toEqual({ [B]: 4 });
    expect(world.failures).toEqual([broken.error]);
    broken.error = null;
    expect(await connections()).toEqual({ [A]: 3, [B]: 4 });
  });

  test('a service that is gone ends with one last value; so does an endpoint', async () => {
    const { world, meter } = meterOf({ by: 'endpoint' });
    const reader = new FakeReader();
    world.readers = [reader];
    const at = (endpoint: string, count: number) => cell(A, count, { cell: endpoint, endpoint });
    const names = async () => {
      world.nowMs += GATHER_MS;
      const { services, endpoints } = await meter.report();
      return [...services.map(({ port }) => port), ...endpoints.map(({ endpoint }) => endpoint)];
    };
    reader.cells = [at('10.10.1.1:80', 1), at('10.10.1.4:80', 2)];
    expect(await names()).toEqual([A, '10.10.1.1:80', '10.10.1.4:80']);
    expect(await names()).toEqual([A, '10.10.1.1:80']);
    world.services = [];
    reader.cells = [at('10.10.1.1:80', 2), at('10.10.1.4:80', 2)];
    expect(await names()).toEqual([A, '10.10.1.1:80']);
    expect(await names()).toEqual([]);
  });

  test('the service has the sum of its endpoints, of both families', async () => {
    const { world, meter } = meterOf({ by: 'endpoint' });
    const reader = new FakeReader();
    world.readers = [reader];
    reader.cells = [
      cell(A, 1, { cell: '1', endpoint: '10.10.1.1:80', packetsIn: 10, bytesIn: 100 }),
      cell(A, 2, { cell: '2', endpoint: '[fd00::1]:80', packetsIn: 20, bytesIn: 200 }),
    ];
    const { services, endpoints } = await meter.report();
    expect(services).toMatchObject([{ port: A, connections: 3, packetsIn: 30, bytesIn: 300 }]);
    expect(endpoints).toHaveLength(2);
  });
});
