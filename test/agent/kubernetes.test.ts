/** The agent on the Kubernetes API: a server that comes late, goes, comes back changed and forgets; traffic stays. */
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WEB_PORT, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import type { Hold, Load } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { ApiRoad, ROAD_PORT } from '../support/api-road.ts';
import { FakeApiServer } from '../support/apiserver.ts';
import { faultEnvironment } from '../support/fault-point.ts';
import { SLOWNESS } from '../support/slowness.ts';
import { buildProgram, eventually, healthz, kernel, logged, OwnAgent, statusOf } from './support/node.ts';

const WEB = serviceAddress(4, 10);
/** The agent's waits, and the server's watches: back-off up to a minute, silence of minutes. Short ones are as they are. */
const HURRY = 200;
const TIMERS = { longerThanMs: 1000 * SLOWNESS, times: HURRY };
/** From the shortest to the longest step of the back-off, and once more: 0.8 s doubles to 30 s. */
const FAILURES_TO_THE_BOUND = 7;

/** A server that holds these pods as the endpoints of web. */
async function serve(
  road: ApiRoad,
  lab: Lab,
  version: number,
  ...pods: readonly string[]
): Promise<FakeApiServer> {
  const api = await new FakeApiServer({ version, hurry: HURRY }).listen();
  api.set('nodes', ...lab.nodeObjects());
  api.set('services', webService(lab));
  api.set('endpointslices', ...slicesOf(lab, pods));
  return road.lead(api);
}

function slicesOf(lab: Lab, pods: readonly string[]) {
  return webSlices(
    lab,
    lab.plan.pods.filter(({ name }) => pods.includes(name)),
  );
}

