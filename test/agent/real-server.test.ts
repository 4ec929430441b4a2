/** The whole agent on a real kube-apiserver, as a user runs it: objects applied there, packets here. */
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WEB_PORT, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { type ApiObject, serviceObject } from '../../src/lab/manifests.ts';
import type { Load } from '../../src/lab/place.ts';
import { SERVICE_CIDRS, serviceAddress } from '../../src/lab/plan.ts';
import { ControlPlane, missingBinaries } from '../apiserver/support/control-plane.ts';
import { privilege } from '../support/privilege.ts';
import { NEAR_END, Relay } from '../support/relay.ts';
import { skipUnless } from '../support/skip.ts';
import { buildProgram, eventually, healthz, OwnAgent, statusOf, triplane } from './support/node.ts';

const WEB = serviceAddress(4, 10);
const [API_PORT, HEALTH_NODE_PORT] = [6443, 31_234];
const [NODES, SERVICES] = ['/api/v1/nodes', '/api/v1/namespaces/default/services'];
const SLICES = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';
const CIDRS = '/apis/networking.k8s.io/v1/servicecidrs';

const reason = missingBinaries() || (privilege() === 'root' ? '' : 'needs root');

skipUnless(reason === '', reason).describe('an agent on a real API server', () => {
  let lab: Lab;
  let plane: ControlPlane;
  let relay: Relay;
  let agent: OwnAgent;
  const pins = `/sys/fs/bpf/triplane-real-${process.pid}`;

  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `real-${process.pid}`,
      nodes: [{ name: 'cp' }, { name: 'worker1' }],
      pods: [
        { name: 'net-pod', node: 'cp' },
        ...['webpod1', 'webpod2'].map((name) => ({ name, node: 'worker1', labels: { app: 'web' } })),
      ],
    });
    const ranges = `${SERVICE_CIDRS[4]},${SERVICE_CIDRS[6]}`;
    plane = await new ControlPlane([`--service-cluster-ip-range=${ranges}`]).start();
    await plane.grantAll();
    for (const node of lab.nodeObjects()) await plane.create(NODES, node);
    await plane.create(SERVICES, dualStack(webService(lab)));
    for (const slice of slices('webpod1', 'webpod2')) await plane.create(SLICES, slice);
    const socket = path.join(path.dirname(lab.manifests.path), 'api.sock');
    relay = await new Relay(() => plane.port).listen(socket);
    const near = lab.node('cp').spawn([process.execPath, '-e', NEAR_END, socket, String(API_PORT)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => near.stdout!.once('data', resolve));
    agent = startAgent();
  }, 300_000);
  afterAll(async () => {
    await agent?.stop();
    if (agent) await triplane(lab.node('cp'), 'cleanup', '--bpf-root', pins);
    await relay?.close();
    lab?.down();
    await plane?.stop();
  });

  const startAgent = () =>
    new OwnAgent(lab, 'cp', [
      ...['--kubeconfig', plane.kubeconfig('agent', { server: `https://127.0.0.1:${API_PORT}` })],
      ...['--cluster-cidr', '10.10.0.0/16,fd00:10::/48', '--bpf-root', pins],
      ...['--healthz-bind-address', '0.0.0.0:10256', '--metrics-bind-address', '127.0.0.1:10249'],
    ]);
  const dualStack = (service: ApiObject) => ({
    ...service,
    spec: { ...(service.spec as object), ipFamilyPolicy: 'PreferDualStack' },
  });
  const slices = (...pods: string[]) =>
    webSlices(
      lab,
      lab.plan.pods.filter(({ name }) => pods.includes(name)),
    );
  const setPods = async (...pods: string[]) => {
    for (const slice of slices(...pods)) {
      const { endpoints } = slice as unknown as { endpoints: object };
      await patch(`${SLICES}/${slice.metadata.name}`, { endpoints });
    }
  };
  const patch = async (at: string, body: object) => {
    const { status, body: answer } = await plane.call('PATCH', at, body);
    expect(status, JSON.stringify(answer)).toBe(200);
  };
  const annotate = (annotations: object) => patch(`${NODES}/cp`, { metadata: { annotations } });
  const client = () => lab.pod('net-pod');
  const served = async () => {
    const { pods } = await client().call('tcp', WEB, WEB_PORT, { count: 30, timeoutMs: 2000 });
    return Object.keys(pods).sort();
  };
  const outcome = async (address: string, port: number) =>
    (await client().ask('tcp', address, port, { timeoutMs: 700 })).outcome;
  const page = async (port: number, at: string, host = '127.0.0.1') => {
    const { status, stdout } = await lab
      .node('cp')
      .exec([
        process.execPath,
        '-e',
        `fetch('http://${host}:${port}${at}').then(async (r) => process.stdout.write(r.status + '\\n' + (await r.text())))`,
      ]);
    expect(status).toBe(0);
    return stdout;
  };
  const eventsOf = async (kind: string, name: string) => {
    const at = `/api/v1/namespaces/default/events?fieldSelector=involvedObject.kind=${kind},involvedObject.name=${name}`;
    return (await plane.call('GET', at)).body.items as { reason: string }[];
  };

  test('is healthy with its rights alone, and what was applied works', async () => {
    await eventually(() => healthz(lab.node('cp'))).toBe(200);
    expect(await served()).toEqual(['webpod1', 'webpod2']);
    const { pods } = await client().call('tcp', serviceAddress(6, 10), WEB_PORT, { count: 20 });
    expect(Object.keys(pods).sort()).toEqual(['webpod1', 'webpod2']);
    const { sources, problems } = await statusOf(agent.adminSocket);
    expect(sources.filter(({ synced, failures }) => !synced || failures > 0)).toEqual([]);
    expect(problems).toEqual([]);
  });

  test('what changes there changes here', async () => {
    await setPods('webpod2');
    await eventually(served).toEqual(['webpod2']);
    await setPods('webpod1', 'webpod2');
    await eventually(served).toEqual(['webpod1', 'webpod2']);
    const other = { name: 'other', clusterIPs: [serviceAddress(4, 77)], ports: [{ port: 80 }] };
    await plane.create(SERVICES, serviceObject(other));
    // No endpoint: refused at once.
    await eventually(() => outcome(serviceAddress(4, 77), 80)).toBe('refused');
    await plane.call('DELETE', `${SERVICES}/other`);
    await eventually(() => outcome(serviceAddress(4, 77), 80)).toBe('timeout');
  });

  test('a service range that is added is guarded', async () => {
    const spec = { cidrs: ['10.77.0.0/24'] };
    const kind = { apiVersion: 'networking.k8s.io/v1', kind: 'ServiceCIDR', metadata: { name: 'more' } };
    const before = await outcome('10.77.0.5', 80);
    expect(before).not.toBe('timeout');
    await plane.create(CIDRS, { ...kind, spec });
    await eventually(() => outcome('10.77.0.5', 80)).toBe('timeout');
    await plane.call('DELETE', `${CIDRS}/more`);
    await eventually(() => outcome('10.77.0.5', 80)).toBe(before);
  });

  test('events: of the start on the Node, of a taken port on the Service', async () => {
    await eventually(async () => (await eventsOf('Node', 'cp')).map((event) => event.reason)).toEqual([
      'Starting',
    ]);
    const holder = lab
      .node('cp')
      .spawn(
        [
          process.execPath,
          '-e',
          `require('node:http').createServer().listen(${HEALTH_NODE_PORT}, () => console.log('on'))`,
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
    try {
      await new Promise((resolve) => holder.stdout!.once('data', resolve));
      await patch(`${SERVICES}/web`, {
        spec: {
          ...{ type: 'LoadBalancer', externalTrafficPolicy: 'Local' },
          healthCheckNodePort: HEALTH_NODE_PORT,
        },
      });
      // One for each family's address of the node, however often the port is tried.
      await eventually(async () => (await eventsOf('Service', 'web')).length).toBe(2);
      const [event] = await eventsOf('Service', 'web');
      expect(event).toMatchObject({
        ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen' },
        message: expect.stringContaining(
          `node cp failed to start healthcheck "default/web" on port ${HEALTH_NODE_PORT}: `,
        ),
        reportingComponent: 'kube-proxy',
      });
    } finally {
      holder.kill();
    }
    // It answers where NodePorts do: at the node's own addresses, not at the loopback.
    const address = lab.node('cp').addresses[4]!;
    await eventually(() => page(HEALTH_NODE_PORT, '/', address).catch(() => '')).toContain(
      '"localEndpoints": 0',
    );
  });

  test('a Node that is to go is unhealthy, and alive', async () => {
    const taint = { key: 'ToBeDeletedByClusterAutoscaler', value: '1', effect: 'NoSchedule' };
    await patch(`${NODES}/cp`, { spec: { taints: [taint] } });
    await eventually(() => healthz(lab.node('cp'))).toBe(503);
    expect(await page(10256, '/livez')).toMatch(/^200\n/);
    await patch(`${NODES}/cp`, { spec: { taints: null } });
    await eventually(() => healthz(lab.node('cp'))).toBe(200);
  });

  test('the annotation of the Node moves the mode, and the Node tells it where that is allowed', async () => {
    const modeNow = async () => (await statusOf(agent.adminSocket)).mode.mode;
    const told = async () => {
      const { body } = await plane.call('GET', `${NODES}/cp`);
      return body.metadata.annotations?.['status.triplane.dev/proxy-mode'];
    };
    expect(await told()).toBeUndefined();
    await plane.grantMore({ verb: 'patch', group: '', resource: 'nodes' });
    for (const [wanted, mode] of [
      ['ebpf', 'ebpf'],
      ['nft', 'nft'],
      [null, 'nft'],
    ]) {
      await annotate({ 'triplane.dev/proxy-mode': wanted });
      await eventually(modeNow).toBe(mode);
      await eventually(told).toBe(mode);
      expect(await served()).toEqual(['webpod1', 'webpod2']);
    }
  });

  test('dashboards find what they look for', async () => {
    const text = await page(10249, '/metrics');
    for (const line of [
      'kubeproxy_sync_proxy_rules_duration_seconds_count',
      'kubeproxy_sync_proxy_rules_last_timestamp_seconds',
      'rest_client_requests_total{code="201"',
    ])
      expect(text).toContain(line);
    expect(await page(10249, '/proxyMode')).toMatch(/^200\nnftables/);
  });

  test('a server that is killed and comes back costs no connection', async () => {
    const calls: Load = await client().load('tcp', WEB, WEB_PORT, {
      rate: 100,
      timeoutMs: 5000,
      durationMs: 290_000,
    });
    await plane.stopServer();
    await eventually(
      async () =>
        (await statusOf(agent.adminSocket)).sources.filter(({ lastError }) => lastError !== '').length,
    ).toBeGreaterThan(0);
    expect(await healthz(lab.node('cp'))).toBe(200);
    await plane.startServer();
    await setPods('webpod1');
    await eventually(served).toEqual(['webpod1']);
    // Up to twice the longest step of the back-off, 30 s, which is client-go's.
    await expect
      .poll(
        async () => (await statusOf(agent.adminSocket)).sources.filter(({ lastError }) => lastError !== ''),
        { timeout: 120_000, interval: 200 },
      )
      .toEqual([]);
    const summary = await calls.stop();
    expect(calls.failures).toEqual([]);
    expect(summary.outcomes.ok).toBe(summary.total);
  }, 300_000);

  test('started again it finds nothing to change', async () => {
    const ruleset = async () =>
      (await lab.node('cp').exec(['nft', '-s', 'list', 'table', 'ip', 'triplane'])).stdout;
    // Chains that nothing refers to any more go with the next comparison.
    const idle = (text: string) =>
      [...text.matchAll(/chain ((?:pick|sticky)-[\d-]+) \{/g)].filter(
        ([, name]) => !new RegExp(`(?:goto|jump) ${name}\\b`).test(text),
      );
    await expect.poll(async () => idle(await ruleset()), { timeout: 90_000, interval: 500 }).toEqual([]);
    const before = await ruleset();
    await agent.stop();
    expect(await served()).toEqual(['webpod1']);
    agent = await startAgent().ready();
    expect(await ruleset()).toBe(before);
    await eventually(async () => (await eventsOf('Node', 'cp')).length).toBe(2);
  });
});
