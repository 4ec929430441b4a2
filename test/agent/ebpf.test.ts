/** What the ebpf mode promises beyond single requests: agents that die, backends that go, pods that stand elsewhere. */
import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  UDP_PORT,
  udpObjects,
  WEB_NODE_PORT,
  WEB_PORT,
  webNodePort,
  webSlices,
} from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { sliceObjects } from '../../src/lab/manifests.ts';
import { defaultNodes, serviceAddress } from '../../src/lab/plan.ts';
import type { CallSummary } from '../../src/lab/results.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const ARGS = ['--proxy-mode', 'ebpf'];

root.describe('ebpf agents', () => {
  let lab: Lab;
  const webPods = () => lab.plan.pods.filter((pod) => pod.labels.app === 'web');

  beforeAll(async () => {
    buildProgram();
    lab = await createLab({ name: `ebpf-${process.pid}`, nodes: defaultNodes(2), cgroups: 'per-pod' });
    lab.manifests.write('web', [webNodePort(lab, 'Cluster')]);
    lab.manifests.write('web-endpoints', webSlices(lab));
    lab.manifests.write('dns', udpObjects(lab));
    await lab.startAgents({ args: ARGS });
  });
  afterAll(() => {
    lab?.down();
    const left = readdirSync('/sys/fs/bpf').filter((name) => name.includes(`ebpf-${process.pid}`));
    expect(left).toEqual([]);
  });

  function expectNoFailure({ outcomes, moved }: CallSummary): void {
    const { ok, ...bad } = outcomes;
    expect(JSON.stringify(Object.entries(bad).filter(([, n]) => n > 0))).toBe('[]');
    expect(ok).toBeGreaterThan(0);
    expect(moved).toBe(0);
  }

  test('connections go on and new ones are served while an agent is killed and the next one takes over', async () => {
    const toNode = lab.node('worker2').addresses[4]!;
    const holds = await Promise.all([
      lab.client.hold('tcp', toNode, WEB_NODE_PORT, { connections: 8, durationMs: 60_000 }),
      lab.pod('net-pod').hold('tcp', serviceAddress(4, 10), WEB_PORT, { connections: 8, durationMs: 60_000 }),
      lab.client.hold('tcp', lab.node('cp').addresses[6]!, WEB_NODE_PORT, {
        connections: 4,
        durationMs: 60_000,
      }),
    ]);
    for (const hold of holds) await hold.established;
    const load = await lab.client.load('tcp', toNode, WEB_NODE_PORT, { concurrency: 2, timeoutMs: 8000 });
    for (const node of ['worker2', 'cp']) {
      await lab.agents.get(node)!.stop('SIGKILL');
      await new Promise((resolve) => setTimeout(resolve, 300));
      await lab.startAgent(node, { args: ARGS });
    }
    for (const one of [...holds, load]) expectNoFailure(await one.stop());
  });

  test('no connection meets a mixed or empty pool while it flips between two disjoint sets', async () => {
    const [first, second] = webPods();
    const target = lab.node('worker2').addresses[4]!;
    const loads = await Promise.all([
      lab.client.load('tcp', target, WEB_NODE_PORT, { concurrency: 4, timeoutMs: 8000 }),
      lab.pod('net-pod').load('tcp', serviceAddress(4, 10), WEB_PORT, { concurrency: 4, timeoutMs: 8000 }),
    ]);
    for (let i = 0; i < 60; i++) {
      lab.manifests.write('web-endpoints', webSlices(lab, [i % 2 ? first! : second!]));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    for (const load of loads) expectNoFailure(await load.stop());
    lab.manifests.write('web-endpoints', webSlices(lab));
  });

  const dns = (endpoints: ReturnType<typeof webPods>) => [
    ...udpObjects(lab).filter(({ kind }) => kind === 'Service'),
    ...sliceObjects({
      ...{ service: 'dns', families: lab.plan.families, endpoints },
      ports: [{ port: 80, protocol: 'UDP' }],
    }),
  ];

  /** Who answers, of so many requests that a second one would not be missed. */
  const answering = async () => {
    const options = { count: 30, timeoutMs: 1000 };
    const { pods } = await lab.pod('net-pod').call('udp', serviceAddress(4, 11), UDP_PORT, options);
    return Object.keys(pods);
  };

  test('a connected UDP socket whose backend is gone hears of it and connects to another', async () => {
    const [first, second] = webPods();
    lab.manifests.write('dns', dns([first!]));
    const pod = lab.pod('net-pod');
    await eventually(answering).toEqual([first!.name]);
    const hold = await pod.hold('udp', serviceAddress(4, 11), UDP_PORT, {
      connections: 3,
      durationMs: 30_000,
    });
    await hold.established;
    lab.manifests.write('dns', dns([second!]));
    await eventually(answering).toEqual([second!.name]);
    // A destroyed socket fails its next call at once (ECONNABORTED); nothing goes on to the old pod.
    await eventually(() => hold.failures.length).toBe(3);
    await hold.stop();
  });

  test('without socket programs the same is done packet by packet', async () => {
    const [first, second] = webPods();
    const pod = lab.pod('net-pod');
    await lab.agents.get(pod.node)!.stop();
    await lab.startAgent(pod.node, { args: [...ARGS, '--socket-lb', 'off'] });
    lab.manifests.write('dns', dns([first!]));
    await eventually(answering).toEqual([first!.name]);
    const web = await pod.call('tcp', serviceAddress(4, 10), WEB_PORT, { count: 40, timeoutMs: 5000 });
    expectNoFailure(web);
    expect(Object.keys(web.peers)).toEqual([pod.addresses[4]]);
    const node = lab.node(pod.node);
    for (const [address, port] of [
      [serviceAddress(4, 10), WEB_PORT],
      [node.addresses[4]!, WEB_NODE_PORT],
    ] as const)
      expectNoFailure(await node.call('tcp', address, port, { count: 40, timeoutMs: 5000 }));
    const hold = await pod.hold('udp', serviceAddress(4, 11), UDP_PORT, {
      connections: 3,
      durationMs: 30_000,
    });
    await hold.established;
    lab.manifests.write('dns', dns([second!]));
    await eventually(answering).toEqual([second!.name]);
    await new Promise((resolve) => setTimeout(resolve, 600));
    // The same sockets, on another backend: nothing has to connect anew.
    expect((await hold.stop()).moved).toBe(3);
  });

  test('cleanup leaves nothing of ours', async () => {
    for (const agent of lab.agents.values()) await agent.stop();
    for (const node of lab.nodes.values()) {
      const { status, stdout } = await triplane(node, 'cleanup');
      expect(status).toBe(0);
      expect(stdout).toContain('ebpf: removed');
      expect((await triplane(node, 'get', 'services', '-o', 'json')).stdout).not.toContain('default/web');
    }
    const answer = await lab.pod('net-pod').ask('tcp', serviceAddress(4, 10), WEB_PORT, { timeoutMs: 500 });
    expect(answer.outcome).not.toBe('ok');
  });
});
