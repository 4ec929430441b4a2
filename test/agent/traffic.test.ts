/** The main job end to end: what clients experience through real agents, and whether the commands tell the truth. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/agent/status.ts';
import type { EndpointView, ServiceView } from '../../src/dataplane/dataplane.ts';
import { UDP_PORT, udpObjects, webNodePort, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import { defaultNodes, serviceAddress } from '../../src/lab/plan.ts';
import type { CallOptions, CallProtocol, CallResult, Outcome } from '../../src/lab/results.ts';
import type { Family } from '../../src/model/records.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { buildProgram, json, kernel } from './support/node.ts';

const PORT = 9000;
const STICKY = 12;
const EMPTY = 13;
const LOCAL = 14;
const LOCAL_NODE_PORT = 30901;
const FAMILIES: readonly Family[] = [4, 6];

const root = skipUnless(privilege() === 'root', 'needs root');

describe.each([
  ['nft', kernel],
  ['ebpf', root],
] as const)('mode %s', (mode, able) => {
  able.describe('traffic through agents', () => {
    let lab: Lab;
    beforeAll(async () => {
      buildProgram();
      const cgroups = mode === 'ebpf' ? 'per-pod' : 'none';
      lab = await createLab({ name: `traffic-${mode}-${process.pid}`, nodes: defaultNodes(2), cgroups });
      const clusterIPs = (host: number) => FAMILIES.map((family) => serviceAddress(family, host));
      const slices = (service: string, endpoints = lab.plan.pods.filter((pod) => pod.labels.app === 'web')) =>
        sliceObjects({ service, families: FAMILIES, ports: [{ port: 80 }], endpoints });
      const ports = [{ port: PORT, targetPort: 80 }];
      lab.manifests.write('services', [
        ...[webNodePort(lab, 'Cluster'), ...webSlices(lab), ...udpObjects(lab)],
        serviceObject({ name: 'sticky', clusterIPs: clusterIPs(STICKY), ports, affinitySeconds: 600 }),
        ...slices('sticky'),
        serviceObject({ name: 'empty', clusterIPs: clusterIPs(EMPTY), ports }),
        serviceObject({
          ...{
            name: 'local',
            clusterIPs: clusterIPs(LOCAL),
            type: 'NodePort',
            externalTrafficPolicy: 'Local',
          },
          ports: [{ ...ports[0]!, nodePort: LOCAL_NODE_PORT }],
        }),
        ...slices(
          'local',
          lab.plan.pods.filter((pod) => pod.name === 'webpod1'),
        ),
      ]);
      await lab.startAgents({ args: ['--proxy-mode', mode] });
    });
    afterAll(() => lab?.down());

    interface Case {
      readonly title: string;
      readonly from: string;
      readonly protocol?: CallProtocol;
      /** A node's own address, or the last number of a service address. */
      readonly to: string | number;
      readonly port: number;
      readonly options?: CallOptions;
      readonly outcome: Outcome;
      /** How many pods answer. */
      readonly pods?: number;
      /** Whose address the pods see. */
      readonly seen?: string;
    }
    const from = 'net-pod';
    const few: CallOptions = { count: 3, timeoutMs: 400 };
    const CASES: readonly Case[] = [
      { title: 'ClusterIP', from, to: 10, port: PORT, outcome: 'ok', pods: 2, seen: 'net-pod' },
      {
        title: 'ClusterIP from the node',
        from: 'cp',
        to: 10,
        port: PORT,
        outcome: 'ok',
        pods: 2,
        seen: 'cp',
      },
      { title: 'ClusterIP from its own pod', from: 'webpod1', to: 10, port: PORT, outcome: 'ok', pods: 2 },
      {
        title: 'UDP',
        from,
        protocol: 'udp',
        to: 11,
        port: UDP_PORT,
        outcome: 'ok',
        pods: 2,
        seen: 'net-pod',
      },
      { title: 'affinity', from, to: STICKY, port: PORT, outcome: 'ok', pods: 1, seen: 'net-pod' },
      { title: 'no endpoints', from, to: EMPTY, port: PORT, options: few, outcome: 'refused' },
      { title: 'undefined port', from, to: 10, port: 9, options: few, outcome: 'refused' },
      {
        title: 'undefined UDP port',
        from,
        protocol: 'udp',
        to: 11,
        port: 9,
        options: few,
        outcome: 'refused',
      },
      ...['cp', 'worker1', 'worker2'].map(
        (node): Case => ({
          ...{ title: `NodePort on ${node}`, from: 'client', to: node, port: 30900 },
          ...{ outcome: 'ok', pods: 2, seen: node },
        }),
      ),
      {
        ...{ title: 'Local with an endpoint', from: 'client', to: 'worker1', port: LOCAL_NODE_PORT },
        ...{ outcome: 'ok', pods: 1, seen: 'client' },
      },
      {
        ...{ title: 'Local without one', from: 'client', to: 'worker2', port: LOCAL_NODE_PORT },
        ...{ options: few, outcome: 'timeout' },
      },
      {
        ...{ title: 'Local without one, from a pod', from, to: 'cp', port: LOCAL_NODE_PORT },
        ...{ outcome: 'ok', pods: 1, seen: 'net-pod' },
      },
    ];

    const addressOf = (to: string | number, family: Family): string =>
      typeof to === 'number' ? serviceAddress(family, to) : lab.place(to).addresses[family]!;

    function call(one: Case, family: Family): Promise<CallResult> {
      const options = one.options ?? { count: 60, concurrency: 4, timeoutMs: 5000 };
      return lab.place(one.from).call(one.protocol ?? 'tcp', addressOf(one.to, family), one.port, options);
    }

    for (const family of FAMILIES) {
      test.each(CASES)(`IPv${family}: $title`, async (one) => {
        const result = await call(one, family);
        expect(result.outcomes[one.outcome]).toBe(result.total);
        if (one.pods) expect(Object.keys(result.pods)).toHaveLength(one.pods);
        if (one.seen) expect(Object.keys(result.peers)).toEqual([lab.place(one.seen).addresses[family]]);
      });
    }

    /** What explain's words mean to a client. */
    const OUTCOMES: Readonly<Record<Explanation['action'], Outcome>> = {
      forward: 'ok',
      reject: 'refused',
      drop: 'timeout',
      pass: 'unreachable',
    };

    test.each(CASES)('explain tells the truth: $title', async (one) => {
      // Of the agent at which the packet meets the rules first.
      const node =
        typeof one.to === 'string' ? one.to : (lab.pods.get(one.from)?.node ?? lab.node(one.from).name);
      const source = lab.place(one.from).addresses[4]!;
      const destination = `${addressOf(one.to, 4)}:${one.port}/${one.protocol ?? 'tcp'}`;
      const socket = ['--admin-socket', lab.agents.get(node)!.adminSocket];
      const told = await json<Explanation>(lab.node(node), 'explain', source, destination, ...socket);
      const result = await call(one, 4);
      expect(OUTCOMES[told.action]).toBe(one.outcome);
      const addresses = told.backends.map(({ address }) => address as string);
      for (const pod of Object.keys(result.pods)) expect(addresses).toContain(lab.pod(pod).addresses[4]);
      if (one.seen) {
        const masqueraded = told.backends.some(({ masquerade }) => masquerade);
        // The node's own address is what it sends from anyway.
        if (one.from !== 'cp') expect(masqueraded).toBe(one.seen !== one.from);
      }
      expect(told.because.length).toBeGreaterThan(0);
    });

    test('get services and endpoints show what the kernel holds', async () => {
      const services = await json<ServiceView[]>(lab.node('worker2'), 'get', 'services');
      const own = lab.node('worker2').addresses[4];
      const rows = services.map(
        (row) => `${row.service} ${row.kind} ${row.address}:${row.port}/${row.protocol}`,
      );
      expect(rows).toEqual(
        expect.arrayContaining([
          `default/web ClusterIP 10.200.1.10:${PORT}/TCP`,
          `default/web NodePort ${own}:30900/TCP`,
          `default/dns ClusterIP 10.200.1.11:${UDP_PORT}/UDP`,
          `default/empty ClusterIP fd00:200::d:${PORT}/TCP`,
        ]),
      );
      const find = (name: string, kind: string) =>
        services.find((row) => row.service === `default/${name}` && row.kind === kind && row.address !== '')!;
      expect(find('empty', 'ClusterIP').inside).toBe('reject');
      expect(find('sticky', 'ClusterIP').affinitySeconds).toBe(600);
      expect(find('local', 'NodePort').outside).toBe('drop');
      const endpoints = await json<EndpointView[]>(lab.node('worker2'), 'get', 'endpoints', 'default/web');
      const expected = ['webpod1', 'webpod2'].flatMap((pod) =>
        FAMILIES.map((f) => lab.pod(pod).addresses[f]),
      );
      expect(new Set(endpoints.map(({ address }) => address as string))).toEqual(new Set(expected));
    });

    test('get connections shows a connection while it stands', async () => {
      const hold = await lab.pod('net-pod').hold('tcp', serviceAddress(4, 10), PORT, { connections: 2 });
      expect(await hold.established).toMatchObject({ open: 2 });
      type Row = { client: { address: string }; frontend: { address: string }; backend: { port: number } };
      const rows = await json<(Row & { state: string })[]>(lab.node('cp'), 'get', 'connections');
      const standing = rows.filter(
        ({ state, frontend }) => state === 'ESTABLISHED' && frontend.address === '10.200.1.10',
      );
      expect(standing.length).toBeGreaterThanOrEqual(2);
      for (const { client, backend } of standing) {
        expect([client.address, backend.port]).toEqual([lab.pod('net-pod').addresses[4], 80]);
      }
      await hold.stop();
    });
  });
});
