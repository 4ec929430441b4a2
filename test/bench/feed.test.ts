/** Cluster state that the bench gives to an API server: addresses as it takes them, and what a refusal leaves. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { balancerIp, clusterIp, clusterObjects } from '../../bench/modes/cluster.ts';
import { ApiFeed, ManifestFeed } from '../../bench/modes/feed.ts';
import { parseAddress } from '../../src/model/address.ts';
import { FILE_BYTES_MAX } from '../../src/source/manifests/files.ts';

describe("the bench's cluster", () => {
  test.for([0, 8, 9, 999, 65_534, 65_535, 65_536, 99_999])(
    'addresses of service %i are canonical',
    (index) => {
      for (const address of [
        clusterIp(4, index),
        clusterIp(6, index),
        balancerIp(4, index),
        balancerIp(6, index),
      ])
        expect(parseAddress(address)).toBe(address);
    },
  );

  test('so are those of endpoints', () => {
    const objects = clusterObjects({ services: 20, endpoints: 10, families: [4, 6], backends: [] });
    const slices = objects as readonly { endpoints?: readonly { addresses: readonly string[] }[] }[];
    const addresses = slices.flatMap(({ endpoints = [] }) => endpoints.flatMap((one) => one.addresses));
    expect(addresses.length).toBeGreaterThan(300);
    for (const address of addresses) expect(parseAddress(address)).toBe(address);
  });
});

describe('a feed of manifests', () => {
  function feedOf() {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-feed-'));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const manifests = path.join(folder, 'manifests');
    mkdirSync(manifests);
    const feed = new ManifestFeed({ manifests: { path: manifests } } as never);
    const files = () => readdirSync(manifests).map((name) => path.join(manifests, name));
    const names = () =>
      files().flatMap((file) =>
        (JSON.parse(readFileSync(file, 'utf8')) as { items: { metadata: { name: string } }[] }).items.map(
          ({ metadata }) => metadata.name,
        ),
      );
    return { feed, files, names };
  }

  test('writes no file that an agent would refuse, and all objects', async () => {
    const { feed, files, names } = feedOf();
    // As many endpoints as slices take, of both families: the largest objects that the bench has.
    const objects = clusterObjects({ services: 5000, endpoints: 100, families: [4, 6], backends: [] });
    await feed.show('cluster', objects);
    expect(names().length).toBe(objects.length);
    expect(new Set(names()).size).toBe(objects.length);
    for (const file of files()) expect(statSync(file).size).toBeLessThan(FILE_BYTES_MAX);
  });

  test('what is shown no more goes, and what has another name stays', async () => {
    const { feed, names } = feedOf();
    const named = (count: number) =>
      Array.from({ length: count }, (_, at) => ({ metadata: { name: `n${at}` } }));
    await feed.show('other', [{ metadata: { name: 'kept' } }]);
    await feed.show('cluster', named(4001));
    expect(names().length).toBe(4002);
    await feed.show('cluster', named(2));
    expect(names().toSorted()).toEqual(['kept', 'n0', 'n1']);
    await feed.show('cluster', []);
    expect(names()).toEqual(['kept']);
  });
});

describe('a feed of an API server', () => {
  const object = (name: string, color: string) => ({
    ...{ apiVersion: 'v1', kind: 'Node', metadata: { name }, color },
  });
  function server(refused: Set<string>) {
    const held = new Map<string, unknown>();
    const call = async (method: string, at: string, body?: object) => {
      const { metadata } = (body ?? {}) as { metadata?: { name: string } };
      const path = method === 'POST' ? `${at}/${metadata!.name}` : at;
      if (refused.has(path)) throw new Error(`${method} ${path}: 422`);
      expect(held.has(path)).toBe(method !== 'POST');
      if (method === 'DELETE') held.delete(path);
      else held.set(path, (body as { color: string }).color);
    };
    return { held, feed: new ApiFeed({ call, kubeconfig: '' } as never) };
  }

  test('goes on from what the server took when it refused something', async () => {
    const refused = new Set(['/api/v1/nodes/b']);
    const { held, feed } = server(refused);
    const all = ['a', 'b', 'c'].map((name) => object(name, 'red'));
    await expect(feed.show('x', all)).rejects.toThrow('422');
    refused.clear();
    await feed.show('x', all);
    expect(Object.fromEntries(held)).toEqual({
      '/api/v1/nodes/a': 'red',
      '/api/v1/nodes/b': 'red',
      '/api/v1/nodes/c': 'red',
    });
    await feed.show('x', [object('a', 'blue')]);
    expect(Object.fromEntries(held)).toEqual({ '/api/v1/nodes/a': 'blue' });
  });
});
