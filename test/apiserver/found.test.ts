import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { findBinary, missingBinaries } from './support/control-plane.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-found-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('the binaries of the control plane are looked for in KUBEBUILDER_ASSETS, then on PATH', () => {
  const [assets, bin] = [path.join(folder, 'assets'), path.join(folder, 'bin')];
  for (const at of [assets, bin]) mkdirSync(at);
  const env = { KUBEBUILDER_ASSETS: assets, PATH: `${bin}:/nonexistent` };
  expect(missingBinaries(env)).toBe('needs etcd and kube-apiserver in KUBEBUILDER_ASSETS or on PATH');
  writeFileSync(path.join(bin, 'etcd'), '');
  expect(findBinary('etcd', env)).toBeNull();
  chmodSync(path.join(bin, 'etcd'), 0o755);
  expect(findBinary('etcd', env)).toBe(path.join(bin, 'etcd'));
  expect(missingBinaries(env)).toBe('needs kube-apiserver in KUBEBUILDER_ASSETS or on PATH');
  for (const name of ['etcd', 'kube-apiserver']) writeFileSync(path.join(assets, name), '', { mode: 0o755 });
  expect(findBinary('etcd', env)).toBe(path.join(assets, 'etcd'));
  expect(missingBinaries(env)).toBe('');
});
