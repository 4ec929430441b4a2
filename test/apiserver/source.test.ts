/** The source and its rights on a real etcd and a real kube-apiserver. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { createKubernetesSource } from '../../src/source/kubernetes/source.ts';
import type { Source } from '../../src/source/source.ts';
import { find, manifests } from '../deploy/support.ts';
import { Recorder } from '../support/recorder.ts';
import { skipUnless } from '../support/skip.ts';
import { ControlPlane, missingBinaries } from './support/control-plane.ts';

const missing = missingBinaries();
const real = skipUnless(missing === '', missing);
const SERVICES = 10_000;
const ALL_RULES = find(manifests(), 'ClusterRole').rules as {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
}[];
const SERVICES_PATH = '/api/v1/namespaces/default/services';
const SLICES_PATH = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';

const service = (name: string) => ({
  ...{ apiVersion: 'v1', kind: 'Service', metadata: { name } },
  spec: { ports: [{ port: 80 }] },
});
const slice = (name: string, address: string) => ({
  ...{ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv4' },
  metadata: { name: `${name}-1`, labels: { 'kubernetes.io/service-name': name } },
  endpoints: [{ addresses: [address] }],
  ports: [{ name: '', port: 8080 }],
});

/** More patient than a recorder for a fake server. */
async function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  await vi.waitFor(
    async () => {
      if (!(await holds())) throw new Error(`never: ${what}`);
    },
    { timeout: 90_000, interval: 50 },
  );
}

real.describe('a real API server', () => {
  let plane: ControlPlane;
  let source: Source | undefined;
  let seen: Recorder;
  beforeAll(async () => {
    plane = await new ControlPlane().start();
    await plane.grant(ALL_RULES);
    await plane.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
    const names = Array.from({ length: SERVICES }, (_, i) => `s${i}`);
    const work = names[Symbol.iterator]();
    const one = async () => {
      for (const name of work) await plane.create(SERVICES_PATH, service(name));
    };
    await Promise.all(Array.from({ length: 32 }, one));
    await plane.create(SLICES_PATH, slice('s0', '10.1.0.1'));
  }, 600_000);
  afterEach(() => source?.stop());
  afterAll(() => plane?.stop());

  async function begin(kubeconfigPath = plane.kubeconfig('agent')): Promise<Source> {
    seen = new Recorder();
    source = createKubernetesSource({ kubeconfigPath, nodeName: 'n1', eventRetryMs: 200, backoffMinMs: 50 });
    await source.start(seen);
    return source;
  }
  const synced = () => eventually('synced', () => seen.synced === 1);
  const addressOf = (name: string) => {
    const record = seen.records.get(`EndpointSlice default/${name}-1`);
    return record?.kind === 'EndpointSlice' ? record.endpoints[0]?.address : undefined;
  };
  const setAddress = async (name: string, address: string) => {
    const at = `${SLICES_PATH}/${name}-1`;
    const answer = await plane.call('PATCH', at, { endpoints: [{ addresses: [address] }] });
    expect(answer.status).toBe(200);
  };

  test('ten thousand services arrive, and changes of them', async () => {
    await begin();
    await synced();
    const services = seen.keys().filter((key) => key.startsWith('Service default/s'));
    expect(services.length).toBe(SERVICES);
    expect(seen.records.has('Node n1')).toBe(true);
    expect([...seen.problems.values()]).toEqual([]);
    await setAddress('s0', '10.1.0.2');
    await eventually('the change', () => addressOf('s0') === '10.1.0.2');
    await plane.create(SERVICES_PATH, service('more'));
    await eventually('a new one', () => seen.records.has('Service default/more'));
    expect((await plane.call('DELETE', `${SERVICES_PATH}/more`)).status).toBe(200);
    await eventually('it gone', () => !seen.records.has('Service default/more'));
  });

  test('a server that is killed and comes back changes nothing but what has changed', async () => {
    await begin();
    await synced();
    const before = seen.log.length;
    await plane.stopServer();
    await eventually('failures', () => source!.health().some(({ failures }) => failures > 0));
    expect(seen.log.length).toBe(before);
    await plane.startServer();
    await setAddress('s0', '10.1.0.3');
    await eventually('the change', () => addressOf('s0') === '10.1.0.3');
    expect(seen.log.slice(before).filter((line) => line.startsWith('delete'))).toEqual([]);
    await eventually('no problem', () => seen.problems.size === 0);
  });

  test('history that was compacted away while the server was down is made up for', async () => {
    await begin();
    await synced();
    await setAddress('s0', '10.1.0.4');
    await eventually('the change', () => addressOf('s0') === '10.1.0.4');
    await plane.stopServer();
    await plane.compact();
    await plane.startServer();
    await setAddress('s0', '10.1.0.5');
    await eventually('the change', () => addressOf('s0') === '10.1.0.5');
    expect(seen.keys().filter((key) => key.startsWith('Service default/s')).length).toBe(SERVICES);
  });

  test('a token that is refused is read again when it has been renewed', async () => {
    const good = JSON.parse(readFileSync(plane.kubeconfig('agent'), 'utf8'));
    const tokenFile = path.join(plane.folder, 'token');
    const { token } = good.users[0].user;
    writeFileSync(tokenFile, 'expired\n');
    good.users[0].user = { tokenFile };
    const file = path.join(plane.folder, 'renewed.kubeconfig');
    writeFileSync(file, JSON.stringify(good));
    await begin(file);
    await eventually('a refusal', () => seen.problems.get('API services')?.reason.includes('401') ?? false);
    writeFileSync(tokenFile, `${token}\n`);
    await synced();
    await eventually('no problem', () => seen.problems.size === 0);
  });

  test('events are taken as they are made', async () => {
    (await begin()).announce({
      about: { kind: 'Node', name: 'n1' },
      ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
    });
    source!.announce({
      about: { kind: 'Service', key: 'default/s0' },
      ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen', note: 'port taken' },
    });
    await eventually('two events', async () => {
      const { body } = await plane.call('GET', '/apis/events.k8s.io/v1/namespaces/default/events');
      const reasons = body.items
        .filter(
          ({ reportingController }: { reportingController: string }) => reportingController === 'kube-proxy',
        )
        .map(({ reason }: { reason: string }) => reason);
      return reasons.includes('Starting') && reasons.includes('FailedToStartServiceHealthcheck');
    });
    expect(seen.problems.has('API events.events.k8s.io')).toBe(false);
  });

  test.each(ALL_RULES.map(({ resources }, at) => ({ at, resources })))(
    'without the rights on $resources the report names them',
    async ({ at, resources }) => {
      await plane.grant(ALL_RULES.filter((_, other) => other !== at));
      try {
        (await begin()).announce({
          about: { kind: 'Node', name: 'n1' },
          ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
        });
        const named = () => [...seen.problems.values()].map(({ reason }) => reason).join('\n');
        await eventually('a report', () =>
          resources.every((resource) =>
            new RegExp(`cannot .*${resource}.*403 .*RBAC must grant`).test(named()),
          ),
        );
      } finally {
        await plane.grant(ALL_RULES);
      }
    },
  );
});
