/** The ipvs mode with real connections, on a kernel that has IPVS: what leaves, returns, is asked for and is foreign. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { cleanupIpvs } from '../../../src/dataplane/ipvs/cleanup.ts';
import { IpvsDataplane } from '../../../src/dataplane/ipvs/ipvs-dataplane.ts';
import { type IpvsSocket, openIpvsSocket } from '../../../src/dataplane/ipvs/native.ts';
import {
  readServices,
  writeDestination,
  writeService,
  writeServiceRemoval,
} from '../../../src/dataplane/ipvs/packed-ipvs.ts';
import { readIpvs } from '../../../src/dataplane/ipvs/readback.ts';
import { PackedWriter } from '../../../src/dataplane/nft/packed.ts';
import { NO_TRAFFIC } from '../../../src/dataplane/traffic.ts';
import { applyBatch } from '../../../src/lab/run.ts';
import type { DesiredPort, DesiredService, DesiredState } from '../../../src/model/desired.ts';
import { changeBetween, stateOf } from '../../support/desired.ts';
import { ipvs, localByDevice } from '../../support/ipvs.ts';
import { bareNamespaces } from '../../support/namespaces.ts';
import { NodeWorld, runIn } from '../../support/node-world.ts';
import { NODE, web } from '../../support/web.ts';

const ANSWER_MS = 5_000;
/** Less than the second after which a client sends a lost SYN again. */
const AT_ONCE_MS = 900;
/** linux/ip_vs.h: fallback and port of sh and mh. */
const IP_VS_SVC_F_SCHED1 = 0x8;
const IP_VS_SVC_F_SCHED2 = 0x10;
const IP_VS_SVC_F_SCHEDS = 0x38;
const L1 = '10.10.1.1 80';
const R2 = '10.10.2.2 80';
const R3 = '10.10.2.3 80';
const CLUSTER_IP = '10.200.1.10';
const EXTERNAL_IP = '198.18.1.10';

/** A service with other settings or pools on each of its ports. */
function changed(
  service: DesiredService,
  change: (port: DesiredPort) => Partial<DesiredPort>,
): DesiredService {
  return { ...service, ports: service.ports.map((port) => ({ ...port, ...change(port) })) };
}

function withSettings(service: DesiredService, settings: Record<string, string>): DesiredService {
  return changed(service, () => ({ settings }));
}

