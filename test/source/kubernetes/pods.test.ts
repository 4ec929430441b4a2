/** The watch of labelled pods: what it asks for, and that nothing else stands or falls with it. */
import { afterEach, expect, it, vi } from 'vitest';
import { createKubernetesSource, type KubernetesOptions } from '../../../src/source/kubernetes/source.ts';
import type { Source } from '../../../src/source/source.ts';
import { type ApiRequest, type FakeApiOptions, FakeApiServer } from '../../support/apiserver.ts';
import { Recorder } from '../../support/recorder.ts';
import { node, pod, service } from '../decode/objects.ts';

// The recorder gives up first, and says what it was waiting for.
vi.setConfig({ testTimeout: 60_000 });

let api: FakeApiServer;
let source: Source;
let seen: Recorder;
afterEach(async () => {
  await source.stop();
  await api.close().catch(() => {});
});

const LABEL = 'triplane.dev/socket-lb';
const forPods = ({ resource }: ApiRequest) => resource === 'pods';

async function begin(options: FakeApiOptions = {}, own: Partial<KubernetesOptions> = {}): Promise<void> {
  api = await new FakeApiServer(options).listen();
  api.set('services', service());
  api.set('nodes', node());
  api.set(
    'pods',
    pod(),
    pod({ nodeName: 'worker-2' }, { name: 'elsewhere' }),
    pod({}, { name: 'plain', labels: { app: 'web' } }),
    pod({}, { name: 'odd', labels: { [LABEL]: 'no' } }),
  );
  seen = new Recorder();
  source = createKubernetesSource({
    ...{ master: api.url, nodeName: 'worker-1', pods: 'labelled', backoffMinMs: 5, backoffMaxMs: 50 },
    ...own,
  });
}

const start = async () => {
  await source.start(seen);
  await seen.until('synced', ({ synced }) => synced === 1);
};
const podsSeen = () => seen.keys().filter((key) => key.startsWith('Pod '));

it.each(['yes', 'no'] as const)('asks for labelled pods of this node (watch-list: %s)', async (watchList) => {
  await begin({ watchList });
  await start();
  // Known with the first state: an agent that comes back forgets nobody in between.
  expect(podsSeen()).toEqual(['Pod default/mesh-0', 'Pod default/odd']);
  const { query } = api.requests.find(forPods)!;
  expect([query.get('labelSelector'), query.get('fieldSelector')]).toEqual([LABEL, 'spec.nodeName=worker-1']);
  expect([...seen.problems.values()].map(({ code, object, reason }) => [code, object, reason])).toEqual([
    [
      'TP_BAD_OBJECT',
      'Pod default/odd',
      `metadata.labels[${LABEL}] is "no", which means nothing; only "off" does`,
    ],
  ]);

  await seen.until('all watches', () => api.watching === 5);
  api.set('pods', pod({}, { name: 'odd', labels: {} }), pod({}, { name: 'new' }));
  api.set('pods', pod({}, {}, { phase: 'Succeeded' }));
  await seen.until('the changes', () => podsSeen().join() === 'Pod default/new');
  await seen.until('no problem', () => seen.problems.size === 0);
});

it('without the right it is named, and everything else is known', async () => {
  await begin({ mayDo: (_verb, _group, resource) => resource !== 'pods' });
  await start();
  expect(seen.keys()).toEqual(['Node worker-1', 'Service default/web']);
  expect(seen.problems.get('API pods')).toMatchObject({
    code: 'TP_API',
    reason: expect.stringMatching(/403 Forbidden.*RBAC must grant list and watch on pods/),
  });
});

it('an API without pods is no problem', async () => {
  await begin({ resources: ['services', 'endpointslices', 'nodes', 'servicecidrs'] });
  await start();
  expect(seen.problems.size).toBe(0);
});

it('one failure is waited for, and two are not', async () => {
  await begin();
  api.fail({ do: 'reset' }, forPods, 1);
  await start();
  expect(podsSeen()).toHaveLength(2);
  await source.stop();
  await api.close();

  await begin();
  api.fail({ do: 'reset' }, forPods, 1_000_000);
  await start();
  expect(podsSeen()).toEqual([]);
  expect(seen.problems.get('API pods')?.code).toBe('TP_API');
  api.heal();
  await seen.until('the pods', () => podsSeen().length === 2 && !seen.problems.has('API pods'));
});

it('nobody asks for pods where nobody wants them', async () => {
  await begin({}, { pods: 'none' });
  await start();
  await seen.until('all watches', () => api.watching === 4);
  expect(api.requests.some(forPods)).toBe(false);
});