kernel.describe('an agent on the Kubernetes API', () => {
  let lab: Lab;
  let road: ApiRoad;
  let agent: OwnAgent;
  let args: string[];
  let calls: Load;
  let hold: Hold;
  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `kube-${process.pid}`,
      nodes: [{ name: 'cp' }, { name: 'worker1' }],
      pods: [
        { name: 'net-pod', node: 'cp' },
        ...['webpod1', 'webpod2'].map((name) => ({ name, node: 'worker1', labels: { app: 'web' } })),
      ],
    });
    road = await new ApiRoad(path.join(path.dirname(lab.manifests.path), 'api.sock')).open(lab, 'cp');
    args = [
      ...['--master', `http://127.0.0.1:${ROAD_PORT}`, '--cluster-cidr', '10.10.0.0/16'],
      ...['--healthz-bind-address', '0.0.0.0:10256', '--sync-period', '24h'],
    ];
    agent = new OwnAgent(lab, 'cp', args, faultEnvironment({ timers: TIMERS }));
  });
  afterAll(async () => {
    await calls?.stop().catch(() => {});
    await agent?.stop();
    await road?.close();
    lab?.down();
  });

  const pods = async () => {
    const { pods: found } = await lab
      .pod('net-pod')
      .call('tcp', WEB, WEB_PORT, { count: 30, timeoutMs: 2000 });
    return Object.keys(found).sort();
  };
  const sources = async () => (await statusOf(agent.adminSocket)).sources;
  /** Lists and watches are all well again. */
  const settled = (api: FakeApiServer) => eventually(() => api.watching).toBeGreaterThanOrEqual(3);

  test('without a server: 503, nothing in the kernel, and the reason is told', async () => {
    await eventually(() => healthz(lab.node('cp'))).toBe(503);
    await eventually(
      async () => (await sources()).filter(({ lastError }) => lastError !== '').length,
    ).toBeGreaterThan(0);
    expect((await lab.node('cp').exec(['nft', 'list', 'tables'])).stdout).not.toContain('triplane');
    expect(await healthz(lab.node('cp'))).toBe(503);
    expect(agent.alive).toBe(true);
  });

  test('once it is there: 200, and traffic', async () => {
    const api = await serve(road, lab, 100, 'webpod1', 'webpod2');
    await eventually(() => healthz(lab.node('cp'))).toBe(200);
    expect(await pods()).toEqual(['webpod1', 'webpod2']);
    await settled(api);
    calls = await lab
      .pod('net-pod')
      .load('tcp', WEB, WEB_PORT, { rate: 200, timeoutMs: 5000, durationMs: 170_000 });
    hold = await lab.pod('net-pod').hold('tcp', WEB, WEB_PORT, { connections: 8, durationMs: 170_000 });
    expect((await hold.established).open).toBe(8);
  });

  test('events of a watch arrive', async () => {
    road.api!.set('endpointslices', ...slicesOf(lab, ['webpod2']));
    await eventually(pods).toEqual(['webpod2']);
  });

  test('history that is gone (410) is made up for by a new list', async () => {
    const api = road.api!;
    api.fail({ do: 'status', status: 410, reason: 'Expired' }, ({ verb }) => verb === 'watch', 3);
    api.resetConnections();
    api.set('endpointslices', ...slicesOf(lab, ['webpod1']));
    api.compact();
    await eventually(pods).toEqual(['webpod1']);
    api.heal();
  });

  /** Bookmarks until this agent has seen how far they are apart: their silence says more from then on. */
  async function sendBookmarks(api: FakeApiServer): Promise<void> {
    const contact = async () => {
      const all = await sources();
      return all.find(({ what }) => what.toLowerCase().includes('endpointslice'))!.lastContactMs;
    };
    for (let n = 0; n < 3; n++) {
      const before = await contact();
      await eventually(async () => {
        api.bookmark('endpointslices');
        return contact();
      }).toBeGreaterThan(before);
    }
  }

  test.each([
    { title: 'by the time that they were to last', now: ['webpod2'], sign: async () => {} },
    { title: 'by bookmarks that do not come', now: ['webpod1'], sign: sendBookmarks },
  ])('half-open watches are noticed $title', async ({ now, sign }) => {
    const api = road.api!;
    await settled(api);
    await sign(api);
    road.silence();
    api.set('endpointslices', ...slicesOf(lab, now));
    await eventually(pods).toEqual(now);
  });

  test('a server that is gone changes nothing', async () => {
    const before = new Map((await sources()).map(({ what, failures }) => [what, failures]));
    await road.cut();
    // Nothing depends on how long it lasts but for the back-off, and no longer when that has reached its bound.
    await eventually(async () =>
      Math.min(...(await sources()).map(({ what, failures }) => failures - before.get(what)!)),
    ).toBeGreaterThanOrEqual(FAILURES_TO_THE_BOUND);
    expect(await pods()).toEqual(['webpod1']);
    expect(await healthz(lab.node('cp'))).toBe(200);
  });

  test.each([
    { title: 'a later state', version: 5000, now: ['webpod2'] },
    {
      title: 'versions that begin anew, as after a restored backup',
      version: 1,
      now: ['webpod1', 'webpod2'],
    },
  ])('one that comes back with $title is followed', async ({ version, now }) => {
    await road.cut();
    await serve(road, lab, version, ...now);
    await eventually(pods).toEqual(now);
  });

  test('through all of it no connection was lost', async () => {
    const summary = await calls.stop();
    expect(calls.failures).toEqual([]);
    expect(summary.outcomes.ok).toBe(summary.total);
    const { moved, exchanges } = await hold.stop();
    expect([moved, hold.failures]).toEqual([0, []]);
    expect(exchanges).toBeGreaterThan(100);
  });

  test('the Node got its event, once, although there was no server at first', async () => {
    const told = () => road.apis.flatMap(({ created }) => created);
    await eventually(() => told().length).toBe(1);
    expect(told()).toMatchObject([{ reason: 'Starting', regarding: { kind: 'Node', name: 'cp' } }]);
  });

  test('and the kernel holds what a fresh start makes', async () => {
    const before = await pods();
    await agent.stop('SIGKILL');
    agent = await new OwnAgent(lab, 'cp', args, faultEnvironment({ timers: TIMERS })).ready();
    expect(logged(agent.text, 'the kernel holds the full state')).toMatchObject([
      { operations: 0, refusals: 0 },
    ]);
    expect(await pods()).toEqual(before);
  });

  test('a service that went while the server was away goes', async () => {
    await road.cut();
    const api = await new FakeApiServer({ version: 9000, hurry: HURRY }).listen();
    api.set('nodes', ...lab.nodeObjects());
    road.api = api;
    await eventually(
      async () => (await lab.pod('net-pod').ask('tcp', WEB, WEB_PORT, { timeoutMs: 300 })).outcome,
    ).not.toBe('ok');
    // The Node object went along with the next server: not eligible, says health.
    api.delete('nodes', 'cp');
    await eventually(() => healthz(lab.node('cp'))).toBe(503);
  });
});
