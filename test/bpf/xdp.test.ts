import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI, COUNTERS } from '../../src/dataplane/ebpf/abi.ts';
import { bpfNative } from '../../src/dataplane/ebpf/native.ts';
import type { Family } from '../../src/model/records.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { dissect, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

/** <linux/bpf.h> */
const BPF_F_TEST_XDP_LIVE_FRAMES = 2;
const XDP = { DROP: 1, PASS: 2, TX: 3, REDIRECT: 4 };
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const VIP = { 4: '192.0.2.10', 6: '2001:db8::10' };
const LOCAL_VIP = { 4: '192.0.2.11', 6: '2001:db8::11' };
const GUARDED_VIP = { 4: '192.0.2.12', 6: '2001:db8::12' };
const EXTERNAL = ABI.F_MASQ_ALWAYS | ABI.F_XDP;

root.describe('XDP', () => {
  let net: TestNet;
  let world: World;
  let up: { ifindex: number; mac: string };
  let down: { ifindex: number; mac: string };

  beforeAll(async () => {
    net = new TestNet('x');
    world = await loadWorld();
    up = net.device('up0');
    down = net.device('dn0');
    world.setDevice(up.ifindex, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down.ifindex, NET.downlink[4], NET.downlink[6]);
    for (const family of FAMILIES) {
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const) {
        const remote = [[NET.backend(family, 2), 8080] as const];
        world.addService({ address: VIP[family], port: 80, protocol, flags: EXTERNAL, backends: remote });
        world.addService({
          address: LOCAL_VIP[family],
          port: 80,
          protocol,
          flags: EXTERNAL,
          backends: [[NET.backend(family, 3), 8080, true]],
        });
        world.addService({
          address: GUARDED_VIP[family],
          port: 80,
          protocol,
          flags: EXTERNAL | ABI.F_GUARDED,
          guard: 7,
          backends: [[NET.backend(family, 4), 8080]],
        });
      }
    }
    world.addRange(7, '10.9.0.0', 16);
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  test('a test run of live frames names the device that they come by', () => {
    const frame = packet({ src: NET.client[4], dst: VIP[4], sport: 1, dport: 81 });
    const context = new Uint8Array(Uint32Array.of(0, frame.length, 0, up.ifindex, 0, 0).buffer);
    const fd = world.programs.tp_xdp!;
    const run = bpfNative().bpfTestRun(fd, frame, context, 0, 64, BPF_F_TEST_XDP_LIVE_FRAMES);
    expect(run.data).toHaveLength(0);
  });

  const toVip = (family: Family, extra: Partial<PacketSpec> = {}): PacketSpec => ({
    src: NET.client[family],
    dst: VIP[family],
    sport: 40000,
    dport: 80,
    payload: new Uint8Array([1, 2, 3, 4, 5]),
    ...extra,
  });

  const run = (spec: PacketSpec) => world.xdp('tp_xdp', packet(spec), up.ifindex);

  describe.each(FAMILIES)('IPv%i', (family) => {
    describe.each(['tcp', 'udp', 'sctp'] as const)('%s', (proto) => {
      test('forwards a new connection to the backend on another node, masqueraded, sums exact', () => {
        const result = run(toVip(family, { proto }));
        expect(result.verdict).toBe(XDP.REDIRECT);
        const out = dissect(result.data);
        expect(out).toMatchObject({
          src: NET.downlink[family],
          dst: NET.backend(family, 2),
          dport: 8080,
          ttl: 63,
          dmac: NET.backendMac(2),
          smac: down.mac,
          ipChecksumHolds: true,
          checksumHolds: true,
        });
        expect(out.sport).toBeGreaterThanOrEqual(61000);
        expect(world.connections()).toHaveLength(1);
      });

      test('sends the next packet of it the same way and the answer back', () => {
        const first = dissect(run(toVip(family, { proto })).data);
        const again = dissect(run(toVip(family, { proto, flags: 'A' })).data);
        expect([again.sport, again.dst]).toEqual([first.sport, first.dst]);
        const answer = world.xdp(
          'tp_xdp',
          packet({
            src: first.dst,
            dst: first.src,
            sport: 8080,
            dport: first.sport,
            proto,
            flags: 'SA',
            payload: new Uint8Array([9]),
          }),
          down.ifindex,
        );
        expect(answer.verdict).toBe(XDP.REDIRECT);
        expect(dissect(answer.data)).toMatchObject({
          src: VIP[family],
          sport: 80,
          dst: NET.client[family],
          dport: 40000,
          ttl: 63,
          dmac: NET.clientMac,
          smac: up.mac,
          ipChecksumHolds: true,
          checksumHolds: true,
        });
        expect(world.connections()).toHaveLength(1);
      });

      test('opens nothing while programs over older tables stand before tc', () => {
        const flags = world.settings.flags;
        world.settings.flags = flags | ABI.S_OLDER;
        const frame = packet(toVip(family, { proto }));
        const { verdict, data } = world.xdp('tp_xdp', frame, up.ifindex);
        world.settings.flags = flags;
        expect(verdict).toBe(XDP.PASS);
        expect(data).toEqual(frame);
        expect(world.connections()).toEqual([]);
      });

      test('leaves what goes to a backend here to tc, but settles the choice', () => {
        const spec = toVip(family, { proto, dst: LOCAL_VIP[family] });
        const result = run(spec);
        expect(result.verdict).toBe(XDP.PASS);
        expect(result.data).toEqual(packet(spec));
        expect(world.connections()).toHaveLength(1);
      });

      test.each([
        ['no frontend', { dst: NET.uplink[4 as Family] }],
        ['another port', { dport: 81 }],
        ['last hop', { ttl: 1 }],
        ['a partial checksum', { checksum: 'partial' }],
        ['a VLAN tag', { vlans: [5] }],
        ['a fragment', { fragment: { id: 1, offset: 0, more: true } }],
      ] as [string, Partial<PacketSpec>][])('passes on untouched: %s', (name, change) => {
        const own = name === 'no frontend' ? { dst: NET.uplink[family] } : change;
        const spec = toVip(family, { proto, ...own });
        const result = run(spec);
        expect(result.verdict).toBe(XDP.PASS);
        expect(result.data).toEqual(packet(spec));
      });

      test('drops what the source ranges forbid', () => {
        const before = world.counter('guarded');
        expect(run(toVip(family, { proto, dst: GUARDED_VIP[family] })).verdict).toBe(XDP.DROP);
        expect(world.counter('guarded')).toBe(before + 1);
        expect(world.connections()).toHaveLength(0);
      });

      test('passes on every truncation untouched', () => {
        const whole = packet(toVip(family, { proto }));
        for (let length = 14; length < whole.length; length++) {
          const result = world.xdp('tp_xdp', whole.subarray(0, length), up.ifindex);
          expect(result.verdict, `${length} bytes`).toBe(XDP.PASS);
          expect(result.data).toEqual(whole.subarray(0, length));
        }
        expect(world.connections()).toHaveLength(0);
      });
    });

    test('a UDP datagram without a checksum stays without (IPv4), and never gets a zero one', () => {
      if (family === 4) {
        const out = run(toVip(4, { proto: 'udp', checksum: 'none' }));
        expect(dissect(out.data).l4.subarray(6, 8)).toEqual(new Uint8Array(2));
      }
      for (let n = 0; n < 3000; n++) {
        const payload = new Uint8Array([n >> 8, n & 255]);
        const out = dissect(run(toVip(family, { proto: 'udp', payload })).data);
        expect(out.checksumHolds).toBe(true);
        expect([out.l4[6], out.l4[7]]).not.toEqual([0, 0]);
      }
    });

    test('with options', () => {
      const tcpOptions = new Uint8Array([2, 4, 5, 0xb4, 1, 3, 3, 7]);
      const spec = toVip(family, {
        tcpOptions,
        ...(family === 4 && { ipOptions: new Uint8Array([148, 4, 0, 0]) }),
      });
      const result = run(spec);
      expect(result.verdict).toBe(XDP.REDIRECT);
      expect(dissect(result.data)).toMatchObject({ checksumHolds: true, ipChecksumHolds: true });
    });

    test('larger than the next link carries goes to the stack untouched', () => {
      const spec = toVip(family, { payload: new Uint8Array(1600) });
      const result = run(spec);
      expect(result.verdict).toBe(XDP.PASS);
      expect(result.data).toEqual(packet(spec));
    });

    test('two routes by one neighbour keep each its own MTU', () => {
      const routes = { 4: ['10.2.0.5', '10.3.0.5'], 6: ['fd02::5', 'fd03::5'] }[family];
      const vips = { 4: ['192.0.2.60', '192.0.2.61'], 6: ['2001:db8::60', '2001:db8::61'] }[family];
      const bits = family === 4 ? 32 : 128;
      const via = NET.backend(family, 2);
      net.route(`${routes[0]}/${bits} via ${via} dev dn0 mtu lock 1400`);
      net.route(`${routes[1]}/${bits} via ${via} dev dn0`);
      world.settings.advanceRoutes();
      vips.forEach((address, i) => {
        world.addService({ address, port: 80, flags: EXTERNAL, backends: [[routes[i]!, 8080]] });
      });
      const send = (dst: string, bytes: number) =>
        run(toVip(family, { dst, flags: 'A', payload: new Uint8Array(bytes) })).verdict;
      for (let round = 0; round < 2; round++) {
        // Whichever was asked for last.
        expect([send(vips[0]!, 10), send(vips[1]!, 10)]).toEqual([XDP.REDIRECT, XDP.REDIRECT]);
        expect([send(vips[0]!, 1390), send(vips[1]!, 1390)]).toEqual([XDP.PASS, XDP.REDIRECT]);
        expect([send(vips[1]!, 10), send(vips[0]!, 10)]).toEqual([XDP.REDIRECT, XDP.REDIRECT]);
        expect([send(vips[0]!, 1390), send(vips[1]!, 1390)]).toEqual([XDP.PASS, XDP.REDIRECT]);
        world.settings.advanceRoutes();
      }
    });

    test('a client that uses its port again after both sides closed is picked anew', () => {
      const first = dissect(run(toVip(family)).data);
      run(toVip(family, { flags: 'FA' }));
      const answer = { src: first.dst, dst: first.src, sport: 8080, dport: first.sport, flags: 'FA' };
      world.xdp('tp_xdp', packet(answer), down.ifindex);
      const before = world.counter('repicked');
      expect(run(toVip(family)).verdict).toBe(XDP.REDIRECT);
      expect(world.counter('repicked')).toBe(before + 1);
      expect(world.connections()).toHaveLength(1);
      expect([...world.tables.nat.words].filter((word) => word !== 0)).toHaveLength(1);
    });

    test('a TCP connection stays with a backend that left the pool; a new one and datagrams do not', () => {
      const { backends } = world.addService({
        address: family === 4 ? '192.0.2.50' : '2001:db8::50',
        port: 80 + Number(family),
        flags: EXTERNAL,
        backends: [
          [NET.backend(family, 5), 8080],
          [NET.backend(family, 6), 8080],
        ],
      });
      const spec = toVip(family, {
        dst: family === 4 ? '192.0.2.50' : '2001:db8::50',
        dport: 80 + Number(family),
      });
      const first = dissect(run(spec).data);
      const left = first.dst === NET.backend(family, 5) ? backends[0]! : backends[1]!;
      world.tables.setBackendFlags(left, 0);
      expect(dissect(run({ ...spec, flags: 'A' }).data).dst).toBe(first.dst);
      const seen = Array.from({ length: 40 }, () => dissect(run(spec).data).dst as string);
      expect(seen.at(-1)).not.toBe(first.dst);
    });
  });

  test('hostile lengths are never believed', () => {
    const whole = packet(toVip(4));
    const view = new DataView(whole.buffer);
    for (const [at, values] of [
      [14, [0x40, 0x41, 0x44, 0x4f, 0x65, 0x00, 0xff]],
      [46, [0x00, 0x10, 0x40, 0xf0]],
    ] as const) {
      for (const value of values) {
        const kept = whole[at]!;
        whole[at] = value;
        expect(world.xdp('tp_xdp', whole, up.ifindex).verdict).toBe(XDP.PASS);
        whole[at] = kept;
      }
    }
    for (const length of [0, 19, 20, 27, 39, 46, 0xffff]) {
      view.setUint16(16, length);
      expect(world.xdp('tp_xdp', whole, up.ifindex).verdict).toBe(XDP.PASS);
    }
  });

  test('one flow in many finds its place; a full table refuses and counts', () => {
    const specs = Array.from({ length: 3000 }, (_, i) => toVip(4, { sport: 1024 + i }));
    for (const spec of specs)
      expect(run(spec).verdict, JSON.stringify(COUNTERS.map((n) => [n, world.counter(n)]))).toBe(
        XDP.REDIRECT,
      );
    expect(world.connections()).toHaveLength(3000);
    const ports = new Set(specs.map((spec) => dissect(run(spec).data).sport));
    expect(ports.size).toBe(3000);
    const full = world.counter('nat_full');
    for (let i = 0; i < 2000; i++) run(toVip(4, { sport: 10000 + i }));
    expect(world.counter('nat_full')).toBeGreaterThan(full);
    // Every NAT port toward one backend belongs to one connection.
    const used = [...world.tables.nat.words].filter((word) => word !== 0);
    expect(new Set(used.map((word) => word & 0xffffff)).size).toBe(used.length);
  });
});
