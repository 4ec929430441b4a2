/** The rights of deploy/, granted by a real kube-apiserver to the ServiceAccount of deploy/: enough, and not one too many. */
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { createKubernetesSource } from '../../src/source/kubernetes/source.ts';
import type { RequestEvent, Source } from '../../src/source/source.ts';
import { Recorder } from '../support/recorder.ts';
import { skipUnless } from '../support/skip.ts';
import { ControlPlane, missingBinaries, RIGHTS } from './support/control-plane.ts';

const missing = missingBinaries();
const real = skipUnless(missing === '', missing);
const PATIENCE = { timeout: 60_000, interval: 20 };

class Listener extends Recorder {
  readonly requests: RequestEvent[] = [];

  onRequest(request: RequestEvent): void {
    this.requests.push(request);
  }
}

// Without watch-list, which is a watch only, both list and watch are used; so both must be granted.
real.describe('the rights of deploy/ on a real API server', () => {
  let plane: ControlPlane;
  let source: Source | undefined;
  let seen: Listener;
  beforeAll(async () => {
    plane = await new ControlPlane(['--feature-gates=WatchList=false']).start();
    await plane.grantAll();
    await plane.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
  }, 300_000);
  afterEach(async () => {
    await source?.stop();
  });
  afterAll(() => plane?.stop());

  async function begin(): Promise<void> {
    seen = new Listener();
    source = createKubernetesSource({
      ...{ kubeconfigPath: plane.kubeconfig('agent'), nodeName: 'n1', pods: 'labelled' },
      ...{ eventRetryMs: 50, backoffMinMs: 50 },
    });
    await source.start(seen);
    source.announce({
      about: { kind: 'Node', name: 'n1' },
      ...{ type: 'Normal', reason: 'Starting', action: 'StartKubeProxy', note: '' },
    });
  }

  test('are enough', async () => {
    await begin();
    const done = () => seen.requests.filter(({ status }) => status < 300).map(({ verb }) => verb);
    await expect.poll(() => seen.synced, PATIENCE).toBe(1);
    await expect.poll(() => done().filter((verb) => verb === 'watch').length, PATIENCE).toBe(5);
    await expect.poll(() => done().filter((verb) => verb === 'create').length, PATIENCE).toBe(1);
    expect([...seen.problems.values()]).toEqual([]);
    // 422: the watch-list, which this server does not have.
    expect(seen.requests.filter(({ status }) => status >= 400 && status !== 422)).toEqual([]);
  });

  test.each(RIGHTS)('without "$verb" on "$group/$resource" the report names it', async (right) => {
    await plane.withhold(right);
    try {
      await begin();
      const { verb, group, resource } = right;
      const object = group === '' ? resource : `${resource}.${group}`;
      const reason = () => seen.problems.get(`API ${object}`)?.reason ?? '';
      const words = `^cannot ${verb} .*403 Forbidden .*User "system:serviceaccount:kube-system:triplane" cannot ${verb} resource "${resource}" .*RBAC must grant .*on ${object}`;
      await vi.waitFor(() => expect(reason()).toMatch(new RegExp(words)), PATIENCE);
      expect([...seen.problems.keys()]).toEqual([`API ${object}`]);
      // Granted at last, it needs no restart.
      await plane.withhold(null);
      if (verb !== 'create') await vi.waitFor(() => expect(seen.problems.size).toBe(0), PATIENCE);
    } finally {
      await plane.withhold(null);
    }
  });
});
