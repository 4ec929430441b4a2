/** NAT ports that draining maps hold are not given out by the maps in force. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ABI, LAYOUTS } from '../../src/dataplane/ebpf/abi.ts';
import { lifeNative } from '../../src/dataplane/ebpf/native-life.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { type Dissected, dissect, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const SERVICE = { 4: '192.0.2.10', 6: '2001:db8::10' } as const;

root.describe('NAT ports of draining maps', () => {
  let net: TestNet;
  let old: World;
  let next: World;
  let up: number;
  let down: number;

  beforeAll(async () => {
    net = new TestNet('r');
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    // One pool of ports of four, so that a port that is reserved is soon missed.
    const natPorts = [{ first: 61000, last: 61003 }];
    old = await loadWorld({ natPorts });
    next = await loadWorld({ natPorts, seed: Uint8Array.from({ length: 16 }, (_, i) => 200 - i) });
    for (const world of [old, next]) {
      world.setDevice(up, NET.uplink[4], NET.uplink[6]);
      world.setDevice(down, NET.downlink[4], NET.downlink[6]);
      for (const family of [4, 6] as const)
        world.addService({
          ...{ address: SERVICE[family], port: 80, flags: ABI.F_MASQ_ALWAYS },
          backends: [[NET.backend(family, 2), 8080]],
        });
    }
  });
  afterAll(() => {
    old?.close();
    next?.close();
    net?.leave();
  });

  /** What leaves toward the backend; null: no port was left. */
  function ask(world: World, family: 4 | 6, sport: number): Dissected | null {
    const asked = {
      src: NET.client[family],
      dst: SERVICE[family],
      sport,
      dport: 80,
      proto: 'tcp',
      flags: 'S',
    } as const;
    const inside = world.tc('tp_ingress', packet(asked), up);
    return inside.verdict < 0 ? dissect(world.tc('tp_egress', inside.data, down).data) : null;
  }
  const reserve = (...worlds: World[]) =>
    lifeNative().bpfReserveNat(
      next.tables.nat.bytes,
      next.knobs.seed,
      worlds.map(({ tables }) => [tables.conns.bytes, tables.backends.bytes]),
    );

  test.each([4, 6] as const)('IPv%i: what lives there is given to nobody here, and comes back', (family) => {
    const held = [5001, 5002].map((sport) => ask(old, family, sport)!.sport);
    expect(reserve(old)).toBe(2);
    const given = [6001, 6002].map((sport) => ask(next, family, sport)!.sport);
    expect([...held, ...given].sort()).toEqual([61000, 61001, 61002, 61003]);
    expect(ask(next, family, 6003)).toBe(null);
    // Reset by its client: it gives way by itself, so that only the other one is kept free.
    old.tables.conns.bytes[old.connections()[0]!.at + LAYOUTS.tp_conn.members.seen_forward] = 4;
    expect(reserve(old)).toBe(1);
    expect(ask(next, family, 6004)!.sport).toSatisfy((port) => held.includes(port as number));
    // Nothing drains any more.
    expect(reserve()).toBe(0);
    const used = [...next.tables.nat.words].filter((word) => word !== 0);
    expect(used).toHaveLength(3);
    for (const world of [old, next]) world.forget();
  });
});
