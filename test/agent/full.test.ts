/**
 * Tables that are full under open connections and new ones: what has no room is refused alone and by name, everything
 * else goes on, and once there is room it is served, by the agent that runs.
 */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { writeAddress } from '../../src/dataplane/ebpf/abi.ts';
import { openMap } from '../../src/dataplane/ebpf/kernel.ts';
import { SideMap } from '../../src/dataplane/ebpf/maps.ts';
import { Generation, generations } from '../../src/dataplane/ebpf/pins.ts';
import { type ApiObject, serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import type { Place } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { parseAddress } from '../../src/model/address.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { Newcomers } from './support/newcomers.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';
import { pins } from './support/round.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** What was refused is tried again at every comparison. */
const OFTEN = ['--sync-period', '1s'];
const REFUSED = 'TP_KERNEL_REFUSED';
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

root.describe('tables that are full', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'ful', families: [4] });
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    world.lab.manifests.remove('more');
    // Tables of other sizes would go on beside those of the next test.
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  const ask = async (address: string) =>
    (await world.lab.pod('a').ask('tcp', address, 9000, { timeoutMs: 2000 })).outcome;
  const asked = () => ask(world.ways(4)[0]!.address);
  const problems = async () => (await world.status()).problems;
  /** Services that are refused, with why; anything else that is wrong as it is. */
  const refused = async () =>
    new Map((await problems()).map(({ code, object, reason }) => [object, `${code}: ${reason}`]));
  const address = (n: number) => serviceAddress(4, 100 + n);
  const titleOf = (n: number) => `Service default/more-${n}`;
  /** One cluster IP, and nothing behind it: whoever asks is refused. */
  const service = (n: number, more: Partial<Parameters<typeof serviceObject>[0]> = {}) =>
    serviceObject({
      name: `more-${n}`,
      clusterIPs: [address(n)],
      ports: [{ port: 9000, targetPort: 80 }],
      ...more,
    });
  /** Of these pods, or of addresses that nobody has. */
  const slice = (n: number, endpoints: number) =>
    sliceObjects({
      ...{ service: `more-${n}`, families: [4] as const, ports: [{ port: 80 }] },
      endpoints: Array.from({ length: endpoints }, (_, i) => ({
        ...{ name: `none-${i}`, node: 'n2' },
        addresses: i === 0 ? world.lab.pod('d').plan.addresses : { 4: `10.10.2.${100 + i}` },
      })),
    });
  const write = (...objects: readonly (ApiObject | readonly ApiObject[])[]) =>
    void world.lab.manifests.write('more', objects.flat() as ApiObject[]);
  async function expectNothingLost(mode: 'nft' | 'ebpf', args: readonly string[]): Promise<void> {
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, mode, args);
  }

  LONG.test('ebpf: frontends; services without room are refused, and served when others go', async () => {
    const args = [...OFTEN, '--bpf-services-max', '24'];
    await world.startAgent('ebpf', args);
    await world.open(1);
    await world.load(3);
    const all = Array.from({ length: 30 }, (_, n) => n);
    write(...all.map((n) => service(n)));
    await eventually(async () => (await refused()).size).toBeGreaterThan(1);
    const without = [...(await refused()).keys()];
    const known = await refused();
    for (const reason of known.values())
      expect(reason).toMatch(`${REFUSED}: the table of 48 frontends is full`);
    const lacking = all.filter((n) => known.has(titleOf(n)));
    expect(without).toEqual(lacking.map(titleOf));
    expect(lacking.length).toBeLessThan(all.length);
    for (const n of all) {
      const outcome = await ask(address(n));
      expect([n, outcome === 'refused']).toEqual([n, !lacking.includes(n)]);
    }
    for (const title of without) expect(world.agent.log()).toContain(title);
    const some = lacking.slice(-4);
    write(...some.map((n) => service(n)));
    await eventually(refused).toEqual(new Map());
    for (const n of some) await eventually(() => ask(address(n))).toBe('refused');
    await expectNothingLost('ebpf', args);
  });

  test('ebpf: backends; the service with too many is refused, and served with fewer', async () => {
    const args = [...OFTEN, '--bpf-backends-max', '128'];
    await world.startAgent('ebpf', args);
    await world.open(1);
    await world.load(3);
    // Two that fit beside one that does not, before and after it by name.
    const [before, wide, after] = [1, 2, 3];
    const others = () => [service(before), slice(before, 1), service(after), slice(after, 1)];
    write(...others(), service(wide), slice(wide, 40));
    await eventually(refused).toEqual(
      new Map([[titleOf(wide), `${REFUSED}: the table of 32 backends is full`]]),
    );
    for (const n of [before, after]) await eventually(() => ask(address(n))).toBe('ok');
    expect(await ask(address(wide))).not.toBe('ok');
    write(...others(), service(wide), slice(wide, 1));
    await eventually(() => ask(address(wide))).toBe('ok');
    await eventually(refused).toEqual(new Map());
    await expectNothingLost('ebpf', args);
  });

  LONG.test('ebpf: source ranges', async () => {
    await world.startAgent('ebpf', OFTEN);
    await world.open(1);
    await world.load(3);
    const ranges = (from: number, count: number) =>
      Array.from(
        { length: count },
        (_, i) => `10.${10 + ((from + i) >> 16)}.${((from + i) >> 8) & 255}.${(from + i) & 255}/32`,
      );
    const guarded = (n: number, count: number) =>
      service(n, {
        type: 'LoadBalancer',
        loadBalancerIPs: [`198.18.8.${n}`],
        // The pod that asks is among them.
        loadBalancerSourceRanges: [`${world.lab.pod('a').plan.addresses[4]}/32`, ...ranges(n << 16, count)],
      });
    write(guarded(1, 60_000), slice(1, 1), guarded(2, 6000), slice(2, 1), guarded(3, 10), slice(3, 1));
    const full = `${REFUSED}: the table of 65536 source ranges is full`;
    await eventually(refused).toEqual(new Map([[titleOf(2), full]]));
    for (const n of [1, 3]) await eventually(() => ask(`198.18.8.${n}`)).toBe('ok');
    expect(await ask('198.18.8.2')).not.toBe('ok');
    write(guarded(2, 6000), slice(2, 1), guarded(3, 10), slice(3, 1));
    await eventually(refused).toEqual(new Map());
    for (const n of [2, 3]) await eventually(() => ask(`198.18.8.${n}`)).toBe('ok');
    await expectNothingLost('ebpf', OFTEN);
  });

  test('ebpf: the table of connections is full; those in it go on', async () => {
    const args = [...NO_CLOCK, '--bpf-connections-max', '1024'];
    await world.startAgent('ebpf', args);
    await world.open(2);
    const newcomers = await Newcomers.start(world, 3);
    await newcomers.during(/./, async () => {
      const { address, port } = world.single();
      const flood = await world.lab.client.call('udp', address, port, {
        ...{ count: 4000, concurrency: 64, timeoutMs: 50, detail: 'failures' },
      });
      expect(flood.outcomes.ok).toBeLessThan(4000);
      await flow(500);
      await eventually(asked).toBe('ok');
    });
    await flow(1000);
    expect(await newcomers.stop()).toEqual([]);
    await expectNothingLost('ebpf', args);
  });

  /** One client's memory of a sticky service, for `count` clients more. */
  function fillAffinities(): { full: () => boolean } {
    const folder = `/sys/fs/bpf/${pins(world)[0]}`;
    const map = new SideMap(openMap(new Generation(folder, generations(folder).at(-1)!), 'tp_affinities')!);
    const [known, ...more] = map.keys();
    const count = map.handle.entries - 1 - more.length;
    const keys = Array.from({ length: count + 1 }, (_, n) => {
      const key = Uint8Array.from(known!);
      writeAddress(key, 0, parseAddress(`11.${n >> 16}.${(n >> 8) & 255}.${n & 255}`)!);
      return key;
    });
    const value = map.get(known!)!;
    const last = keys.pop()!;
    map.update(Buffer.concat(keys), Buffer.concat(keys.map(() => value)));
    expect(() => map.update(last, value)).toThrow(/E2BIG|too long/);
    return { full: () => map.keys().length === map.handle.entries };
  }

  LONG.test(
    'ebpf: affinities; who is remembered keeps to its backend, and who is not is served all the same',
    async () => {
      await world.startAgent('ebpf', NO_CLOCK);
      await world.open(1);
      await world.load(3);
      const { address, port, from } = world
        .ways(4)
        .find(({ title }) => title.endsWith('pod to a sticky cluster IP'))!;
      const pods = async (who: Place) =>
        Object.keys((await who.call('tcp', address, port, { count: 40, timeoutMs: 8000 })).pods);
      const before = await pods(from);
      expect(before.length).toBe(1);
      const { full } = fillAffinities();
      expect(await pods(from)).toEqual(before);
      const late = await world.lab.addPod({ name: 'late', node: 'n1' });
      try {
        expect((await pods(late)).sort()).toEqual(['b', 'c', 'd']);
      } finally {
        await world.lab.removePod('late');
      }
      expect(full()).toBe(true);
      await expectNothingLost('ebpf', NO_CLOCK);
    },
  );

  test('a switch to a mode that has no room for every service: the old mode goes on, and says so', async () => {
    await world.startAgent('nft', [...NO_CLOCK, '--bpf-services-max', '16', '--bpf-backends-max', '16']);
    write(...Array.from({ length: 40 }, (_, n) => service(n)));
    try {
      await world.open(1);
      await world.load(3);
      // Without endpoints: refused once it is there.
      await eventually(() => ask(address(39))).toBe('refused');
      await expect(world.switchTo('ebpf')).rejects.toThrow(/mode ebpf would not serve \d+ services/);
      const { mode } = await world.status();
      expect(mode).toMatchObject({ mode: 'nft', switching: '' });
      expect(mode.failure).toMatch(/would not serve/);
      expect(await asked()).toBe('ok');
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
      expect((await world.stop()).join('\n')).toBe('');
    } finally {
      world.lab.manifests.remove('more');
    }
    await eventually(() => ask(address(39))).not.toBe('refused');
    await expectSound(world, 'nft');
  });
});
