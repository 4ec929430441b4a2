/** What sticky services remember of their clients goes along when an agent changes its mode. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../../src/lab/place.ts';
import type { Family } from '../../src/model/records.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const FAMILIES: readonly Family[] = [4, 6];
const TIMEOUT_S = 600;
/** Longer than what clocks round: ebpf counts in ticks of up to a second, and each way rounds once. */
const IDLE_MS = 6000;
const ROUNDED_S = 2.5;

root.describe('clients of sticky services', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'swy' });
    await world.startAgent('nft');
  });
  afterAll(() => world?.remove());

  /** By protocol and family: the pods that answer. */
  async function answering(from: Place): Promise<Record<string, string[]>> {
    const found: Record<string, string[]> = {};
    for (const family of FAMILIES) {
      const { address, port } = world.ways(family).find(({ sticky }) => sticky)!;
      for (const protocol of ['tcp', 'udp'] as const) {
        const { pods } = await from.call(protocol, address, port, { count: 20, timeoutMs: 3000 });
        found[`${protocol} IPv${family}`] = Object.keys(pods);
      }
    }
    return found;
  }

  /** What the tables of nft mode remember, in seconds until it is forgotten. */
  async function secondsLeft(family: Family, client: string): Promise<number[]> {
    const table = family === 4 ? 'ip' : 'ip6';
    const { stdout } = await world.node.exec(['nft', '-j', 'list', 'map', table, 'triplane', 'affinity']);
    const { nftables } = JSON.parse(stdout) as { nftables: { map?: { elem?: [Key, string | number][] } }[] };
    const all = nftables.flatMap(({ map }) => map?.elem ?? []);
    return all.flatMap(([{ elem }]) => (elem.val.concat[0] === client ? [elem.expires] : []));
  }
  interface Key {
    readonly elem: { readonly val: { readonly concat: readonly string[] }; readonly expires: number };
  }

  test('each stays with its backend, TCP and UDP, in both families, whichever mode it came to first', async () => {
    const sources: Record<string, Place> = { a: world.lab.pod('a'), node: world.node };
    const first: Record<string, Record<string, string[]>> = {};
    const meet = async () => {
      for (const [name, from] of Object.entries(sources)) {
        const now = await answering(from);
        first[name] ??= now;
        for (const pods of Object.values(now)) expect(pods).toHaveLength(1);
        expect([name, now]).toEqual([name, first[name]]);
      }
    };
    await meet();
    await world.switchTo('ebpf');
    sources.b = world.lab.pod('b');
    await meet();
    for (const mode of ['nft', 'ebpf', 'nft'] as const) {
      await world.switchTo(mode);
      await meet();
    }
  });

  test('the time that each has left goes along', async () => {
    const { addresses } = world.lab.pod('a');
    const began = performance.now();
    await answering(world.lab.pod('a'));
    const came = performance.now();
    await pause(IDLE_MS);
    await world.switchTo('ebpf');
    await pause(IDLE_MS);
    await world.switchTo('nft');
    for (const family of FAMILIES) {
      const left = await secondsLeft(family, addresses[family]!);
      expect(left).toHaveLength(2);
      for (const seconds of left) {
        const now = performance.now();
        expect(seconds).toBeLessThan(TIMEOUT_S - (now - came) / 1000 + ROUNDED_S);
        expect(seconds).toBeGreaterThan(TIMEOUT_S - (now - began) / 1000 - ROUNDED_S);
      }
    }
  });

  test('what the other mode has learned meanwhile goes before what maps that drained remember', async () => {
    const pod = world.lab.pod('a');
    const { address, port } = world.single();
    await world.switchTo('ebpf');
    const before = await answering(pod);
    // So that the maps stay, and are taken up again.
    const hold = await pod.hold('tcp', address, port, { durationMs: 600_000, timeoutMs: 8000 });
    expect((await hold.established).open).toBe(1);
    await world.switchTo('nft');
    await pause(IDLE_MS);
    let now = before;
    for (let n = 0; n < 20 && JSON.stringify(now) === JSON.stringify(before); n++) {
      for (const table of ['ip', 'ip6'])
        await world.node.exec(['nft', 'flush', 'map', table, 'triplane', 'affinity']);
      now = await answering(pod);
    }
    expect(now).not.toEqual(before);
    expect((await world.status()).mode.draining).toMatchObject([{ mode: 'ebpf' }]);
    await world.switchTo('ebpf');
    expect(await answering(pod)).toEqual(now);
    await hold.stop();
    expect(hold.failures).toEqual([]);
  });
});
