/** The kubeconfig of the manifests, as a pod would use it: over TLS, with the service account's token and CA. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { createKubernetesSource } from '../../src/source/kubernetes/source.ts';
import { FakeApiServer } from '../support/apiserver.ts';
import { Recorder } from '../support/recorder.ts';
import { TEST_CERT, TEST_KEY } from '../support/tls.ts';
import { find, manifests } from './support.ts';

const SECRETS = '/var/run/secrets/kubernetes.io/serviceaccount';
const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-kubeconfig-'));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('reaches the API server, and takes over a token that is renewed', async () => {
  const api = await new FakeApiServer({ tls: { key: TEST_KEY, cert: TEST_CERT }, token: 'first' }).listen();
  const text = find(manifests({ apiServer: api.url }), 'ConfigMap').data['kubeconfig.conf'] as string;
  expect(text).toContain(`${SECRETS}/token`);
  const kubeconfigPath = path.join(folder, 'kubeconfig.conf');
  writeFileSync(kubeconfigPath, text.replaceAll(SECRETS, folder));
  writeFileSync(path.join(folder, 'ca.crt'), TEST_CERT);
  writeFileSync(path.join(folder, 'token'), 'first\n');
  const seen = new Recorder();
  const source = createKubernetesSource({ kubeconfigPath, nodeName: 'n1', backoffMinMs: 5 });
  try {
    await source.start(seen);
    await seen.until('synced', ({ synced }) => synced === 1);
    expect([...seen.problems.values()]).toEqual([]);
    // The kubelet writes a new token well before the old one ends; an old one is refused.
    writeFileSync(path.join(folder, 'token'), 'second\n');
    api.token = 'second';
    api.resetConnections();
    api.set('services', {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { namespace: 'default', name: 'web' } },
      spec: { clusterIP: '10.200.1.1', ports: [{ port: 80 }] },
    });
    await seen.until('the service', ({ records }) => records.has('Service default/web'));
  } finally {
    await source.stop();
    await api.close();
  }
});
