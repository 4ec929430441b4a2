/** Cluster state that the bench gives to an API server: addresses as it takes them, and what a refusal leaves. */
import { describe, expect, test } from 'vitest';
import { balancerIp, clusterIp, clusterObjects } from '../../bench/modes/cluster.ts';
import { ApiFeed } from '../../bench/modes/feed.ts';
import { parseAddress } from '../../src/model/address.ts';

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
