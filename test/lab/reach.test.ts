import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import type { Place } from '../../src/lab/place.ts';
import { bridgeAddress, defaultNodes, defaultPods, type LabSpec, listed } from '../../src/lab/plan.ts';
import type { Family } from '../../src/model/records.ts';

const nodes = defaultNodes(2);
const pods = [
  ...defaultPods(nodes),
  { name: 'host-pod', node: 'worker1', network: 'host', serve: ['tcp:7000', 'udp:7000'] } as const,
];

const SHAPES: readonly [string, LabSpec][] = [
  ['routed pods', { podNetwork: 'routed' }],
  ['pods on a bridge', { podNetwork: 'bridged' }],
  ['checksums not offloaded', { txChecksum: 'off' }],
  ['IPv6 alone', { families: [6] }],
  ['IPv4 alone', { families: [4] }],
];

describe.each(SHAPES)('%s', (_title, spec) => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await createLab({ name: `reach-${process.pid}`, nodes, pods, ...spec });
    for (const node of lab.nodes.values()) await lab.listen(node.name, ['tcp:7100', 'udp:7100']);
    await lab.listen('client', ['tcp:7100', 'udp:7100']);
  });
  afterAll(() => lab?.down());

  /** Every place that sends, and every one that answers with the port on which it does. */
  const sources = () => [...lab.pods.values(), ...lab.nodes.values(), lab.client];
  const targets = () => [
    ...[...lab.pods.values()].map((pod) => ({ place: pod, port: pod.plan.network === 'host' ? 7000 : 80 })),
    ...[...lab.nodes.values(), lab.client].map((place) => ({ place, port: 7100 })),
  ];

  /** A node reaches the pods on its own bridge from the bridge's address, as with the bridge CNI plugin. */
  const sourcesOf = (source: Place, family: Family) => {
    const node = lab.plan.nodes.find((n) => n.namespace === source.namespace);
    const bridge = node && lab.plan.podNetwork === 'bridged' ? [bridgeAddress(family, node.index)] : [];
    return [source.addresses[family], ...bridge];
  };

  test.each(['tcp', 'udp'] as const)('every place reaches every other by %s', async (protocol) => {
    const wrong: string[] = [];
    for (const source of sources()) {
      for (const { place, port } of targets()) {
        for (const address of listed(place.addresses, lab.plan.families)) {
          const result = await source.ask(protocol, address, port, { timeoutMs: 5000 });
          const family = address.includes(':') ? 6 : 4;
          const seen =
            source.namespace === place.namespace || sourcesOf(source, family).includes(result.peer ?? '');
          if (result.outcome !== 'ok' || result.name !== place.name || !seen) {
            wrong.push(`${source.name} -> ${place.name} ${address}: ${JSON.stringify(result)}`);
          }
        }
      }
    }
    expect(wrong).toEqual([]);
  });
});

describe('a changing lab', () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await createLab({ name: `change-${process.pid}`, nodes: defaultNodes(1) });
  });
  afterAll(() => lab?.down());

  test('a pod that is added is reached, one that is removed is not, its address is used again', async () => {
    const source = lab.pod('net-pod');
    const extra = await lab.addPod({ name: 'extra', node: 'worker1' });
    const address = extra.addresses[4]!;
    expect(await source.ask('tcp', address, 80)).toMatchObject({ outcome: 'ok', name: 'extra' });
    await lab.removePod('extra');
    expect((await source.ask('tcp', address, 80, { timeoutMs: 200 })).outcome).not.toBe('ok');
    const again = await lab.addPod({ name: 'again', node: 'worker1' });
    expect(again.addresses).toEqual(extra.addresses);
    expect(await source.ask('tcp', address, 80)).toMatchObject({ outcome: 'ok', name: 'again' });
  });

  test('a pod that ends refuses, one that is paused is silent, and both come back', async () => {
    const source = lab.pod('net-pod');
    const web = lab.pod('webpod1');
    for (const address of listed(web.addresses, lab.plan.families)) {
      web.kill();
      await expect.poll(async () => (await source.ask('tcp', address, 80)).outcome).toBe('refused');
      await web.restart();
      expect((await source.ask('tcp', address, 80)).outcome).toBe('ok');
      web.pause();
      expect((await source.ask('udp', address, 80, { timeoutMs: 200 })).outcome).toBe('timeout');
      web.resume();
      expect((await source.ask('udp', address, 80)).outcome).toBe('ok');
    }
  });

  test('a route for service addresses can be given and taken', async () => {
    await lab.ip('worker1', ['addr add 198.51.100.7/32 dev lo']);
    await lab.listen('worker1', ['tcp:7200']);
    expect((await lab.client.ask('tcp', '198.51.100.7', 7200)).outcome).toBe('unreachable');
    await lab.route('198.51.100.0/24', 'worker1');
    expect((await lab.client.ask('tcp', '198.51.100.7', 7200)).outcome).toBe('ok');
    await lab.route('198.51.100.0/24', null);
    expect((await lab.client.ask('tcp', '198.51.100.7', 7200)).outcome).toBe('unreachable');
  });
});
