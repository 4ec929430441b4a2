/** What changes under a running agent: addresses, manifests, endpoints of UDP services, its own configuration. */
import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';
import {
  UDP_PORT,
  udpObjects,
  WEB_NODE_PORT,
  WEB_PORT,
  webNodePort,
  webService,
  webSlices,
} from '../../src/lab/examples.ts';
import { createLab, type Lab } from '../../src/lab/lab.ts';
import {
  type EndpointSpec,
  nodeObject,
  serviceObject,
  sliceObjects,
  yamlText,
} from '../../src/lab/manifests.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import type { CallProtocol } from '../../src/lab/results.ts';
import type { Address } from '../../src/model/records.ts';
import { buildProgram, eventually, kernel, logged, OwnAgent, statusOf } from './support/node.ts';

const WEB = serviceAddress(4, 10);
const DNS = serviceAddress(4, 11);
/** An address that the node gets and loses; the fabric knows the way. */
const EXTRA = '198.18.7.1';
const EXTRA_CIDR = '198.18.7.0/24';

kernel.describe('changes under a running agent', () => {
  let lab: Lab;
  let agent: OwnAgent;
  const configFile = () => path.join(path.dirname(lab.manifests.path), 'config.yaml');
  const file = (name: string) => path.join(lab.manifests.path, `${name}.yaml`);

  function configure(fields: object, reload: 'now' | 'by itself' = 'now'): void {
    const config = {
      ...{ apiVersion: 'kubeproxy.config.k8s.io/v1alpha1', kind: 'KubeProxyConfiguration' },
      // Without it, auto: ebpf, whose socket programs would stand on the whole machine's cgroup.
      mode: 'nftables',
      ...{ clusterCIDR: '10.10.0.0/16,fd00:10::/48', nodePortAddresses: ['primary'], ...fields },
    };
    writeFileSync(configFile(), stringify(config));
    if (reload === 'now') agent?.child.kill('SIGHUP');
  }

  function writeAll(): void {
    lab.manifests.write('web', [webNodePort(lab, 'Cluster'), ...webSlices(lab)]);
    lab.manifests.write('dns', udpObjects(lab));
    for (const name of ['more', 'broken']) lab.manifests.remove(name);
  }

  beforeAll(async () => {
    buildProgram();
    lab = await createLab({
      name: `changes-${process.pid}`,
      nodes: [{ name: 'cp' }, { name: 'worker1' }],
      pods: [
        { name: 'net-pod', node: 'cp' },
        ...['webpod1', 'webpod2'].map((name) => ({ name, node: 'worker1', labels: { app: 'web' } })),
      ],
    });
    await lab.route(EXTRA_CIDR, 'cp');
    writeAll();
    configure({});
    agent = await new OwnAgent(lab, 'cp', [
      ...['--config', configFile(), '--manifests', lab.manifests.path, '--sync-period', '1h'],
    ]).ready();
  });
  afterEach(() => {
    writeAll();
    configure({});
  });
  afterAll(async () => {
    await agent?.stop();
    lab?.down();
  });

  const pod = () => lab.pod('net-pod');
  const ask = async (protocol: CallProtocol = 'tcp', address = WEB, port = WEB_PORT) =>
    (await pod().ask(protocol, address, port, { timeoutMs: 400 })).outcome;
  const nodePort = async (address: string) =>
    (await lab.client.ask('tcp', address, WEB_NODE_PORT, { timeoutMs: 400 })).outcome;
  const problems = async () => (await statusOf(agent.adminSocket)).problems;
  const objects = async () => (await problems()).map(({ object }) => object).sort();
  const primary = () => lab.node('cp').addresses[4]!;

  const EXTRA_SERVICE = () =>
    serviceObject({
      name: 'more',
      clusterIPs: [serviceAddress(4, 20)],
      ports: [{ port: 1, targetPort: 80 }],
    });
  const moreSlices = (endpoints: readonly EndpointSpec[] = [lab.pod('webpod1').plan]) =>
    sliceObjects({ service: 'more', families: [4], ports: [{ port: 80 }], endpoints });
  const more = () => ask('tcp', serviceAddress(4, 20), 1);

  test('NodePorts follow addresses that come and go', async () => {
    configure({ nodePortAddresses: [EXTRA_CIDR, `${primary()}/32`] });
    expect(await nodePort(EXTRA)).not.toBe('ok');
    for (let round = 0; round < 2; round++) {
      await lab.ip('cp', [`addr add ${EXTRA}/32 dev eth0`]);
      await eventually(() => nodePort(EXTRA)).toBe('ok');
      expect(await nodePort(primary())).toBe('ok');
      await lab.ip('cp', [`addr del ${EXTRA}/32 dev eth0`]);
      await eventually(() => nodePort(EXTRA)).not.toBe('ok');
      expect(await nodePort(primary())).toBe('ok');
    }
  });

  test('with `primary` they follow the Node object', async () => {
    await lab.ip('cp', [`addr add ${EXTRA}/32 dev eth0`]);
    await eventually(() => nodePort(EXTRA)).not.toBe('ok');
    const [cp, ...others] = lab.plan.nodes;
    const moved = { ...cp!, addresses: { ...cp!.addresses, 4: EXTRA } };
    lab.manifests.write(
      'nodes',
      [moved, ...others].map((node) => nodeObject(node, lab.plan.families)),
    );
    await eventually(() => nodePort(EXTRA)).toBe('ok');
    await eventually(() => nodePort(primary())).not.toBe('ok');
    lab.writeNodes();
    await eventually(() => nodePort(primary())).toBe('ok');
    await eventually(() => nodePort(EXTRA)).not.toBe('ok');
    await lab.ip('cp', [`addr del ${EXTRA}/32 dev eth0`]);
  });

  test('the configuration file is taken over live, field by field', async () => {
    const seen = async () => (await pod().ask('tcp', WEB, WEB_PORT, { timeoutMs: 400 })).peer;
    expect(await seen()).toBe(pod().addresses[4]);
    configure({ triplane: { masqueradeAll: true } }, 'by itself');
    await eventually(seen).toBe(primary());
    configure({});
    await eventually(seen).toBe(pod().addresses[4]);
    // To this cluster CIDR the pod is a stranger.
    configure({ clusterCIDR: '10.99.0.0/16' });
    await eventually(seen).toBe(primary());
    configure({});
    await eventually(seen).toBe(pod().addresses[4]);
    configure({ detectLocalMode: 'InterfaceNamePrefix', detectLocal: { interfaceNamePrefix: 'nothing' } });
    await eventually(seen).toBe(primary());
    // What cannot be used is named, and what was in force stays so.
    writeFileSync(configFile(), 'clusterCIDR: [');
    agent.child.kill('SIGHUP');
    // Once or twice: the signal says so, and the look at the file that comes every two seconds.
    await eventually(() => logged(agent.text, 'everything stays as it was').length).toBeGreaterThan(0);
    expect(await seen()).toBe(primary());
    configure({});
    await eventually(seen).toBe(pod().addresses[4]);
  });

  test('so are the settings of conntrack and the OOM score', async (context) => {
    const closeWait = async () =>
      (
        await lab.node('cp').exec(['cat', '/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait'])
      ).stdout.trim();
    const oomScore = () => readFileSync(`/proc/${agent.child.pid}/oom_score_adj`, 'utf8').trim();
    if ((await closeWait()) !== '3600') context.skip('needs a conntrack of its own in each namespace');
    configure({ conntrack: { tcpCloseWaitTimeout: '77s' }, oomScoreAdj: 321 });
    await eventually(closeWait).toBe('77');
    await eventually(oomScore).toBe('321');
    // An administrator's own value stays while the file says nothing new of it.
    await lab
      .node('cp')
      .exec(['sh', '-c', 'echo 99 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait']);
    configure({ conntrack: { tcpCloseWaitTimeout: '77s' }, oomScoreAdj: 321, logging: { verbosity: 1 } });
    await eventually(() => logged(agent.text, 'taking it over').at(-1)?.fields).toEqual([
      'logging.verbosity',
    ]);
    expect(await closeWait()).toBe('99');
  });

  test('a file that is broken, cut off or emptied keeps what it said, and is named', async () => {
    const whole = yamlText([EXTRA_SERVICE(), ...moreSlices()]);
    lab.manifests.writeText('more', whole);
    await eventually(more).toBe('ok');
    for (const text of ['{ this is: [no, manifest', `${whole}---\n{{{\n`, whole.slice(0, whole.length / 2)]) {
      writeFileSync(file('more'), text);
      await eventually(async () => (await objects()).join()).toContain('more.yaml');
      expect(await more()).toBe('ok');
    }
    truncateSync(file('more'));
    await eventually(async () => (await problems()).map(({ reason }) => reason).join()).toContain('is empty');
    expect(await more()).toBe('ok');
    expect(agent.text).toContain('more.yaml');
    // The rest goes on meanwhile.
    lab.manifests.write('web', [webService(lab), ...webSlices(lab, [lab.pod('webpod2').plan])]);
    await eventually(async () =>
      Object.keys((await pod().call('tcp', WEB, WEB_PORT, { count: 20 })).pods),
    ).toEqual(['webpod2']);
    lab.manifests.writeText('more', whole);
    await eventually(objects).toEqual([]);
    lab.manifests.remove('more');
    await eventually(more).not.toBe('ok');
  });

  test('a file that is written piece by piece takes nothing down', async () => {
    const whole = yamlText([EXTRA_SERVICE(), ...moreSlices()]);
    lab.manifests.writeText('more', whole);
    await eventually(more).toBe('ok');
    const calls = await pod().load('tcp', serviceAddress(4, 20), 1, { rate: 100, timeoutMs: 5000 });
    writeFileSync(file('more'), '');
    for (let at = 0; at < whole.length; at += 97) {
      appendFileSync(file('more'), whole.slice(at, at + 97));
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    await eventually(objects).toEqual([]);
    await calls.stop();
    expect(calls.failures).toEqual([]);
  });

  test.each([
    { title: 'hostile name', spoil: { metadata: { name: 'x"; flush ruleset; #', namespace: 'default' } } },
    { title: 'name with a newline', spoil: { metadata: { name: 'a\nb', namespace: 'default' } } },
    { title: 'address that is none', spoil: { spec: { clusterIP: '10.0.0.256', ports: [{ port: 1 }] } } },
    { title: 'port out of range', spoil: { spec: { clusterIP: '10.200.1.99', ports: [{ port: 70000 }] } } },
  ])('a service with a $title is refused by name, and the rest of its file goes in', async ({ spoil }) => {
    const bad = {
      ...serviceObject({ name: 'bad', clusterIPs: ['10.200.1.99'], ports: [{ port: 1 }] }),
      ...spoil,
    };
    await eventually(more).not.toBe('ok');
    lab.manifests.write('broken', [bad, EXTRA_SERVICE(), ...moreSlices()]);
    await eventually(more).toBe('ok');
    const found = await problems();
    expect(found).toMatchObject([{ code: 'TP_BAD_OBJECT', origin: expect.stringContaining('broken.yaml') }]);
    const { object, reason } = found[0]!;
    expect(`${object} ${reason}`).not.toMatch(/[\n\r]/);
    expect(logged(agent.text, 'refused').at(-1)).toMatchObject({ code: 'TP_BAD_OBJECT', object });
    lab.manifests.remove('broken');
    await eventually(objects).toEqual([]);
  });

  test('two services that claim one address: the second is named, and gets it when the first goes', async () => {
    lab.manifests.write('more', [EXTRA_SERVICE(), ...moreSlices()]);
    await eventually(more).toBe('ok');
    const rival = serviceObject({
      ...{ name: 'rival', clusterIPs: [serviceAddress(4, 20)], ports: [{ port: 1, targetPort: 80 }] },
    });
    const [slice] = sliceObjects({
      ...{ service: 'rival', families: [4], ports: [{ port: 80 }], endpoints: [lab.pod('webpod2').plan] },
    });
    lab.manifests.write('broken', [rival, slice!]);
    await eventually(objects).toHaveLength(1);
    expect(await problems()).toMatchObject([{ code: 'TP_FRONTEND_TAKEN' }]);
    lab.manifests.remove((await objects())[0] === 'Service default/rival' ? 'more' : 'broken');
    await eventually(objects).toEqual([]);
    expect(await more()).toBe('ok');
  });

  test('a UDP client that keeps sending moves on when its backend goes', async () => {
    const slices = (name: string) =>
      sliceObjects({
        ...{ service: 'dns', families: lab.plan.families, ports: [{ port: 80, protocol: 'UDP' as const }] },
        endpoints: [lab.pod(name).plan],
      });
    const [service] = udpObjects(lab);
    const answering = async () => Object.keys((await pod().call('udp', DNS, UDP_PORT, { count: 20 })).pods);
    lab.manifests.write('dns', [service!, ...slices('webpod1')]);
    await eventually(answering).toEqual(['webpod1']);
    const hold = await pod().hold('udp', DNS, UDP_PORT, { intervalMs: 20, timeoutMs: 2000 });
    expect(await hold.established).toMatchObject({ pods: { webpod1: 1 } });
    lab.manifests.write('dns', [service!, ...slices('webpod2')]);
    await eventually(() => hold.failures.length).toBe(1);
    expect(hold.failures[0]).toMatchObject({ name: 'webpod1', detail: 'webpod2' });
    const summary = await hold.stop();
    expect(summary).toMatchObject({ moved: 1, outcomes: { ok: 1 } });
  });

  test('a TCP client that a backend did not answer reaches another from the same port when that one goes', async () => {
    const { plan } = lab.pod('webpod1');
    // Packets to it end in the dark, as those to a pod that is gone.
    const gone = plan.addresses[4]!.replace(/\d+$/, '250') as Address;
    const same = async () =>
      (await pod().ask('tcp', serviceAddress(4, 20), 1, { sourcePort: 5556, timeoutMs: 300 })).outcome;
    lab.manifests.write('more', [
      EXTRA_SERVICE(),
      ...moreSlices([{ ...plan, addresses: { ...plan.addresses, 4: gone } }]),
    ]);
    await eventually(same).toBe('timeout');
    // The flow stands in the table, and every try refreshes it.
    expect(await same()).not.toBe('ok');
    lab.manifests.write('more', [EXTRA_SERVICE(), ...moreSlices()]);
    await eventually(same).toBe('ok');
  });

  test('a UDP client that spoke to nobody reaches the backend when there is one', async () => {
    lab.manifests.remove('dns');
    const sourcePort = 5555;
    // One socket's flow: the same ports all the time, so that conntrack keeps what it has.
    const same = async () => (await pod().ask('udp', DNS, UDP_PORT, { sourcePort, timeoutMs: 200 })).outcome;
    await eventually(same).not.toBe('ok');
    // The flow stands untranslated in the table, and every try refreshes it.
    await same();
    const [service, ...slices] = udpObjects(lab);
    lab.manifests.write('dns', [service!]);
    await eventually(() => ask('udp', DNS, UDP_PORT)).toBe('refused');
    lab.manifests.write('dns', [service!, ...slices]);
    await eventually(same).toBe('ok');
  });
});
