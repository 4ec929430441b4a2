/** What the ebpf mode promises beyond single requests: agents that die, backends that go, pods that stand elsewhere. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
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
import { ROOT } from '../support/checkout.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { buildProgram, eventually, statusOf, triplane } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** XDP as well, which by itself keeps off veth. */
const ARGS = ['--proxy-mode', 'ebpf', '--xdp', 'native'];

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

  test('an agent with tables of other sizes takes over: what is open goes on, and no new one gets a port of it', async () => {
    const toNode = lab.node('worker2').addresses[4]!;
    const kept = { connections: 64, timeoutMs: 8000, durationMs: 60_000 };
    const hold = await lab.client.hold('tcp', toNode, WEB_NODE_PORT, kept);
    await hold.established;
    const call = async () => {
      const many = { count: 1500, concurrency: 4, timeoutMs: 8000 };
      expectNoFailure(await lab.client.call('tcp', toNode, WEB_NODE_PORT, many));
    };
    // Those that are over are remembered for a while, each with its port.
    await call();
    for (const sizes of [['--bpf-connections-max', '100000'], []]) {
      await lab.agents.get('worker2')!.stop('SIGKILL');
      await lab.startAgent('worker2', { args: [...ARGS, ...sizes] });
      await call();
    }
    expectNoFailure(await hold.stop());
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

  test('an unconnected UDP socket of a pod that may itself be the backend stays with the one that it got', async () => {
    const sockets = { connections: 40, intervalMs: 100, timeoutMs: 5000 };
    for (const family of [4, 6] as const) {
      const hold = await lab.pod(webPods()[0]!.name).hold('udp', serviceAddress(family, 11), UDP_PORT, {
        ...sockets,
        socket: 'unconnected',
      });
      const { open, pods } = await hold.established;
      expect([open, Object.keys(pods).sort()]).toEqual([
        40,
        webPods()
          .map(({ name }) => name)
          .sort(),
      ]);
      await new Promise((resolve) => setTimeout(resolve, 1500));
      expectNoFailure(await hold.stop());
    }
  });

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

  test('a backend that comes back at once keeps the sockets that are connected to it from then on', async () => {
    const [first, second] = webPods();
    for (const only of [first!, second!, first!]) {
      lab.manifests.write('dns', dns([only]));
      await eventually(answering).toEqual([only.name]);
    }
    const hold = await lab.pod('net-pod').hold('udp', serviceAddress(4, 11), UDP_PORT, {
      connections: 3,
      durationMs: 30_000,
    });
    await hold.established;
    // Longer than the time after which sockets of a backend that left are looked for once more.
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expectNoFailure(await hold.stop());
  });

  /** What one way of talking to a service showed: believed peer, destination on the wire, who answered; or an error. */
  type Seen = readonly [peer: string, wire: string, pod: string] | string;
  type Round = Readonly<Record<'fresh' | 'kept', Readonly<Record<string, Seen>>>>;

  /** test/support/wire.py in net-pod's network and in a cgroup as kubelet would make it. */
  class WireClient {
    readonly #child: ChildProcess;
    readonly #lines: AsyncIterator<string>;

    constructor(uid: string) {
      const pod = lab.pod('net-pod');
      const dir = `${lab.nodeCgroup(pod.node)}/kubepods/burstable/pod${uid}/c1`;
      mkdirSync(dir, { recursive: true });
      const targets = ([4, 6] as const).flatMap((family) => [
        ...[serviceAddress(family, 10), String(WEB_PORT)],
        ...[serviceAddress(family, 11), String(UDP_PORT)],
      ]);
      const script = `echo $$ > ${dir}/cgroup.procs; exec python3 "$@"`;
      const args = [path.join(ROOT, 'test/support/wire.py'), ...targets];
      this.#child = pod.spawn(['sh', '-c', script, 'sh', ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
      this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
    }

    async round(): Promise<Round> {
      this.#child.stdin!.write('\n');
      return JSON.parse((await this.#lines.next()).value!) as Round;
    }

    async end(): Promise<void> {
      this.#child.stdin!.end();
      await once(this.#child, 'exit');
    }
  }

  /** In words, so that a failure shows all of it: "tcp 4 by packets". */
  function described(asked: Readonly<Record<string, Seen>>): string[] {
    const web = new Map(webPods().map((pod) => [pod.name, pod.addresses]));
    return Object.entries(asked).map(([way, seen]) => {
      const [kind, family] = [way.split(' ')[0], Number(way.split(' ')[1]) as 4 | 6];
      if (typeof seen === 'string') return `${way}: ${seen}`;
      const [peer, wire, pod] = seen;
      const vip = serviceAddress(family, kind === 'tcp' ? 10 : 11);
      if (peer !== vip || !web.has(pod)) return `${way}: ${peer} ${pod}`;
      if (wire === vip) return `${way} by packets`;
      return wire === web.get(pod)![family] ? `${way} by its socket` : `${way}: ${wire} answered by ${pod}`;
    });
  }
  const WAYS = [4, 6].flatMap((family) =>
    ['tcp', 'connected', 'unconnected'].map((kind) => `${kind} ${family}`),
  );
  const every = (how: 'packets' | 'its socket') => WAYS.map((way) => `${way} by ${how}`);

  test('a pod that opts out is served by packets from then on, and gets the same answers', async () => {
    lab.manifests.write('dns', udpObjects(lab));
    const [mesh, plain] = [new WireClient('6f1e-mesh'), new WireClient('6f1e-plain')];
    const { node } = lab.pod('net-pod');
    const label = (value: string) =>
      lab.manifests.write('pods', [
        {
          ...{ apiVersion: 'v1', kind: 'Pod' },
          metadata: { name: 'mesh', uid: '6f1e-mesh', labels: { 'triplane.dev/socket-lb': value } },
          spec: { nodeName: node },
        },
      ]);
    const status = () => statusOf(lab.agents.get(node)!.adminSocket);
    const fresh = async () => described((await mesh.round()).fresh);
    try {
      await eventually(fresh).toEqual(every('its socket'));
      expect(described((await plain.round()).fresh)).toEqual(every('its socket'));

      label('off');
      await eventually(fresh).toEqual(every('packets'));
      // What is connected stays where it is; a datagram that names its destination goes the new way.
      const kept = described((await mesh.round()).kept);
      expect(kept).toEqual(
        WAYS.map((way) => `${way} by ${way.startsWith('unconnected') ? 'packets' : 'its socket'}`),
      );
      expect(described((await plain.round()).fresh)).toEqual(every('its socket'));
      expect((await status()).mode.degrees).toContainEqual(
        expect.objectContaining({ feature: 'socket_optout', got: 'yes', reason: '' }),
      );

      label('on');
      await eventually(fresh).toEqual(every('its socket'));
      expect((await status()).problems).toContainEqual(
        expect.objectContaining({
          object: 'Pod default/mesh',
          reason: expect.stringContaining('only "off" does'),
        }),
      );
    } finally {
      await mesh.end();
      await plain.end();
      lab.manifests.remove('pods');
    }
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
