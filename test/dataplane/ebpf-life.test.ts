import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { AffinityView } from '../../src/dataplane/dataplane.ts';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { cleanupEbpf, cleanupOrphan } from '../../src/dataplane/ebpf/cleanup.ts';
import { EbpfDataplane } from '../../src/dataplane/ebpf/ebpf-dataplane.ts';
import { findOrphans, findRoots, generationMeta, openMap } from '../../src/dataplane/ebpf/kernel.ts';
import { readMeta, writeMeta } from '../../src/dataplane/ebpf/meta.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import { lifeNative } from '../../src/dataplane/ebpf/native-life.ts';
import type { EbpfOptions } from '../../src/dataplane/ebpf/options.ts';
import { isOrphaned } from '../../src/dataplane/ebpf/orphans.ts';
import { Generation, generations } from '../../src/dataplane/ebpf/pins.ts';
import { readEbpf } from '../../src/dataplane/ebpf/readback.ts';
import { mapArray } from '../../src/dataplane/ebpf/tables.ts';
import { cgroupMount } from '../../src/lab/cgroups.ts';
import type { DesiredService, DesiredState } from '../../src/model/desired.ts';
import { net as cidr, ip } from '../model/world.ts';
import { SMALL, TestNet } from '../support/bpf-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const ROOT = `/sys/fs/bpf/tplife${process.pid}`;
const PORTS = '/proc/sys/net/ipv4/ip_local_reserved_ports';

function service(name: string, address: string, backends: readonly string[]): DesiredService {
  const frontend = {
    address: ip(address),
    port: 80,
    protocol: 'TCP',
    kind: 'ClusterIP',
    inside: 'cluster',
    outside: 'cluster',
    masquerade: 'strangers',
    sourceRanges: null,
  } as const;
  const port = {
    name: `${name}:http`,
    family: address.includes(':') ? 6 : 4,
    protocol: 'TCP',
    affinitySeconds: 0,
    cluster: backends.map((backend) => ({ address: ip(backend), port: 8080, local: false })),
    local: [],
    frontends: [frontend],
    settings: {},
  } as const;
  return { key: name, ports: [port] };
}

function stateOf(...services: DesiredService[]): DesiredState {
  return {
    services: new Map(services.map((one) => [one.key, one])),
    node: { detector: { by: 'cidr', cidrs: [cidr('10.10.0.0/16')] }, serviceCIDRs: [cidr('10.200.0.0/16')] },
  };
}

