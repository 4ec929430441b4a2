import { afterEach, describe, expect, test } from 'vitest';
import { eventObject } from '../../../src/source/kubernetes/announcer.ts';
import { createKubernetesSource } from '../../../src/source/kubernetes/source.ts';
import type { ClusterEvent, RequestEvent, Source } from '../../../src/source/source.ts';
import { type FakeApiOptions, FakeApiServer } from '../../support/apiserver.ts';
import { Recorder } from '../../support/recorder.ts';

const STARTING: ClusterEvent = {
  about: { kind: 'Node', name: 'n1' },
  ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
};
const PORT_TAKEN: ClusterEvent = {
  about: { kind: 'Service', key: 'shop/web' },
  ...{ type: 'Warning', reason: 'FailedToStartServiceHealthcheck', action: 'Listen', note: 'port taken' },
};

class Listener extends Recorder {
  readonly requests: RequestEvent[] = [];
  onRequest(request: RequestEvent): void {
    this.requests.push(request);
  }
}

let api: FakeApiServer;
let source: Source;
let seen: Listener;
async function begin(options: FakeApiOptions = {}): Promise<void> {
  api = await new FakeApiServer(options).listen();
  seen = new Listener();
  source = createKubernetesSource({ master: api.url, nodeName: 'n1', eventRetryMs: 5, backoffMinMs: 5 });
  await source.start(seen);
}
afterEach(async () => {
  await source.stop();
  await api.close();
});
const told = (count: number) => seen.until(`${count} events`, () => api.created.length >= count);

describe('events', () => {
  test('of a Node and of a Service, as kube-proxy words them', async () => {
    await begin();
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    await told(2);
    expect(api.created).toMatchObject([
      {
        metadata: { namespace: 'default', name: expect.stringMatching(/^n1\.[0-9a-f]{16}$/) },
        regarding: { apiVersion: 'v1', kind: 'Node', name: 'n1' },
        ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
        ...{ reportingController: 'kube-proxy', reportingInstance: expect.stringMatching(/^triplane-/) },
      },
      {
        metadata: { namespace: 'shop' },
        regarding: { kind: 'Service', name: 'web', namespace: 'shop' },
        ...{
          type: 'Warning',
          reason: 'FailedToStartServiceHealthcheck',
          action: 'Listen',
          note: 'port taken',
        },
      },
    ]);
    expect(api.created[0]!.regarding).not.toHaveProperty('namespace');
  });

  test('carry the UID of what they are about, without which `kubectl describe` does not show them', async () => {
    await begin();
    api.set(
      'nodes',
      { metadata: { name: 'n1', uid: 'uid-of-n1' } },
      { metadata: { name: 'n2', uid: 'other' } },
    );
    for (const namespace of ['other', 'shop'])
      api.set('services', { metadata: { namespace, name: 'web', uid: `uid-of-${namespace}-web` } });
    // The server stumbles on the first look.
    api.fail(
      { do: 'status', status: 503 },
      ({ query }) => query.get('fieldSelector') === 'metadata.name=n1',
      2,
    );
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    await told(2);
    expect(api.created.map(({ regarding }) => regarding.uid)).toEqual(['uid-of-n1', 'uid-of-shop-web']);
  });

  test('go without a UID where there is no such object, or nobody may look for it', async () => {
    await begin({ mayDo: (verb, _group, resource) => verb !== 'list' || resource !== 'nodes' });
    api.set('nodes', { metadata: { name: 'n1', uid: 'uid-of-n1' } });
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    await told(2);
    for (const { regarding } of api.created) expect(regarding).not.toHaveProperty('uid');
  });

  test.each([
    { title: 'resets', fault: { do: 'reset' } as const },
    { title: 'is overloaded', fault: { do: 'status', status: 503 } as const },
    { title: 'asks for patience', fault: { do: 'status', status: 429 } as const },
  ])('a server that $title gets it later, in order', async ({ fault }) => {
    await begin();
    api.fail(fault, ({ verb }) => verb === 'create', 3);
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    await told(2);
    expect(api.created.map(({ reason }) => reason)).toEqual(['Starting', 'FailedToStartServiceHealthcheck']);
  });

  test('a missing right is named, once, and the rest goes on', async () => {
    await begin({ mayDo: (verb) => verb !== 'create' });
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    const problem = () => seen.problems.get('API events.events.k8s.io');
    await seen.until('a problem', () => problem() !== undefined);
    expect(problem()).toMatchObject({ code: 'TP_API' });
    expect(problem()!.reason).toMatch(/403 Forbidden .*RBAC must grant create on events\.events\.k8s\.io/);
    await seen.until('synced', ({ synced }) => synced === 1);
  });

  test('what is refused is not tried again', async () => {
    await begin();
    api.fail({ do: 'status', status: 422, reason: 'Invalid' }, ({ verb }) => verb === 'create', 1);
    source.announce(STARTING);
    source.announce(PORT_TAKEN);
    await told(1);
    expect(api.created.map(({ reason }) => reason)).toEqual(['FailedToStartServiceHealthcheck']);
  });

  test('an agent that ends still says what it had to say, but does not wait for ever', async () => {
    await begin();
    source.announce(STARTING);
    await source.stop();
    expect(api.created).toHaveLength(1);
    source.announce(PORT_TAKEN);
    expect(api.created).toHaveLength(1);
  });

  test('long names and notes are cut to what the server takes', () => {
    const key = `ns/${'a'.repeat(63)}`;
    const object = eventObject({ ...PORT_TAKEN, about: { kind: 'Service', key }, note: 'x'.repeat(5000) }, 0);
    expect(object).toMatchObject({ note: 'x'.repeat(1000), eventTime: '1970-01-01T00:00:00.000000Z' });
    const node = eventObject({ ...STARTING, about: { kind: 'Node', name: `${'a.'.repeat(126)}b` } }, 0);
    expect((node.metadata as unknown as { name: string }).name.length).toBeLessThanOrEqual(253);
  });

  test('requests are told apart for the metrics', async () => {
    await begin();
    api.set('nodes', { metadata: { name: 'n1' } });
    source.announce(STARTING);
    await told(1);
    for (const wanted of ['watch', 'create'])
      await seen.until(wanted, () => seen.requests.some(({ verb }) => verb === wanted));
    const created = seen.requests.find(({ verb }) => verb === 'create');
    expect(created).toMatchObject({ method: 'POST', status: 201, host: `127.0.0.1:${api.port}` });
    await api.close();
    await seen.until('a failure', () => seen.requests.some(({ status }) => status === 0));
    api = await new FakeApiServer().listen();
  });
});
