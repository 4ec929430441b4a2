/** The agent in ipvs mode, from a manifest to an answer, and what its commands say of the kernel. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { askAgent } from '../../src/cli/admin-client.ts';
import { WEB_NODE_PORT, WEB_PORT, webNodePort, webService, webSlices } from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import { sliceObjects } from '../../src/lab/manifests.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { ipvs } from '../support/ipvs.ts';
import { buildProgram, eventually, json, OwnAgent, statusOf, triplane } from './support/node.ts';

const WEB = serviceAddress(4, 10);
const STICKY = serviceAddress(4, 20);
const LOAD = { rate: 2, timeoutMs: 10_000, durationMs: 290_000 } as const;
const HOLD = { connections: 2, intervalMs: 200, timeoutMs: 10_000, durationMs: 290_000 };

ipvs.describe('an agent in ipvs mode', () => {
  let lab: Lab;
  let agent: OwnAgent;

  const configFile = () => path.join(path.dirname(lab.manifests.path), 'config.yaml');
  function configure(fields: object): void {
    const head = { apiVersion: 'kubeproxy.config.k8s.io/v1alpha1', kind: 'KubeProxyConfiguration' };
    writeFileSync(configFile(), JSON.stringify({ ...head, mode: 'ipvs', ipvs: fields }));
  }

  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `ipvs-${process.pid}`,
      nodes: [{ name: 'cp' }, { name: 'worker1' }],
      pods: [
        { name: 'net-pod', node: 'cp' },
        ...['webpod1', 'webpod2'].map((name) => ({ name, node: 'worker1', labels: { app: 'web' } })),
      ],
    });
    lab.manifests.write('web', [webNodePort(lab, 'Cluster'), ...webSlices(lab)]);
    configure({ scheduler: 'lc' });
    agent = await new OwnAgent(lab, 'cp', [
      ...['--config', configFile(), '--cluster-cidr=10.10.0.0/16,fd00:10::/48'],
      ...['--manifests', lab.manifests.path],
      ...['--bpf-root', `/sys/fs/bpf/ipvs-${process.pid}`],
    ]).ready();
  });
  afterAll(async () => {
    await agent?.stop();
    lab?.down();
  });

  const reached = async () => {
    const { pods } = await lab.pod('net-pod').call('tcp', WEB, WEB_PORT, { count: 8, timeoutMs: 5000 });
    return Object.keys(pods).sort();
  };
  const endpoints = async () =>
    new Set((await json<{ address: string }[]>(lab.node('cp'), 'get', 'endpoints')).map((e) => e.address));

  /** Where IPVS and we may have left something; without -brief, links name the namespaces behind them. */
  const held = async () => {
    const look = ['sh', '-c', 'cat /proc/net/ip_vs; ip -brief link; nft list tables'];
    return (await lab.node('cp').exec(look)).stdout;
  };

  test('serves, follows its manifests, and shows what the kernel holds', async () => {
    await eventually(reached).toEqual(['webpod1', 'webpod2']);
    const fromOutside = await lab.client.call('tcp', lab.node('cp').addresses[4]!, WEB_NODE_PORT, {
      count: 4,
      timeoutMs: 5000,
    });
    expect(fromOutside.requests.map(({ outcome }) => outcome)).toEqual(Array(4).fill('ok'));
    const services = await json<{ address: string; inside: string }[]>(lab.node('cp'), 'get', 'services');
    expect(services.find(({ address }) => address === WEB)).toMatchObject({ inside: '2 backends' });
    const one = lab.plan.pods.filter(({ name }) => name === 'webpod2');
    lab.manifests.write('web', [webNodePort(lab, 'Cluster'), ...webSlices(lab, one)]);
    await eventually(reached).toEqual(['webpod2']);
    expect(await endpoints()).toEqual(new Set(Object.values(one[0]!.addresses)));
  });

  test('follows what its configuration file says of IPVS', async () => {
    const look = async () => {
      const arp = ['/proc/sys/net/ipv4/conf/all/arp_ignore', '/proc/sys/net/ipv4/conf/all/arp_announce'];
      const { stdout } = await lab.node('cp').exec(['cat', ...arp, '/proc/net/ip_vs']);
      return {
        schedulers: [...new Set(Array.from(stdout.matchAll(/^FWM +\w+ (\w+)/gm), ([, name]) => name))],
        arp: stdout.split('\n').slice(0, 2),
      };
    };
    expect((await look()).schedulers).toEqual(['lc']);
    configure({ scheduler: 'sed', strictARP: true, tcpTimeout: '2h', excludeCIDRs: ['198.51.100.0/24'] });
    await eventually(look).toEqual({ schedulers: ['sed'], arp: ['1', '2'] });
    expect(agent.text).not.toContain('needs a restart');
    expect(await reached()).toEqual(['webpod2']);
    // 0 and false leave what is there, as at a start.
    configure({ scheduler: 'lc' });
    await eventually(look).toEqual({ schedulers: ['lc'], arp: ['1', '2'] });
  });

  test('moves to the other modes and back, and open connections stay', async () => {
    const node = lab.node('cp').addresses[4]!;
    const status = async () => (await statusOf(agent.adminSocket)).mode;
    lab.manifests.write('more', [
      webService(lab, { name: 'sticky', clusterIPs: [STICKY], affinitySeconds: 600 }),
      ...sliceObjects({
        ...{ service: 'sticky', families: [4], ports: [{ port: 80 }] },
        endpoints: lab.plan.pods.filter(({ labels }) => labels.app === 'web'),
      }),
    ]);
    const asked = async () =>
      (await lab.node('cp').ask('tcp', STICKY, WEB_PORT, { timeoutMs: 5000 })).outcome;
    await eventually(asked).toBe('ok');
    // The node itself, whose packets meet both modes' rules at output. With datagrams, and all else: ipvs-switching.test.ts.
    const own = await lab.node('cp').load('tcp', STICKY, WEB_PORT, LOAD);
    const holds = await Promise.all([
      lab.pod('net-pod').hold('tcp', WEB, WEB_PORT, HOLD),
      lab.client.hold('tcp', node, WEB_NODE_PORT, HOLD),
      lab.node('cp').hold('tcp', WEB, WEB_PORT, HOLD),
    ]);
    for (const hold of holds) expect((await hold.established).open).toBe(HOLD.connections);
    for (const mode of ['nft', 'ipvs', 'ebpf', 'ipvs', 'nft'] as const) {
      expect(await askAgent(agent.adminSocket, 'POST', '/v1/switch', { mode })).toMatchObject({ to: mode });
      expect(await status()).toMatchObject({ mode, failure: '' });
      for (const place of [lab.pod('net-pod'), lab.node('cp')])
        expect((await place.call('tcp', WEB, WEB_PORT, { count: 5, timeoutMs: 8000 })).outcomes.ok).toBe(5);
      if (mode !== 'ebpf') continue;
      // From ipvs and to it; what ends now has been forgotten by IPVS when the rest is waited for.
      const { outcomes, total } = await own.stop();
      expect([own.failures, outcomes.ok]).toEqual([[], total]);
    }
    for (const hold of holds) {
      expect(await hold.stop()).toMatchObject({ moved: 0 });
      expect(hold.failures).toEqual([]);
    }
    lab.manifests.write('more', []);
    // IPVS keeps a closed connection for a while (net/netfilter/ipvs/ip_vs_proto_tcp.c: up to two minutes).
    const kept = async () => {
      if ((await status()).draining.length === 0) return '';
      return (await lab.node('cp').exec(['cat', '/proc/net/ip_vs', '/proc/net/ip_vs_conn'])).stdout;
    };
    await expect.poll(kept, { timeout: 400_000, interval: 500 }).toBe('');
    expect(await held()).not.toMatch(/FWM|triplane-(ipvs|keeper)/);
    await askAgent(agent.adminSocket, 'POST', '/v1/switch', { mode: 'ipvs' });
  }, 900_000);

  test('goes on without the agent, and cleanup leaves nothing', async () => {
    await agent.stop();
    expect(await reached()).toEqual(['webpod2']);
    expect((await triplane(lab.node('cp'), 'cleanup')).stdout).toContain('ipvs: removed');
    expect((await triplane(lab.node('cp'), 'cleanup')).stdout).toContain('there was nothing to remove');
    expect(await held()).not.toMatch(/FWM|triplane/);
  });
});
