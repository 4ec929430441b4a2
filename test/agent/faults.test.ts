/** What goes wrong under open connections: they go on, and the kernel ends as a fresh start would make it. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { askAgent } from '../../src/cli/admin-client.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { faultEnvironment } from '../support/fault-point.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { Newcomers } from './support/newcomers.ts';
import { buildProgram, eventually, logged, OwnAgent, statusOf, triplane } from './support/node.ts';
import { OwnBpf } from './support/own-bpf.ts';
import { expectSound, expectSoundAfter, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** As a node's CNI has them: connection tracking and NAT do not hang on our tables. */
const CNI = `table ip cni {
  chain post { type nat hook postrouting priority 90; policy accept; ct state new counter; }
}
`;
const EXTRA = '198.18.7.1';
const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
const FLOODS_MAX = 60;

root.describe('faults under open connections', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'flt', families: [4] });
    await world.lab.route('198.18.7.0/24', 'n1');
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
  });
  afterAll(() => world?.remove());

  const nft = async (text: string) => {
    const { stderr } = await world.node.exec(['nft', '-f', '-'], text);
    expect(stderr).toBe('');
  };
  const repairs = () => logged(world.agent.log(), 'the kernel differed from what was applied').length;
  const asked = async () =>
    (await world.lab.pod('a').ask('tcp', world.ways(4)[0]!.address, 9000, { timeoutMs: 500 })).outcome;
  const answering = async () => {
    const { address, port } = world.ways(4)[0]!;
    const { pods } = await world.lab.pod('a').call('tcp', address, port, { count: 30, timeoutMs: 3000 });
    return Object.keys(pods);
  };
  const pinned = () => {
    const name = readdirSync('/sys/fs/bpf').find((one) => one.includes(world.lab.name));
    return name === undefined ? '' : `/sys/fs/bpf/${name}`;
  };

  /** How many messages the agent's sockets of a netlink protocol have lost. */
  function lost(protocol: number): number {
    const { pid } = world.agent.id;
    const own = new Set(
      readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
        try {
          return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
        } catch {
          return [];
        }
      }),
    );
    const rows = readFileSync(`/proc/${pid}/net/netlink`, 'utf8').trim().split('\n').slice(1);
    return rows
      .map((row) => row.trim().split(/\s+/))
      .filter(([, kind, , , , , , , , inode]) => Number(kind) === protocol && own.has(inode!))
      .reduce((sum, row) => sum + Number(row[8]), 0);
  }

  /** Stops the agent, floods until it has lost messages, does what it is not to miss, and lets it go on. */
  async function overrun(
    protocol: number,
    flood: () => Promise<void>,
    then: () => Promise<void>,
  ): Promise<void> {
    process.kill(world.agent.id.pid, 'SIGSTOP');
    try {
      for (let n = 0; n < FLOODS_MAX && lost(protocol) === 0; n++) await flood();
      expect(lost(protocol)).toBeGreaterThan(0);
      await then();
    } finally {
      process.kill(world.agent.id.pid, 'SIGCONT');
    }
  }

  test('nft: somebody takes our tables away, again and again', async () => {
    await nft(CNI);
    await world.startAgent('nft', NO_CLOCK);
    await world.open(2);
    const newcomers = await Newcomers.start(world, 4);
    for (let n = 1; n <= 4; n++) {
      // Until the tables are back, nobody knows a cluster IP, and nobody listens on a NodePort.
      await newcomers.during(/IP: unreachable|own service: unreachable|NodePort: refused/, async () => {
        await nft(n % 2 === 0 ? 'flush table ip triplane' : 'delete table ip triplane');
        await eventually(repairs).toBeGreaterThanOrEqual(n);
        await eventually(asked).toBe('ok');
      });
      await flow(300);
    }
    expect([...(await newcomers.stop()), ...(await world.stop())].join('\n')).toBe('');
    await expectSound(world, 'nft');
    await nft('delete table ip cni');
  });

  test('nft: news of our tables are lost (ENOBUFS)', async () => {
    await world.startAgent('nft', NO_CLOCK);
    await world.open(2);
    const newcomers = await Newcomers.start(world, 3);
    const addresses = Array.from({ length: 30_000 }, (_, n) => `11.0.${n >> 8}.${n & 255}`).join(', ');
    const set = 'element ip triplane cluster-ips';
    // What the map of services held is refused while it is empty: the agent is stopped.
    await newcomers.during(/: refused/, async () => {
      await overrun(
        NETLINK_NETFILTER,
        () => nft(`add ${set} { ${addresses} }\ndelete ${set} { ${addresses} }\n`),
        () => nft('flush map ip triplane services'),
      );
      await eventually(asked).toBe('ok');
    });
    expect(repairs()).toBeGreaterThan(0);
    expect([...(await newcomers.stop()), ...(await world.stop())].join('\n')).toBe('');
    await expectSound(world, 'nft');
  });

  for (const mode of ['nft', 'ebpf'] as const) {
    test(`${mode}: news of addresses are lost (ENOBUFS)`, async () => {
      await world.startAgent(mode, [...NO_CLOCK, '--nodeport-addresses', 'all']);
      await world.open(2);
      await world.load(3);
      const toggle = 'addr add 127.9.9.9/32 dev lo\naddr del 127.9.9.9/32 dev lo\n'.repeat(2000);
      await overrun(
        NETLINK_ROUTE,
        async () => void (await world.node.exec(['ip', '-batch', '-'], toggle)),
        async () => void (await world.lab.ip('n1', [`addr add ${EXTRA}/32 dev eth0`])),
      );
      const port = world.ways(4).find(({ title }) => title.includes('client to a NodePort'))!.port;
      const there = async () => (await world.lab.client.ask('tcp', EXTRA, port, { timeoutMs: 500 })).outcome;
      await eventually(there).toBe('ok');
      await world.lab.ip('n1', [`addr del ${EXTRA}/32 dev eth0`]);
      await eventually(there).not.toBe('ok');
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode, [...NO_CLOCK, '--nodeport-addresses', 'all']);
    });

    test(`${mode}: the device of a pod goes`, async () => {
      const { address, port } = world.single();
      await world.startAgent(mode, NO_CLOCK);
      const pods = { a: world.lab.pod('a'), b: world.lab.pod('b') };
      const holds = await Promise.all(
        [world.lab.client, world.node, pods.a].map((from) =>
          from.hold('tcp', address, port, { connections: 2, intervalMs: 100, timeoutMs: 8000 }),
        ),
      );
      for (const hold of holds) expect((await hold.established).open).toBe(2);
      // The other services have an endpoint behind that device.
      const loads = await Promise.all(
        [world.lab.client, world.node, pods.a].map((from) =>
          from.load('tcp', address, port, { rate: 4, timeoutMs: 8000 }),
        ),
      );
      const out = async (...args: string[]) => (await world.node.exec(['ip', ...args])).stdout;
      const [{ dev }] = JSON.parse(await out('-j', 'route', 'get', pods.b.addresses[4]!));
      const routes = (await out('route', 'show', 'dev', dev)).trim().split('\n');
      await world.lab.ip('n1', [`link set ${dev} down`]);
      await flow(500);
      for (const hold of holds) {
        const { moved, exchanges } = await hold.stop();
        expect([moved, hold.failures]).toEqual([0, []]);
        expect(exchanges).toBeGreaterThan(3);
      }
      for (const load of loads) {
        const { outcomes, total } = await load.stop();
        expect([outcomes.ok, load.failures]).toEqual([total, []]);
        expect(total).toBeGreaterThan(0);
      }
      // The kernel has taken the routes along.
      const back = routes.map((route) => `route replace ${route.trim()} dev ${dev}`);
      await world.lab.ip('n1', [`link set ${dev} up`, ...back]);
      await expectSound(world, mode);
    });
  }

  test('ebpf: somebody detaches XDP; tc does the same work', async () => {
    await world.startAgent('ebpf', ['--sync-period', '1s']);
    await world.open(2);
    await world.load(3);
    const links = () => {
      const generation = readdirSync(pinned()).find((name) => /^g\d+$/.test(name));
      const folder = `${pinned()}/${generation}/links`;
      return readdirSync(folder).map((name) => ({ name, file: `${folder}/${name}` }));
    };
    const xdp = links().filter(({ name }) => name.includes('xdp'));
    expect(xdp.length).toBeGreaterThan(0);
    for (let n = 1; n <= 3; n++) {
      for (const { file } of xdp) {
        const fd = bpfNative().bpfGet(file);
        bpfNative().bpfLinkDetach(fd);
        bpfNative().bpfClose(fd);
      }
      await eventually(repairs).toBeGreaterThanOrEqual(n);
    }
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, 'ebpf');
  });

  test('a switch that the kernel refuses half-way: the old mode goes on, says so, and nothing is left of it', async () => {
    await world.startAgent('ebpf', NO_CLOCK);
    await world.open(1);
    await world.load(3);
    // The kernel refuses every change of a table that a process owns.
    const owner = world.node.spawn(['nft', '-i'], { stdio: ['pipe', 'ignore', 'ignore'] });
    try {
      owner.stdin!.write('add table ip triplane { flags owner; }\n');
      await eventually(() => world.tables()).toEqual(['table ip triplane']);
      await expect(world.switchTo('nft')).rejects.toThrow(/EPERM/);
      const { mode } = await world.status();
      expect(mode).toMatchObject({ mode: 'ebpf', switching: '', draining: [] });
      expect(mode.failure).toMatch(/nft.*EPERM/);
      expect(world.tables()).toEqual(['table ip triplane']);
      expect(await asked()).toBe('ok');
    } finally {
      const gone = once(owner, 'exit');
      owner.kill();
      await gone;
    }
    await eventually(() => world.tables()).toEqual([]);
    expect(await world.switchTo('nft')).toMatchObject({ to: 'nft' });
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, 'nft');
  });

  test('ebpf: the BPF file system is read-only for a while', async () => {
    const bpf = await OwnBpf.mount(path.join(path.dirname(world.lab.manifests.path), 'bpf'));
    const args = ['--manifests', world.lab.manifests.path, '--cluster-cidr', '10.10.0.0/16'];
    args.push('--bpf-root', `${bpf.folder}/pins`, '--sync-period', '1s');
    const own = (...more: string[]) => new OwnAgent(world.lab, 'n1', [...args, ...more], {}, bpf.under);
    const agent = own();
    const remount = (how: 'ro' | 'rw') => bpf.inside(['mount', '-o', `remount,${how}`, bpf.folder]);
    const mode = async () => (await statusOf(agent.adminSocket)).mode;
    const switched = () => askAgent(agent.adminSocket, 'POST', '/v1/switch', { mode: 'ebpf' });
    const unpinned = async () => JSON.stringify(await mode()).includes('cannot be pinned');
    try {
      await agent.ready();
      await world.open(1);
      await world.load(3);
      remount('ro');
      await expect(switched()).rejects.toThrow(/read-only|EROFS/);
      expect(await mode()).toMatchObject({ mode: 'nft', switching: '' });
      expect(await asked()).toBe('ok');
      remount('rw');
      await switched();
      remount('ro');
      // Its device needs programs; they stand there without a pin.
      await world.lab.addPod({ name: 'late', node: 'n1' });
      await eventually(unpinned).toBe(true);
      const { address, port } = world.ways(4)[0]!;
      expect((await world.lab.pod('late').ask('tcp', address, port)).outcome).toBe('ok');
      remount('rw');
      await eventually(unpinned).toBe(false);
      expect(agent.text).not.toContain('could not be brought up to date');
      expect((await world.stop()).join('\n')).toBe('');
      await expectSoundAfter(agent, 'ebpf', () => own('--proxy-mode', 'ebpf'));
    } finally {
      await agent.stop('SIGKILL');
      await bpf.end();
      await world.lab.removePod('late').catch(() => {});
      await triplane(world.node, 'cleanup');
    }
  });

  test('neither room for the log nor for the admin socket: serves, follows, and has both when there is', async () => {
    const folder = path.join(path.dirname(world.lab.manifests.path), 'full');
    mkdirSync(folder);
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,nr_inodes=4', 'none', folder]);
    expect(mounted.status).toBe(0);
    const [log, ...fillers] = ['log', 'filler', 'second'].map((name) => path.join(folder, name));
    for (const filler of fillers) writeFileSync(filler, '');
    spawnSync('dd', ['if=/dev/zero', `of=${fillers[0]}`, 'bs=1k']);
    const args = ['--manifests', world.lab.manifests.path, '--cluster-cidr', '10.10.0.0/16'];
    const full = [...args, '--v=5', '--admin-socket', `${folder}/run/a.sock`];
    const under = ['sh', '-c', 'log=$0; exec "$@" 2>"$log"', log!];
    const hurry = faultEnvironment({ timers: { longerThanMs: 500, times: 10 } });
    const agent = new OwnAgent(world.lab, 'n1', full, hurry, under);
    const web = world.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
    try {
      await eventually(asked).toBe('ok');
      await world.open(1);
      await world.load(3);
      world.writeServices([...web, world.lab.pod('a').plan]);
      await eventually(answering).toContain('a');
      world.writeServices();
      await eventually(answering).not.toContain('a');
      expect(readFileSync(log!, 'utf8')).toBe('');
      for (const filler of fillers) rmSync(filler);
      const status = () => statusOf(`${folder}/run/a.sock`).catch(() => null);
      await eventually(async () => (await status())?.problems).toEqual([]);
      const lines = readFileSync(log!, 'utf8').trimEnd().split('\n');
      const said = lines.map((line) => JSON.parse(line).msg as string);
      expect(said[0]).toBe('starting');
      expect(said).toContain('the admin socket listens now');
      expect((await world.stop()).join('\n')).toBe('');
      await expectSoundAfter(agent, 'nft', () => new OwnAgent(world.lab, 'n1', args));
    } finally {
      world.writeServices();
      await agent.stop('SIGKILL');
      spawnSync('umount', ['-l', folder]);
    }
  });
});
