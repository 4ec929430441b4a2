/** The agent on the Kubernetes API: a server that comes late, goes, comes back changed and forgets; traffic stays. */
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WEB_PORT, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import type { Load } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { FakeApiServer } from '../support/apiserver.ts';
import { NEAR_END } from '../support/relay.ts';
import { buildProgram, eventually, healthz, kernel, OwnAgent, statusOf } from './support/node.ts';

const WEB = serviceAddress(4, 10);
const API_PORT = 6443;

/** The way from a node's namespace to whichever API server there is at the moment, or to none. */
class ApiRoad {
  api: FakeApiServer | null = null;
  /** All that there were. */
  readonly apis: FakeApiServer[] = [];
  readonly socket: string;
  readonly #server: net.Server;

  constructor(socket: string) {
    this.socket = socket;
    this.#server = net.createServer((near) => {
      if (!this.api) return void near.destroy();
      const far = net.connect(this.api.port, '127.0.0.1');
      near.pipe(far).pipe(near);
      near.on('error', () => far.destroy()).on('close', () => far.destroy());
      far.on('error', () => near.destroy()).on('close', () => near.destroy());
    });
  }

  async open(lab: Lab, node: string): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(this.socket, resolve));
    const relay = lab.node(node).spawn([process.execPath, '-e', NEAR_END, this.socket, String(API_PORT)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => relay.stdout!.once('data', resolve));
    return this;
  }

  /** A server that holds these pods as the endpoints of web. */
  async serve(lab: Lab, version: number, ...pods: readonly string[]): Promise<FakeApiServer> {
    const api = await new FakeApiServer({ version }).listen();
    api.set('nodes', ...lab.nodeObjects());
    api.set('services', webService(lab));
    api.set('endpointslices', ...slicesOf(lab, pods));
    this.api = api;
    this.apis.push(api);
    return api;
  }

  async cut(): Promise<void> {
    const { api } = this;
    this.api = null;
    await api?.close();
  }

  async close(): Promise<void> {
    await this.cut();
    this.#server.close();
  }
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
  let calls: Load;
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
    agent = new OwnAgent(lab, 'cp', [
      ...['--master', `http://127.0.0.1:${API_PORT}`, '--cluster-cidr', '10.10.0.0/16'],
      ...['--healthz-bind-address', '0.0.0.0:10256', '--sync-period', '1h'],
    ]);
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
    const api = await road.serve(lab, 100, 'webpod1', 'webpod2');
    await eventually(() => healthz(lab.node('cp'))).toBe(200);
    expect(await pods()).toEqual(['webpod1', 'webpod2']);
    await settled(api);
    calls = await lab
      .pod('net-pod')
      .load('tcp', WEB, WEB_PORT, { rate: 200, timeoutMs: 5000, durationMs: 120_000 });
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

  test('a server that is gone changes nothing', async () => {
    await road.cut();
    await eventually(
      async () => (await sources()).filter(({ failures }) => failures > 0).length,
    ).toBeGreaterThan(0);
    await sleep(500);
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
    await road.serve(lab, version, ...now);
    await eventually(pods).toEqual(now);
  });

  test('through all of it no connection was lost', async () => {
    const summary = await calls.stop();
    expect(calls.failures).toEqual([]);
    expect(summary.outcomes.ok).toBe(summary.total);
  });

  test('the Node got its event, once, although there was no server at first', async () => {
    const told = () => road.apis.flatMap(({ created }) => created);
    await eventually(() => told().length).toBe(1);
    expect(told()).toMatchObject([{ reason: 'Starting', regarding: { kind: 'Node', name: 'cp' } }]);
  });

  test('a service that went while the server was away goes', async () => {
    await road.cut();
    const api = await new FakeApiServer({ version: 9000 }).listen();
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
