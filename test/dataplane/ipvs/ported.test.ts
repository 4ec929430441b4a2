/**
 * Connections whose port the rules translate (affinity, and the service's port is not the backends'): what happens to their
 * Service, or to the mode, is of no concern to them while they are open.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { IpvsDataplane } from '../../../src/dataplane/ipvs/ipvs-dataplane.ts';
import type { Hold } from '../../../src/lab/place.ts';
import type { DesiredService, DesiredState } from '../../../src/model/desired.ts';
import { changeBetween, stateOf } from '../../support/desired.ts';
import { ipvs } from '../../support/ipvs.ts';
import { NodeWorld } from '../../support/node-world.ts';
import { NODE, web } from '../../support/web.ts';

const AFFINITY_SECONDS = 600;
/** Nothing may end by it. */
const GRACE_MS = 600_000;
const INTERVAL_MS = 50;
/** Under emulation, and longer than a retransmission. */
const TIMEOUT_MS = 8_000;
const AFTERWARDS_MS = 3_000;

interface Row {
  readonly what: string;
  readonly before: DesiredService;
  readonly after: readonly DesiredService[];
  /** Datagrams go on to a backend of now, so they are asked where the one that they have stays. */
  readonly datagrams: boolean;
}

function rows(): Row[] {
  const families = [
    ['IPv4', '10.10.1.1', '10.10.2.2'],
    ['IPv6', 'fd00:10:10:1::1', 'fd00:10:10:2::2'],
  ] as const;
  return families.flatMap(([family, first, second]) => {
    const sticky = web(10, [`${first} 80`], AFFINITY_SECONDS);
    const plain = web(10, [`${first} 80`]);
    const row = (
      what: string,
      before: DesiredService,
      after: readonly DesiredService[],
      datagrams: boolean,
    ) => ({ what: `${family}, ${what}`, before, after, datagrams });
    return [
      row('the service is not sticky any more', sticky, [plain], true),
      row('the service becomes sticky', plain, [sticky], true),
      row(
        'its endpoint listens on another port',
        sticky,
        [web(10, [`${first} 8080`], AFFINITY_SECONDS)],
        false,
      ),
      row(
        'it has another endpoint, on another port',
        sticky,
        [web(10, [`${second} 443`], AFFINITY_SECONDS)],
        false,
      ),
      row(
        'its endpoints listen on different ports',
        sticky,
        [web(10, [`${first} 80`, `${second} 443`], AFFINITY_SECONDS)],
        true,
      ),
      row('it is removed', sticky, [], false),
    ];
  });
}

ipvs.describe('ipvs, connections whose port is translated', () => {
  let world: NodeWorld;
  let dataplane: IpvsDataplane;
  let state: DesiredState;
  const holds: Hold[] = [];

  beforeAll(async () => {
    world = await NodeWorld.create({ names: ['pod', 'L1', 'R2', 'R3', 'outside'] });
  });
  beforeEach(async () => {
    dataplane = new IpvsDataplane({ netns: world.netns, graceMs: GRACE_MS });
    state = stateOf([], NODE);
    expect((await dataplane.start(state)).refusals).toEqual([]);
  });
  afterEach(async () => {
    await Promise.all(holds.splice(0).map((hold) => hold.stop()));
    await dataplane.close();
  });
  afterAll(() => world?.remove());

  async function bring(services: readonly DesiredService[]) {
    const next = stateOf(services, NODE);
    const result = await dataplane.apply(changeBetween(state, next), next);
    state = next;
    expect(result.refusals).toEqual([]);
  }

  /** Through the cluster IP from this node's pod and the node itself, through the external address from outside. */
  async function open(service: DesiredService, protocols: readonly ('tcp' | 'udp')[]): Promise<void> {
    const [clusterIP, external] = service.ports[0]!.frontends;
    const options = { intervalMs: INTERVAL_MS, timeoutMs: TIMEOUT_MS };
    for (const protocol of protocols)
      for (const [from, { address, port }] of [
        ['pod', clusterIP!],
        ['node', clusterIP!],
        ['outside', external!],
      ] as const)
        holds.push(await world.place(from).hold(protocol, address, port, options));
    for (const hold of holds) await hold.established;
  }

  async function goOn(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, AFTERWARDS_MS));
    expect(holds.flatMap(({ failures }) => failures)).toEqual([]);
  }

  test.for(rows())('$what', async ({ before, after, datagrams }) => {
    await bring([before]);
    await open(before, datagrams ? ['tcp', 'udp'] : ['tcp']);
    await bring(after);
    await goOn();
    const port = after[0]?.ports[0];
    if (!port) return;
    const { address, port: number } = port.frontends[0]!;
    const { outcome } = await world.place('pod').ask('tcp', address, number, { timeoutMs: TIMEOUT_MS });
    expect(outcome).toBe('ok');
  });

  test('the node goes over to another mode', async () => {
    const services = [
      web(10, ['10.10.1.1 80'], AFFINITY_SECONDS),
      web(11, ['fd00:10:10:1::1 80'], AFFINITY_SECONDS),
    ];
    await bring(services);
    for (const service of services) await open(service, ['tcp']);
    await dataplane.retire(state);
    await goOn();
  });
});
