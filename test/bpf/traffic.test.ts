/** What the programs count, where packets can be made by hand: XDP, parts of processors, and numbers without room. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { mapArray } from '../../src/dataplane/ebpf/tables.ts';
import { type TrafficKnobs, TrafficTable, trafficKnobs } from '../../src/dataplane/ebpf/traffic-table.ts';
import { loadWorld, NET, SMALL, TestNet, type World } from '../support/bpf-world.ts';
import { dissect, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const VIP = '192.0.2.10';
const LOCAL_VIP = '192.0.2.11';
const CROWDED_VIP = '192.0.2.12';
const SERVICE = 7;
/** IPv4, UDP, payload. */
const BYTES = 20 + 8 + 5;
const KNOBS: TrafficKnobs = {
  ...{ level: ABI.TRAFFIC_PACKETS, by: 'service', stride: 16, parts: 2, shared: true },
};
const NOTHING = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };

root.describe('counting in the programs', () => {
  let net: TestNet;
  let world: World | null = null;
  beforeEach(() => {
    net = new TestNet('t');
  });
  afterEach(() => {
    world?.close();
    world = null;
    net.leave();
  });

  async function load(traffic: TrafficKnobs) {
    const made = await loadWorld({ traffic });
    world = made;
    const [up, down] = [net.device('up0'), net.device('dn0')];
    made.setDevice(up.ifindex, NET.uplink[4], NET.uplink[6]);
    made.setDevice(down.ifindex, NET.downlink[4], NET.downlink[6]);
    const common = { port: 80, protocol: 'UDP', flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP } as const;
    const remote = [[NET.backend(4, 2), 8080] as const];
    const local = [[NET.backend(4, 3), 8080, true] as const];
    made.addService({ ...common, service: SERVICE, address: VIP, backends: remote });
    made.addService({ ...common, service: SERVICE, address: LOCAL_VIP, backends: local });
    made.addService({ ...common, service: KNOBS.stride + 1, address: CROWDED_VIP, backends: remote });
    const table = new TrafficTable(mapArray(made.maps.tp_traffic!).bytes, traffic);
    const run = (device: { ifindex: number }, spec: Partial<PacketSpec>) => {
      const payload = new Uint8Array([1, 2, 3, 4, 5]);
      const full = { src: NET.client[4], dst: VIP, sport: 40000, dport: 80, proto: 'udp', payload, ...spec };
      return made.xdp('tp_xdp', packet(full as PacketSpec), device.ifindex);
    };
    return { table, up, down, run };
  }

  test('XDP: both ways of what it sends itself; what it leaves to tc, tc counts; without room nobody does', async () => {
    const { table, up, down, run } = await load(KNOBS);
    let out = dissect(run(up, {}).data);
    for (let i = 0; i < 2; i++) out = dissect(run(up, {}).data);
    run(down, { src: out.dst, dst: out.src, sport: out.dport, dport: out.sport });
    expect(table.read(SERVICE)).toEqual({
      ...{ connections: 1, packetsIn: 3, bytesIn: 3 * BYTES, packetsOut: 1, bytesOut: BYTES },
    });
    run(up, { dst: LOCAL_VIP });
    expect(table.read(SERVICE)).toMatchObject({ connections: 2, packetsIn: 3 });
    run(up, { dst: CROWDED_VIP });
    const all = Array.from({ length: KNOBS.stride }, (_, i) => table.read(i)?.connections ?? 0);
    expect(all.reduce((sum, n) => sum + n, 0)).toBe(2);
  });

  test('level connections counts no packet', async () => {
    const { table, up, run } = await load({ ...KNOBS, level: ABI.TRAFFIC_CONNECTIONS });
    run(up, {});
    run(up, {});
    expect(table.read(SERVICE)).toEqual({ ...NOTHING, connections: 1 });
  });
});

test.each([
  [1, 'service', 1, false],
  [4, 'service', 4, false],
  [6, 'service', 8, false],
  [64, 'service', 16, true],
  [64, 'endpoint', 8, true],
] as const)('%i processors by %s: %i parts', (cpus, by, parts, shared) => {
  const sizes = { frontends: 131_072, backends: 262_144 };
  expect(trafficKnobs({ level: 'traffic', by }, sizes, cpus)).toMatchObject({ parts, shared });
  expect(trafficKnobs({ level: 'off', by }, SMALL, cpus)).toBeNull();
});

test('sums of 64 bits are exact as far as numbers go, and one that is cleared is nobody’s', () => {
  const knobs = { ...KNOBS, stride: 2 };
  const words = new BigUint64Array(2 * 2 * 5);
  const table = new TrafficTable(new Uint8Array(words.buffer), knobs);
  words.set([1n, 2n, 3n, 2n ** 40n + 5n, 7n], 5);
  words.set([0n, 0n, 1n, 2n ** 40n, 0n], 15);
  expect(table.read(0)).toBeNull();
  expect(table.read(1)).toEqual({
    ...{ connections: 1, packetsIn: 2, packetsOut: 4, bytesIn: 2 ** 41 + 5, bytesOut: 7 },
  });
  table.clear(1);
  expect(table.read(1)).toBeNull();
});