ipvs.describe('ipvs, traffic', () => {
  let world: NodeWorld;
  let dataplane: IpvsDataplane;
  let state: DesiredState;

  beforeAll(async () => {
    world = await NodeWorld.create({ names: ['pod', 'L1', 'R2', 'R3', 'outside', 'nobody'] });
    dataplane = open(3_000);
    state = stateOf([], NODE);
    expect((await dataplane.start(state)).refusals).toEqual([]);
  });
  afterAll(async () => {
    await dataplane?.close();
    await world?.remove();
  });
  afterEach(() => bring([]));

  const open = (graceMs: number, traffic = NO_TRAFFIC) =>
    new IpvsDataplane({ netns: world.netns, graceMs, traffic });

  async function bring(services: readonly DesiredService[]) {
    const next = stateOf(services, NODE);
    const result = await dataplane.apply(changeBetween(state, next), next);
    state = next;
    return result;
  }

  async function withSocket<T>(work: (socket: IpvsSocket) => Promise<T>, netns = world.netns): Promise<T> {
    const socket = openIpvsSocket(netns);
    try {
      return await work(socket);
    } finally {
      socket.close();
    }
  }

  const proc = async () => (await world.run('node', ['cat', '/proc/net/ip_vs'])).stdout;
  const bound = async () => localByDevice(world.netns);

  test('each address stands on the device once, however many ports use it, and goes with the last', async () => {
    await bring([web(10, [L1]), web(11, [R2])]);
    expect(await bound()).toEqual([CLUSTER_IP, '10.200.1.11', EXTERNAL_IP, '198.18.1.11'].sort());
    await bring([web(11, [R2])]);
    await expect.poll(bound, { timeout: 10_000 }).toEqual(['10.200.1.11', '198.18.1.11']);
  });

  test('an address that a service loses while it goes on stays for connections to it, and for no others', async () => {
    const both = [web(10, [L1]), web(11, [L1])];
    const without = both.map((service) =>
      changed(service, (port) => ({
        frontends: port.frontends.filter(({ kind }) => kind !== 'ExternalIP'),
      })),
    );
    await dataplane.close();
    // The bound would take it at last.
    dataplane = open(600_000);
    state = stateOf(both, NODE);
    await dataplane.start(state);
    // One that is half closed would be kept for two minutes, and looks are rarer where they take long.
    const times = ['fin_wait', 'close_wait', 'last_ack', 'time_wait', 'close'].map(
      (name) => `*_tcp_timeout_${name}`,
    );
    const shorten = `cd /proc/sys/net/netfilter && for file in ${times.join(' ')}; do echo 2 > $file; done`;
    expect((await world.run('node', ['sh', '-c', shorten])).stderr).toBe('');
    const options = { intervalMs: 50, timeoutMs: 5_000 };
    const kept = await world.place('pod').hold('tcp', CLUSTER_IP, 9000, options);
    const lost = await world.place('outside').hold('tcp', EXTERNAL_IP, 9000, options);
    for (const hold of [kept, lost]) await hold.established;
    await bring(without);
    // What nobody uses goes, and so says that it was looked.
    await expect.poll(bound, { timeout: 30_000 }).toEqual([CLUSTER_IP, '10.200.1.11', EXTERNAL_IP].sort());
    await lost.stop();
    await expect.poll(bound, { timeout: 200_000 }).toEqual([CLUSTER_IP, '10.200.1.11']);
    await kept.stop();
    expect([...kept.failures, ...lost.failures]).toEqual([]);
    await dataplane.close();
    dataplane = open(3_000);
    await dataplane.start(state);
  }, 300_000);

  test('the kernel counts what it carries', async () => {
    await dataplane.close();
    dataplane = open(3_000, { level: 'traffic', by: 'endpoint' });
    state = stateOf([web(10, [L1])], NODE);
    await dataplane.start(state);
    await world.place('pod').call('tcp', CLUSTER_IP, 9000, { count: 5 });
    const counted = async () => {
      const cells = await dataplane.traffic()!.read(state);
      const { port, endpoint, connections, packetsIn = 0, bytesOut = 0 } = { ...cells[0] };
      return { port, endpoint, connections, both: packetsIn >= 5 && bytesOut > 0 };
    };
    const wanted = { port: 'test/web-10:tcp', endpoint: '10.10.1.1:80', connections: 5, both: true };
    await expect.poll(counted, { timeout: 60_000 }).toEqual(wanted);
    await dataplane.close();
    dataplane = open(3_000);
    await dataplane.start(state);
  });

  test('a change of one service takes as many messages among 100 services as among 2', async () => {
    const others = Array.from({ length: 100 }, (_, at) => web(100 + at, [L1, R2]));
    const cost = async (rest: readonly DesiredService[]) => {
      await bring([web(10, [L1]), ...rest]);
      return (await bring([web(10, [L1, R2]), ...rest])).operations;
    };
    expect(await cost(others)).toBe(await cost(others.slice(0, 2)));
  });

  test('schedulers, their flags and weights come from annotations', async () => {
    const kernelHas = ['rr', 'wrr', 'lc', 'wlc', 'lblc', 'lblcr', 'dh', 'sh', 'sed', 'nq', 'mh'];
    for (const scheduler of kernelHas) {
      const { refusals } = await bring([
        withSettings(web(10, [L1, R2]), { 'ipvs-scheduler': scheduler, 'ipvs-weights': 'local=3,default=2' }),
      ]);
      expect(refusals).toEqual([]);
      expect(await proc()).toMatch(new RegExp(`^FWM  \\w+ ${scheduler} `, 'm'));
      expect(await proc()).toMatch(/0A0A0101:0050 +Masq +3 /);
      const { requests } = await world.place('pod').call('tcp', CLUSTER_IP, 9000, { timeoutMs: ANSWER_MS });
      expect(requests[0]!.outcome).toBe('ok');
    }
  });

  test('mh takes its flags', async () => {
    await bring([
      withSettings(web(10, [L1, R2]), { 'ipvs-scheduler': 'mh', 'ipvs-scheduler-flags': 'port,fallback' }),
    ]);
    const rows = await withSocket(async (socket) => readServices(await socket.dump()));
    const flags = rows
      .filter(({ scheduler }) => scheduler === 'mh')
      .map((service) => service.flags & IP_VS_SVC_F_SCHEDS);
    expect(flags).toContain(IP_VS_SVC_F_SCHED1 | IP_VS_SVC_F_SCHED2);
  });

  test('an unknown scheduler is refused by name and the default stays', async () => {
    const { refusals } = await bring([withSettings(web(10, [L1]), { 'ipvs-scheduler': 'best' })]);
    expect(refusals.map(({ service, reason }) => `${service} ${reason}`)[0]).toMatch(/test\/web-10 .*best/);
    expect(await proc()).toMatch(/^FWM {2}\w+ rr /m);
    const { requests } = await world.place('pod').call('tcp', CLUSTER_IP, 9000, { timeoutMs: ANSWER_MS });
    expect(requests[0]!.outcome).toBe('ok');
  });

  test('a connection outlives the removal of its backend, new ones go elsewhere, and a return counts at once', async () => {
    await bring([web(10, [L1])]);
    const hold = await world.place('pod').hold('tcp', CLUSTER_IP, 9000, { intervalMs: 50 });
    await hold.established;
    await bring([web(10, [R2])]);
    expect(await proc()).toMatch(/0A0A0101:0050 +Masq +0 /);
    const { pods } = await world
      .place('pod')
      .call('tcp', CLUSTER_IP, 9000, { count: 10, timeoutMs: ANSWER_MS });
    expect(Object.keys(pods)).toEqual(['R2-80']);
    await bring([web(10, [L1])]);
    expect(await proc()).toMatch(/0A0A0101:0050 +Masq +1 /);
    const back = await world.place('pod').call('tcp', CLUSTER_IP, 9000, { count: 10, timeoutMs: ANSWER_MS });
    expect(Object.keys(back.pods)).toEqual(['L1-80']);
    expect(hold.failures).toEqual([]);
    await hold.stop();
  });

  test('a connection outlives the removal of its service, and goes when the bound passes', async () => {
    await bring([web(10, [L1])]);
    const hold = await world
      .place('outside')
      .hold('tcp', EXTERNAL_IP, 9000, { intervalMs: 50, timeoutMs: 1_000 });
    await hold.established;
    await bring([]);
    expect((await world.place('outside').ask('tcp', EXTERNAL_IP, 9000, { timeoutMs: 300 })).outcome).not.toBe(
      'ok',
    );
    expect(hold.failures).toEqual([]);
    await expect.poll(() => hold.failures.length, { timeout: 20_000 }).toBeGreaterThan(0);
    await hold.stop();
    await expect.poll(proc, { timeout: 10_000 }).not.toMatch(/^FWM/m);
    expect(await bound()).toEqual([]);
  });

  test('a client port that comes back after its backend left reaches another one at once', async () => {
    // The backend's side closes first: IPVS and conntrack still know the connection when the port comes back.
    const options = { sourcePort: 40_001, timeoutMs: AT_ONCE_MS, close: 'server' } as const;
    await bring([web(10, [L1])]);
    expect(await world.place('pod').ask('tcp', CLUSTER_IP, 9000, options)).toMatchObject({ name: 'L1-80' });
    await bring([web(10, [R2])]);
    expect(await world.place('pod').ask('tcp', CLUSTER_IP, 9000, options)).toMatchObject({ name: 'R2-80' });
  });

  test('a UDP flow is not stuck on a backend that left', async () => {
    const options = { sourcePort: 40_002, timeoutMs: AT_ONCE_MS };
    await bring([web(10, [L1])]);
    expect(await world.place('pod').ask('udp', CLUSTER_IP, 9000, options)).toMatchObject({ name: 'L1-80' });
    await bring([web(10, [R2])]);
    expect(await proc()).not.toMatch(/0A0A0101:0050 +Masq +0 .*\n.*UDP/);
    // The first packet may end the old entries; the agent clears conntrack besides (test/agent).
    await world.place('pod').ask('udp', CLUSTER_IP, 9000, { ...options, timeoutMs: 200 });
    expect(await world.place('pod').ask('udp', CLUSTER_IP, 9000, options)).toMatchObject({ name: 'R2-80' });
  });

  test('of two connections of one client port to one backend the later one is served, whatever IPVS remembers of the other', async () => {
    await bring([web(10, [R2]), web(11, [R2])]);
    for (const from of ['pod', 'node'] as const)
      for (const [n, close] of (['fin', 'rst'] as const).entries())
        for (const to of [CLUSTER_IP, '10.200.1.11']) {
          const options = { sourcePort: 5600 + n, close, timeoutMs: ANSWER_MS };
          const { requests } = await world.place(from).call('tcp', to, 9000, options);
          expect(requests[0]).toMatchObject({ outcome: 'ok', name: 'R2-80' });
        }
  });

  test('affinity is per client and service port, whichever address was used, and forgets who left', async () => {
    await bring([web(10, [L1, R2, R3], 600)]);
    const names = new Set<string>();
    for (const [address, port] of [
      [CLUSTER_IP, 9000],
      [EXTERNAL_IP, 9000],
      ['192.0.2.11', 31010],
    ] as const) {
      const { pods } = await world
        .place('pod')
        .call('tcp', address, port, { count: 5, timeoutMs: ANSWER_MS });
      for (const name of Object.keys(pods)) names.add(name);
    }
    expect(names.size).toBe(1);
    const [first] = [...names];
    const left = [L1, R2, R3].filter(
      (backend) => !first!.startsWith({ [L1]: 'L1', [R2]: 'R2', [R3]: 'R3' }[backend]!),
    );
    await bring([web(10, left, 600)]);
    const { pods } = await world
      .place('pod')
      .call('tcp', EXTERNAL_IP, 9000, { count: 5, timeoutMs: ANSWER_MS });
    expect(Object.keys(pods)).toHaveLength(1);
    expect(Object.keys(pods)).not.toContain(first);
  });

  test('affinity with backends on different ports', async () => {
    await bring([web(10, [L1, '10.10.2.2 443', '10.10.2.3 8080'], 600)]);
    const { pods } = await world
      .place('pod')
      .call('tcp', CLUSTER_IP, 9000, { count: 8, timeoutMs: ANSWER_MS });
    expect(Object.values(pods)).toEqual([8]);
  });

  test('the node reaches services whose policy is Local, with and without local endpoints', async () => {
    const local = (service: DesiredService) =>
      changed(service, ({ cluster, frontends }) => ({
        local: cluster.filter((backend) => backend.local),
        frontends: frontends.map((frontend) =>
          frontend.kind === 'ClusterIP'
            ? frontend
            : {
                ...frontend,
                masquerade: 'node' as const,
                outside: cluster.some((backend) => backend.local) ? ('local' as const) : ('drop' as const),
              },
        ),
      }));
    for (const backends of [[L1, R2], [R2]]) {
      await bring([local(web(10, backends))]);
      const { requests } = await world
        .place('node')
        .call('tcp', EXTERNAL_IP, 9000, { count: 6, timeoutMs: ANSWER_MS });
      expect(requests.map(({ outcome }) => outcome)).toEqual(Array(6).fill('ok'));
    }
    // No local endpoint: nobody outside gets a remote one.
    expect((await world.place('outside').ask('tcp', EXTERNAL_IP, 9000, { timeoutMs: 500 })).outcome).toBe(
      'timeout',
    );
  });

  test("ports of the node are not reachable through a service's address", async () => {
    await bring([web(10, [L1])]);
    for (const address of [CLUSTER_IP, EXTERNAL_IP]) {
      const { outcome } = await world.place('outside').ask('tcp', address, 30000, { timeoutMs: ANSWER_MS });
      expect(outcome).toBe('refused');
    }
    expect(await world.place('outside').ask('tcp', '192.0.2.11', 30000)).toMatchObject({ name: 'node' });
  });

  test("other components' marks are the same after IPVS as before", async () => {
    await bring([web(10, [L1, R2])]);
    const mine = `ip daddr ${CLUSTER_IP} meta mark set 0x4001;`;
    const table = `table ip tp-marks {
      counter kept { }
      counter lost { }
      chain before { type filter hook prerouting priority -150; ${mine} }
      chain before-output { type filter hook output priority -150; ${mine} }
      chain after { type filter hook postrouting priority 0; ct state new ct original ip daddr ${CLUSTER_IP} jump judge; }
      chain judge {
        meta mark 0x4001 counter name kept return
        counter name lost
      }
    }`;
    expect(await world.run('node', ['nft', '-f', '-'], table)).toMatchObject({ status: 0 });
    try {
      for (const from of ['pod', 'node'] as const) {
        const { requests } = await world
          .place(from)
          .call('tcp', CLUSTER_IP, 9000, { count: 5, timeoutMs: ANSWER_MS });
        expect(requests.map(({ outcome }) => outcome)).toEqual(Array(5).fill('ok'));
      }
      const { stdout } = await world.run('node', ['nft', 'list', 'counters', 'table', 'ip', 'tp-marks']);
      expect(stdout).toMatch(/counter kept \{\s+packets 10 /);
      expect(stdout).toMatch(/counter lost \{\s+packets 0 /);
    } finally {
      await world.run('node', ['nft', 'delete', 'table', 'ip', 'tp-marks']);
    }
  });

  test('a restart adopts what is there, sends nothing, and repairs what was changed', async () => {
    await bring([web(10, [L1, R2], 600), web(11, [R3])]);
    // What other tests left ends in its own time, and would change the picture.
    await expect.poll(proc, { timeout: 20_000 }).not.toMatch(/Masq +0 /);
    const before = await proc();
    await dataplane.close();
    dataplane = new IpvsDataplane({ netns: world.netns, graceMs: 3_000 });
    expect(await dataplane.start(state)).toEqual({ operations: 0, refusals: [] });
    expect(await proc()).toBe(before);
    expect((await dataplane.verify(state)).repaired).toEqual([]);
    await world.run('node', [
      ...['ip', 'route', 'del', 'local', CLUSTER_IP, 'dev', 'triplane-ipvs0', 'table', 'local'],
    ]);
    expect((await dataplane.verify(state)).repaired).toEqual([`service address ${CLUSTER_IP} was gone`]);
    expect(await bound()).toContain(CLUSTER_IP);
  });

  test('no connection is lost while the rules are replaced by other rules', async () => {
    // No backend twice: IPVS tells two connections of one client port by their backends alone.
    await bring([web(10, [L1, R2], 600), web(11, [R3])]);
    const load = { concurrency: 2, timeoutMs: 30_000, durationMs: 120_000 };
    const loads = await Promise.all(
      (['pod', 'node'] as const).flatMap((from) =>
        [CLUSTER_IP, '10.200.1.11'].map((to) => world.place(from).load('tcp', to, 9000, load)),
      ),
    );
    for (let round = 0; round < 8; round++) {
      const node = round % 2 ? NODE : { ...NODE, detector: { by: 'bridge' as const, name: 'cni0' } };
      await dataplane.apply({ set: [], remove: [], node }, { ...state, node });
    }
    for (const one of loads)
      expect(await one.stop()).toMatchObject({ outcomes: { refused: 0, reset: 0, timeout: 0 } });
    // The virtual services of the rules before, without a further change.
    await expect.poll(proc, { timeout: 60_000 }).not.toMatch(/Masq +0 /);
    expect((await dataplane.verify(state)).repaired).toEqual([]);
  });

  test('a first start with services needs no second look, and cleanup leaves nothing', async () => {
    const bare = await bareNamespaces(1);
    try {
      await applyBatch({ namespace: bare.names[0]!, lines: ['link set lo up'] });
      const [netns] = bare.paths;
      const first = new IpvsDataplane({ netns: netns! });
      const full = stateOf([web(10, [L1, R2]), web(16, ['fd00:10:10:1::1 80'], 60)], NODE);
      expect((await first.start(full)).refusals).toEqual([]);
      expect((await first.verify(full)).repaired).toEqual([]);
      await first.close();
      expect((await readIpvs(netns)).services).toHaveLength(12);
      expect(await cleanupIpvs(netns)).toContain('device triplane-ipvs0');
      expect(await cleanupIpvs(netns)).toEqual([]);
      expect((await runIn(bare.names[0]!, ['cat', '/proc/net/ip_vs'])).stdout).not.toMatch(/FWM/);
    } finally {
      bare.remove();
    }
  });

  test('a start reconciles weights, and brings back who was on the way out', async () => {
    await bring([web(10, [L1, R2])]);
    // What other tests left is nobody's to bring back.
    await expect.poll(proc, { timeout: 20_000 }).not.toMatch(/Masq +0 /);
    await dataplane.close();
    // As a predecessor may have left it: one backend on its way out, one with a weight of before.
    const rows = await withSocket(async (socket) => {
      const held = readServices(await socket.dump()).filter((row) => row.destinations.length === 2);
      const out = new PackedWriter();
      for (const row of held)
        row.destinations.forEach((to, at) => {
          writeDestination(out, 'setDestination', row, { ...to, weight: at === 0 ? 0 : 7 });
        });
      expect(await socket.commit(Buffer.from(out.take()))).toEqual([]);
      return held;
    });
    expect(rows.length).toBeGreaterThan(0);
    expect(await proc()).toMatch(/Masq +7 /);
    dataplane = new IpvsDataplane({ netns: world.netns, graceMs: 3_000 });
    await dataplane.start(state);
    expect(await proc()).not.toMatch(/Masq +[07] /);
    const { requests } = await world.place('pod').call('tcp', CLUSTER_IP, 9000, { timeoutMs: ANSWER_MS });
    expect(requests[0]!.outcome).toBe('ok');
  });

  test('what somebody took out of IPVS is back after a look', async () => {
    await bring([web(10, [L1, R2])]);
    await withSocket(async (socket) => {
      const out = new PackedWriter();
      for (const row of readServices(await socket.dump())) writeServiceRemoval(out, row);
      expect(await socket.commit(Buffer.from(out.take()))).toEqual([]);
    });
    expect(await proc()).not.toMatch(/^FWM/m);
    expect((await dataplane.verify(state)).repaired).toContainEqual(
      expect.stringMatching(/FWM \d+ .*was gone/),
    );
    const { requests } = await world.place('pod').call('tcp', CLUSTER_IP, 9000, { timeoutMs: ANSWER_MS });
    expect(requests[0]!.outcome).toBe('ok');
    expect((await dataplane.verify(state)).repaired).toEqual([]);
  });

  test('IPVS services of others are left alone, through start, repair and cleanup', async () => {
    const foreign = { family: 4, mark: 5 } as const;
    const bare = await bareNamespaces(1);
    const [netns] = bare.paths;
    const socket = openIpvsSocket(netns!);
    try {
      const out = new PackedWriter();
      writeService(out, 'newService', foreign, { scheduler: 'rr', flags: 0, timeoutSeconds: 0 });
      expect(await socket.commit(Buffer.from(out.take()))).toEqual([]);
      const other = new IpvsDataplane({ netns: netns! });
      const full = stateOf([web(10, [L1, R2])], NODE);
      await other.start(full);
      await other.verify(full);
      await other.close();
      await cleanupIpvs(netns);
      expect(readServices(await socket.dump())).toMatchObject([foreign]);
    } finally {
      socket.close();
      bare.remove();
    }
  });

  test('the flags: default scheduler, time-outs, strict ARP; one that this kernel lacks leaves rr, and says so', async () => {
    const bare = await bareNamespaces(1);
    const [netns] = bare.paths;
    try {
      // IPVS refuses every backend where no address is anybody's: the kernel has no table of local addresses yet.
      await runIn(bare.names[0]!, ['ip', 'link', 'set', 'lo', 'up']);
      const full = stateOf(
        [web(10, [L1, R2]), withSettings(web(11, [L1]), { 'ipvs-scheduler': 'sh' })],
        NODE,
      );
      const flagged = new IpvsDataplane({
        netns: netns!,
        ...{ scheduler: 'lc', arp: 'strict', tcpMs: 3_600_000, tcpFinMs: 60_000, udpMs: 30_000 },
      });
      expect((await flagged.start(full)).refusals).toEqual([]);
      await flagged.close();
      const text = (await runIn(bare.names[0]!, ['cat', '/proc/net/ip_vs'])).stdout;
      expect(text.match(/^FWM {2}\w+ lc /gm)).toHaveLength(2);
      expect(text.match(/^FWM {2}\w+ sh /gm)).toHaveLength(2);
      expect(await withSocket(async (socket) => socket.timeouts(), netns)).toEqual([3600, 60, 30]);
      const arp = [
        'cat',
        '/proc/sys/net/ipv4/conf/all/arp_ignore',
        '/proc/sys/net/ipv4/conf/all/arp_announce',
      ];
      expect((await runIn(bare.names[0]!, arp)).stdout).toBe('1\n2\n');
      // What changes under one that runs counts from its next start, and only what differs is sent.
      const live = new IpvsDataplane({ netns: netns!, scheduler: 'lc' });
      await live.start(full);
      expect(live.configure({ scheduler: 'lc' })).toBe(false);
      expect(live.configure({ scheduler: 'wlc', tcpMs: 7_200_000, udpMs: 40_000 })).toBe(true);
      expect(await live.start(full)).toMatchObject({ operations: 2, refusals: [] });
      await live.close();
      const after = (await runIn(bare.names[0]!, ['cat', '/proc/net/ip_vs'])).stdout;
      expect(after.match(/^FWM {2}\w+ wlc /gm)).toHaveLength(2);
      expect(after.match(/^FWM {2}\w+ sh /gm)).toHaveLength(2);
      // 0 leaves what is there.
      expect(await withSocket(async (socket) => socket.timeouts(), netns)).toEqual([7200, 60, 40]);
      // "ovf-not" is no kernel's; the flag's own check is the configuration's.
      const lacking = new IpvsDataplane({ netns: netns!, scheduler: 'none-such' });
      const { refusals } = await lacking.start(full);
      await lacking.close();
      expect(refusals).toContainEqual({
        service: 'test/web-10',
        reason: 'this kernel has no IPVS scheduler none-such; rr stays',
        served: 'otherwise',
      });
      expect((await runIn(bare.names[0]!, ['cat', '/proc/net/ip_vs'])).stdout.match(/ rr /g)).toHaveLength(2);
    } finally {
      bare.remove();
    }
  });

  test('where no device can be had, local routes carry the addresses', async () => {
    const small = await NodeWorld.create({ names: ['pod', 'L1'] });
    const routed = new IpvsDataplane({ netns: small.netns, deviceKinds: [] });
    try {
      const full = stateOf([web(10, [L1]), web(16, ['fd00:10:10:1::1 80'])], NODE);
      expect((await routed.start(full)).refusals).toEqual([]);
      expect((await small.run('node', ['ip', 'link', 'show', 'triplane-ipvs0'])).status).not.toBe(0);
      const { requests } = await small.place('pod').call('tcp', CLUSTER_IP, 9000, { timeoutMs: ANSWER_MS });
      expect(requests[0]!.outcome).toBe('ok');
      expect((await routed.verify(full)).repaired).toEqual([]);
      await routed.close();
      const removed = await cleanupIpvs(small.netns);
      expect(removed).toContain(`local route of ${CLUSTER_IP}`);
      const { stdout } = await small.run('node', ['ip', 'route', 'show', 'table', 'local']);
      expect(stdout).not.toContain(CLUSTER_IP);
    } finally {
      await routed.close();
      await small.remove();
    }
  });

  test('what the kernel holds reads back', async () => {
    await bring([web(10, [L1, R2], 600)]);
    const { present, services, endpoints } = await readIpvs(world.netns);
    expect(present).toBe(true);
    expect(
      services.map(({ kind, address, port, protocol, inside }) => [kind, address, port, protocol, inside]),
    ).toEqual(
      expect.arrayContaining([
        ['ClusterIP', CLUSTER_IP, 9000, 'TCP', '2 backends'],
        ['NodePort', '192.0.2.11', 31010, 'UDP', '2 backends'],
      ]),
    );
    expect(services.every(({ affinitySeconds }) => affinitySeconds === 600)).toBe(true);
    expect(endpoints).toHaveLength(4);
  });
});