root.describe('the ebpf dataplane', () => {
  let net: TestNet;
  const open: EbpfDataplane[] = [];
  beforeEach(() => {
    net = new TestNet('l');
  });
  afterEach(async () => {
    for (const one of open.splice(0)) await one.close();
    cleanupEbpf(ROOT);
    net.leave();
  });

  async function start(state: DesiredState, options: Partial<EbpfOptions> = {}) {
    const dataplane = new EbpfDataplane({ root: ROOT, cgroup: '', sizes: SMALL, ...options });
    open.push(dataplane);
    return { dataplane, result: await dataplane.start(state) };
  }

  /** As somebody may do who cleans up: every link stays pinned, and stands nowhere any more. */
  function detachAll(): void {
    const generation = new Generation(ROOT, generations(ROOT).at(-1)!);
    for (const name of generation.linkNames()) {
      const link = bpfNative().bpfGet(path.join(generation.links, name));
      bpfNative().bpfLinkDetach(link);
      bpfNative().bpfClose(link);
    }
  }

  /** What is attached, by its pins. */
  function attached(): { name: string; link: number; program: number; ifindex: number }[] {
    return generations(ROOT)
      .flatMap((number) => {
        const generation = new Generation(ROOT, number);
        return generation.linkNames().map((name) => [name, `${generation.links}/${name}`] as const);
      })
      .map(([name, file]) => {
        const fd = bpfNative().bpfGet(file);
        const { id, program, ifindex } = lifeNative().bpfLinkInfo(fd);
        bpfNative().bpfClose(fd);
        return { name, link: id, program, ifindex };
      });
  }
  /** Asked one by one: a list of all programs of the machine has others' in it, which come and go meanwhile. */
  const alive = (programs: readonly number[]) =>
    programs.filter((id) => spawnSync('bpftool', ['prog', 'show', 'id', String(id)]).status === 0);
  const canAsk = spawnSync('bpftool', ['version']).status === 0;

  const A = service('x/a', '10.200.0.1', ['10.10.1.1', '10.10.1.2']);
  const B = service('x/b', '10.200.0.2', ['10.10.1.3']);

  test('fills the maps, attaches to every device, and is read back without an agent', async () => {
    const { dataplane, result } = await start(stateOf(A, B));
    expect(result.refusals).toEqual([]);
    const back = readEbpf(ROOT)!;
    expect(back.services.map(({ service, inside }) => `${service} ${inside}`).sort()).toEqual([
      'x/a:http 2 backends',
      'x/b:http 1 backend',
    ]);
    expect(back.endpoints).toHaveLength(3);
    expect(dataplane.attachments().problems.size).toBe(0);
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('61000-65535');
    expect(await dataplane.verify(stateOf(A, B))).toEqual({ repaired: [] });
  });

  test('the next one adopts everything: no store, the same links, the new programs', async () => {
    const first = await start(stateOf(A, B));
    const before = attached();
    await first.dataplane.close();
    const { result } = await start(stateOf(A, B));
    expect(result.operations).toBeLessThanOrEqual(1);
    const after = attached();
    expect(before.length).toBeGreaterThan(3);
    expect(after.map(({ name, link }) => `${name} ${link}`)).toEqual(
      before.map(({ name, link }) => `${name} ${link}`),
    );
    for (const { program } of after) expect(before.some((one) => one.program === program)).toBe(false);
  });

  test('warmed up: nothing is attached until it is started, and that goes on from there', async () => {
    const dataplane = new EbpfDataplane({ root: ROOT, cgroup: '', sizes: SMALL });
    open.push(dataplane);
    dataplane.warm();
    await expect
      .poll(() => generations(ROOT).map((n) => generationMeta(new Generation(ROOT, n))))
      .toHaveLength(1);
    expect(attached()).toEqual([]);
    const result = await dataplane.start(stateOf(A, B));
    expect(result.refusals).toEqual([]);
    expect(generations(ROOT)).toHaveLength(1);
    expect(readEbpf(ROOT)!.services).toHaveLength(2);
    expect(attached().length).toBeGreaterThan(3);
    expect(await dataplane.verify(stateOf(A, B))).toEqual({ repaired: [] });
  });

  test('warmed up and never started: it leaves nothing', async () => {
    const dataplane = new EbpfDataplane({ root: ROOT, cgroup: '', sizes: SMALL });
    dataplane.warm();
    await dataplane.close();
    expect(generations(ROOT)).toEqual([]);
  });

  test('warming up leaves what a predecessor left as it is', async () => {
    const first = await start(stateOf(A, B));
    await first.dataplane.close();
    const before = attached();
    const next = new EbpfDataplane({ root: ROOT, cgroup: '', sizes: SMALL });
    next.warm();
    await next.close();
    expect(attached()).toEqual(before);
    const { result } = await start(stateOf(A, B));
    expect(result.operations).toBeLessThanOrEqual(1);
  });

  test('clients that a sticky service remembers outlive its agent', async () => {
    const sticky = { ...A, ports: A.ports.map((port) => ({ ...port, affinitySeconds: 600 })) };
    const [port] = sticky.ports;
    const [backend] = port!.cluster;
    const first = await start(stateOf(sticky));
    const view: AffinityView = {
      ...{ port: port!.name, family: 4, protocol: 'TCP', client: ip('10.10.2.9'), secondsLeft: 600 },
      backend: { address: backend!.address, port: backend!.port },
    };
    await first.dataplane.learnAffinities([view]);
    for (let life = 0; life < 2; life++) {
      await open.at(-1)!.close();
      const { dataplane } = await start(stateOf(sticky));
      expect(await dataplane.affinities()).toMatchObject([{ client: view.client, backend: view.backend }]);
      dataplane.collect();
      dataplane.collect();
      expect(await dataplane.affinities()).toHaveLength(1);
    }
  });

  test('maps of other sizes are replaced; the old ones go when their last connection has', async () => {
    const first = await start(stateOf(A));
    await first.dataplane.close();
    const second = await start(stateOf(A, B), { sizes: { ...SMALL, backends: 2048 } });
    await expect.poll(() => existsSync(`${ROOT}/g1`), { timeout: 5000 }).toBe(false);
    expect(readEbpf(ROOT)!.services).toHaveLength(2);
    expect(await second.dataplane.verify(stateOf(A, B))).toEqual({ repaired: [] });
    await second.dataplane.close();
    cleanupEbpf(ROOT);
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('');
  });

  /** As if an older version had made the newest maps: of another layout, and without a map that came later. */
  function makeOlder(): void {
    const generation = new Generation(ROOT, generations(ROOT).at(-1)!);
    const handle = openMap(generation, 'tp_meta')!;
    const map = mapArray(handle);
    writeMeta(map, { ...readMeta(map)!, layout: ABI.LAYOUT - 1 });
    bpfNative().bpfClose(handle.fd);
    rmSync(path.join(generation.maps, 'tp_backendports'));
  }

  test('maps of another layout go on with what they carry, beside new ones', async () => {
    const first = await start(stateOf(A));
    await first.dataplane.close();
    const before = attached();
    makeOlder();
    expect(findRoots()).toContain(ROOT);
    const second = await start(stateOf(A, B));
    expect(second.result.refusals).toEqual([]);
    // Nobody can tell what their connections are, so they stay for an hour; nothing new is picked by them.
    expect(generations(ROOT)).toEqual([1, 2]);
    const names = attached().map(({ link }) => link);
    expect(before.every(({ link }) => names.includes(link))).toBe(true);
    const settings = openMap(new Generation(ROOT, 1), 'tp_settings')!;
    expect(mapArray(settings).words[0]! & ABI.S_DRAIN).toBe(ABI.S_DRAIN);
    bpfNative().bpfClose(settings.fd);
    expect(readEbpf(ROOT)!.services).toHaveLength(2);
    expect(await second.dataplane.verify(stateOf(A, B))).toEqual({ repaired: [] });
    await second.dataplane.close();
    cleanupEbpf(ROOT);
    expect(attached()).toEqual([]);
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('');
  });

  test('cleanup of maps of another layout puts back what was changed for them, and another node keeps away', async () => {
    const { dataplane } = await start(stateOf(A));
    await dataplane.close();
    makeOlder();
    expect(readEbpf(ROOT)).toBe(null);
    const elsewhere = new TestNet('e');
    try {
      await expect(start(stateOf(A))).rejects.toThrow(/serve another network namespace/);
    } finally {
      elsewhere.leave();
    }
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('61000-65535');
    expect(cleanupEbpf(ROOT).length).toBeGreaterThan(0);
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('');
    expect(existsSync(ROOT)).toBe(false);
  });

  test('what somebody detached is attached again', async () => {
    const { dataplane } = await start(stateOf(A));
    const before = attached();
    for (const { name } of before) {
      const fd = bpfNative().bpfGet(`${ROOT}/g1/links/${name}`);
      bpfNative().bpfLinkDetach(fd);
      bpfNative().bpfClose(fd);
    }
    expect(attached().every(({ ifindex }) => ifindex === 0)).toBe(true);
    expect((await dataplane.verify(stateOf(A))).repaired).toHaveLength(before.length);
    expect(attached().map(({ name, ifindex }) => `${name} ${ifindex}`)).toEqual(
      before.map(({ name, ifindex }) => `${name} ${ifindex}`),
    );
  });

  test('what somebody unpinned is pinned again, and stays in force meanwhile', async () => {
    const { dataplane } = await start(stateOf(A));
    const pins = () => (readdirSync(ROOT, { recursive: true }) as string[]).sort();
    const before = pins();
    rmSync(ROOT, { recursive: true });
    expect((await dataplane.verify(stateOf(A))).repaired).toEqual([
      expect.stringMatching(/^\d+ maps were not pinned any more$/),
    ]);
    expect(pins()).toEqual(before);
    expect(attached().every(({ ifindex }) => ifindex !== 0)).toBe(true);
    await dataplane.close();
    expect((await start(stateOf(A))).result.operations).toBeLessThanOrEqual(1);
  });

  test('XDP that costs others more than it gains goes from where a predecessor had it, and its device says why', async () => {
    const devices = { except: [], uplinks: ['up0'] };
    const { dataplane: first } = await start(stateOf(A), { devices });
    const xdp = () => attached().filter(({ name }) => name.startsWith('xdp_'));
    const others = attached().filter(({ name }) => !name.startsWith('xdp_'));
    expect(xdp().length).toBeGreaterThan(0);
    await first.close();
    const { dataplane } = await start(stateOf(A), { devices, xdp: 'auto' });
    expect(xdp()).toEqual([]);
    expect(attached().map(({ link }) => link)).toEqual(others.map(({ link }) => link));
    const degrees = dataplane.degrees().filter(({ feature }) => feature === 'xdp');
    expect(degrees.length).toBeGreaterThan(0);
    for (const degree of degrees)
      expect(degree).toMatchObject({ got: 'none', reason: expect.stringMatching(/veth.*; served at tc$/) });
    expect((await dataplane.verify(stateOf(A))).repaired).toEqual([]);
    await dataplane.close();
    await start(stateOf(A), { devices, xdp: 'native' });
    expect(xdp().length).toBeGreaterThan(0);
  });

  test('devices are followed as they come and go', async () => {
    await start(stateOf(A));
    const before = attached().length;
    const inside = (...args: string[]) =>
      spawnSync('nsenter', [`--net=/run/netns/${net.name}`, 'ip', ...args]);
    inside('link', 'add', 'pod7', 'type', 'veth', 'peer', 'name', 'pod8');
    await expect.poll(() => attached().length).toBe(before + 4);
    inside('link', 'del', 'pod7');
    await expect.poll(() => attached().length).toBe(before);
  });

  test('cleanup leaves no program, link, pin or reserved port', async (context) => {
    const { dataplane } = await start(stateOf(A, B));
    await dataplane.close();
    const mine = attached().map(({ program }) => program);
    expect(cleanupEbpf(ROOT).length).toBeGreaterThan(0);
    expect(attached()).toEqual([]);
    // The kernel frees programs after a grace of its own, which is long on a busy machine.
    const patience = { timeout: 15_000, interval: 100 };
    await expect.poll(() => alive(mine), patience).toEqual([]);
    expect(existsSync(ROOT)).toBe(false);
    expect(readFileSync(PORTS, 'utf8').trim()).toBe('');
    expect(cleanupEbpf(ROOT)).toEqual([]);
    if (!canAsk) context.skip('needs bpftool to see that the programs are gone; the rest holds');
  });

  test('names of the longest kind are read back whole, and adopted', async () => {
    const label = (letter: string) => letter.repeat(63);
    const { key, ports } = service(`${label('n')}/${label('s')}`, '10.200.1.9', ['10.10.1.9']);
    const [port] = ports;
    // Two that differ in the last character alone.
    const twins = ['a', 'b'].map((end, i) => ({
      ...port!,
      name: `${key}:${label('p').slice(1)}${end}`,
      frontends: port!.frontends.map((frontend) => ({ ...frontend, port: 80 + i })),
    }));
    const state = stateOf({ key, ports: twins });
    const { dataplane } = await start(state);
    await dataplane.close();
    expect(
      readEbpf(ROOT)!
        .services.map((row) => row.service)
        .sort(),
    ).toEqual(twins.map(({ name }) => name));
    const { result } = await start(state);
    expect(result.operations).toBeLessThanOrEqual(1);
  });

  test('a node whose programs somebody has all detached is no orphan, seen from there or from elsewhere', async () => {
    const { dataplane } = await start(stateOf(A));
    detachAll();
    expect(findRoots()).toContain(ROOT);
    expect(findOrphans()).not.toContain(ROOT);
    const elsewhere = new TestNet('e');
    try {
      expect(findRoots()).not.toContain(ROOT);
      expect(findOrphans()).not.toContain(ROOT);
      await expect(start(stateOf(A))).rejects.toThrow(/serve another network namespace/);
    } finally {
      elsewhere.leave();
    }
    expect((await dataplane.verify(stateOf(A))).repaired.length).toBeGreaterThan(0);
    expect(await dataplane.verify(stateOf(A))).toEqual({ repaired: [] });
  });

  test('a number that was given away again is no sign of life', async () => {
    const { dataplane } = await start(stateOf(A));
    await dataplane.close();
    const generation = new Generation(ROOT, generations(ROOT).at(-1)!);
    const meta = generationMeta(generation)!;
    expect(meta.cookie).not.toBe('');
    detachAll();
    expect(isOrphaned(ROOT, meta)).toBe(false);
    // As if the namespace had gone, and this one had been given its number.
    expect(isOrphaned(ROOT, { ...meta, cookie: `${meta.cookie}0` })).toBe(true);
    // What an older version wrote, or a kernel without cookies, says less.
    expect(isOrphaned(ROOT, { netns: meta.netns })).toBe(false);
  });

  test('what outlives its network namespace is found from any other, and goes without a trace there', async () => {
    const mount = cgroupMount();
    const cgroup = mount === null ? '' : path.join(mount, `tplife${process.pid}`);
    if (cgroup !== '') mkdirSync(cgroup);
    try {
      const { dataplane } = await start(stateOf(A), { cgroup });
      await dataplane.close();
      expect(findRoots()).toContain(ROOT);
      expect(findOrphans()).not.toContain(ROOT);
      net.leave();
      net = new TestNet('m');
      // The kernel takes a namespace apart after its last user is gone, in its own time.
      await expect.poll(() => findOrphans(), { timeout: 30_000 }).toContain(ROOT);
      expect(findRoots()).not.toContain(ROOT);
      await expect(start(stateOf(A))).rejects.toThrow(/TP_LOCKED|that is gone: run triplane cleanup/);
      writeFileSync(PORTS, '61000-65535');
      expect(cleanupOrphan(ROOT)).toEqual([expect.stringContaining(`${ROOT}, `)]);
      expect(readFileSync(PORTS, 'utf8').trim()).toBe('61000-65535');
      expect(existsSync(ROOT)).toBe(false);
      expect(cleanupOrphan(ROOT)).toEqual([]);
    } finally {
      if (cgroup !== '') rmdirSync(cgroup);
    }
  });
});

test('nothing is read where nothing is pinned', () => {
  expect(readEbpf('/sys/fs/bpf/tpnone')).toBeNull();
});
