/**
 * A mixed cluster: four nodes on one kernel, each with other features switched off, so that `auto` takes another mode
 * on each. One cluster state is carried side by side, and every pod reaches every service from every node.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { askAgent } from '../../src/cli/admin-client.ts';
import type { Agent } from '../../src/lab/agent.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import type { Place } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import type { AdminNode } from '../../src/observe/admin.ts';
import { buildProgram, PATIENCE, statusOf } from '../agent/support/node.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { HAS_TCX, NO_PROGRAMS, TAKES_PROGRAMS } from '../support/kernel-age.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(
  privilege() === 'root' && TAKES_PROGRAMS,
  TAKES_PROGRAMS ? 'needs root' : NO_PROGRAMS,
);

/** What each node lacks, and what it gets. ipvs where the kernel has it: elsewhere that node does with nft. */
const NODES = [
  {
    name: 'full',
    without: 'nft,ipvs',
    mode: 'ebpf',
    degrees: { tc: HAS_TCX ? 'tcx' : 'clsact', sockets: 'all' },
  },
  {
    name: 'nosockets',
    without: 'nft,ipvs,socket,tcx,xdp,ct-lookup',
    mode: 'ebpf',
    degrees: { tc: 'clsact', sockets: 'none', xdp: 'none', ct_lookup: 'none' },
  },
  { name: 'nobpf', without: 'bpf', mode: 'nft', degrees: {} },
  hasIpvs()
    ? { name: 'old', without: 'bpf,numgen,dummy', mode: 'ipvs', degrees: { service_device: 'bridge' } }
    : { name: 'old', without: 'bpf,ipvs', mode: 'nft', degrees: {} },
] as const;

const PORT = 9000;
const NODE_PORT = 30900;
const CALLS = 8;
const START = { ...PATIENCE, timeout: 3 * PATIENCE.timeout };
const SETUP_MS_MAX = START.timeout + 60_000;

root.describe('a mixed cluster', () => {
  let lab: Lab;
  let agents: Agent[];

  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `mixed-${process.pid}`,
      nodes: NODES.map(({ name }) => ({ name })),
      pods: NODES.map(({ name }) => ({ name: `${name}-pod`, node: name, labels: { app: 'web' } })),
      cgroups: 'per-pod',
    });
    // A service on all nodes, and one on each node alone: from every node, three of four answer from elsewhere.
    writeService('all', 10, lab.plan.pods, NODE_PORT);
    for (const [at, pod] of lab.plan.pods.entries())
      writeService(pod.name, 20 + at, [pod], NODE_PORT + 1 + at);
    agents = await Promise.all(
      NODES.map(({ name, without }) =>
        lab.startAgent(name, {
          args: ['--proxy-mode', 'auto'],
          env: { TRIPLANE_WITHOUT: without },
          wait: 'started',
        }),
      ),
    );
    // Four that probe at once take an emulated processor longer than the lab waits.
    for (const agent of agents)
      await vi.waitFor(async () => {
        if (agent.alive() && !(await statusOf(agent.adminSocket)).synced) throw new Error('not ready');
      }, START);
  }, SETUP_MS_MAX);
  afterAll(() => lab?.down());

  function writeService(
    name: string,
    number: number,
    endpoints: Lab['plan']['pods'],
    nodePort: number,
  ): void {
    const { families } = lab.plan;
    const ports = (['TCP', 'UDP'] as const).map((protocol) => ({
      ...{ name: protocol.toLowerCase(), port: PORT, targetPort: 80, protocol, nodePort },
    }));
    const clusterIPs = families.map((family) => serviceAddress(family, number));
    const slicePorts = ports.map(({ name: portName, protocol }) => ({ name: portName, port: 80, protocol }));
    lab.manifests.write(name, [
      serviceObject({ name, clusterIPs, ports, type: 'NodePort', selector: { app: 'web' } }),
      ...sliceObjects({ service: name, families, endpoints, ports: slicePorts }),
    ]);
  }

  const nodeOf = (agent: Agent) => askAgent<AdminNode>(agent.adminSocket, 'GET', '/v1/node');

  test.each(NODES)(
    'auto takes $mode on the node $name, and says why and how',
    async ({ name, mode, degrees }) => {
      const agent = agents.find(({ node }) => node === name)!;
      const { mode: status } = await nodeOf(agent);
      expect(status).toMatchObject({ mode, requested: 'auto' });
      expect(status.reason).toMatch(/^the best mode that can run/);
      const got = Object.fromEntries(status.degrees.map((one) => [one.feature, one.got]));
      expect(got).toMatchObject(degrees);
      for (const one of status.degrees) if (one.got === 'none') expect(one.reason).not.toBe('');
      expect(agent.log()).toContain('dataplane chosen');
    },
  );

  interface Target {
    readonly what: string;
    readonly address: string;
    readonly port: number;
    readonly pods: readonly string[];
  }

  function targets(): Target[] {
    const all = lab.plan.pods.map(({ name }) => name);
    const services = [['all', 10, NODE_PORT, all] as const].concat(
      all.map((name, at) => [name, 20 + at, NODE_PORT + 1 + at, [name]] as never),
    );
    return services.flatMap(([what, number, nodePort, pods]) =>
      lab.plan.families.flatMap((family) => [
        { what, address: serviceAddress(family, number), port: PORT, pods },
        ...[...lab.nodes.values()].map((node) => {
          return { what: `${what} by ${node.name}`, address: node.addresses[family]!, port: nodePort, pods };
        }),
      ]),
    );
  }

  async function wrongOf(from: Place, protocol: 'tcp' | 'udp', some: readonly Target[]): Promise<string[]> {
    const wrong: string[] = [];
    for (const { what, address, port, pods } of some) {
      const result = await from.call(protocol, address, port, { count: CALLS, timeoutMs: 5000 });
      const strange = Object.keys(result.pods).filter((pod) => !pods.includes(pod));
      if (result.outcomes.ok !== CALLS || strange.length > 0)
        wrong.push(
          `${from.name} -> ${what} ${protocol} ${address}: ${JSON.stringify([result.outcomes, result.pods])}`,
        );
    }
    return wrong;
  }

  test.each(['tcp', 'udp'] as const)('every pod and node reaches every service by %s', async (protocol) => {
    const wrong: string[] = [];
    for (const from of [...lab.pods.values(), ...lab.nodes.values()])
      wrong.push(...(await wrongOf(from, protocol, targets())));
    expect(wrong.join('\n')).toBe('');
  });

  test.each(['tcp', 'udp'] as const)(
    'the outside client reaches every NodePort of every node by %s',
    async (protocol) => {
      const byNode = targets().filter(({ what }) => what.includes(' by '));
      expect((await wrongOf(lab.client, protocol, byNode)).join('\n')).toBe('');
    },
  );

  test('all pods share the work, from every node', async () => {
    const all = lab.plan.pods.map(({ name }) => name).sort();
    for (const pod of lab.pods.values()) {
      const { pods } = await pod.call('tcp', serviceAddress(4, 10), PORT, { count: 200, timeoutMs: 5000 });
      expect([pod.name, Object.keys(pods).sort()]).toEqual([pod.name, all]);
    }
  });

  test('a change reaches every mode', async () => {
    const [first] = lab.plan.pods;
    writeService('all', 10, [first!], NODE_PORT);
    for (const pod of lab.pods.values())
      await expect
        .poll(
          async () => {
            const { pods } = await pod.call('tcp', serviceAddress(6, 10), PORT, {
              count: 30,
              timeoutMs: 5000,
            });
            return Object.keys(pods);
          },
          { timeout: 30_000 },
        )
        .toEqual([first!.name]);
  });
});
