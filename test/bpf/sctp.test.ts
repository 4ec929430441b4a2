import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { TableMaps } from '../../src/dataplane/ebpf/maps.ts';
import { readTableConnections } from '../../src/dataplane/ebpf/readback.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { crc32c, datagram, dissect, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 };
const XDP = { PASS: 2, REDIRECT: 4 };
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const CLUSTER_IP = { 4: '10.96.0.10', 6: 'fd96::10' };
/** The port is the backend's own, and nothing is masqueraded: no byte of SCTP changes. */
const SAME_PORT = { 4: '10.96.0.11', 6: 'fd96::11' };
const EXTERNAL = { 4: '192.0.2.10', 6: '2001:db8::10' };
const REJECTED = { 4: '10.96.0.12', 6: 'fd96::12' };
const POD = { 4: '10.244.0.5', 6: 'fd44::5' };
const ROUTER = { 4: '172.16.9.9', 6: 'fd77::9' };

/** How SCTP's sum changes with the first four bytes of `length`, reckoned byte by byte. */
function plainChange(delta: Uint8Array, length: number): number {
  const difference = new Uint8Array(length);
  difference.set(delta);
  return (crc32c(difference) ^ crc32c(new Uint8Array(length))) >>> 0;
}

root.describe('SCTP', () => {
  let net: TestNet;
  let world: World;
  let up: number;
  let down: number;

  beforeAll(async () => {
    net = new TestNet('s');
    world = await loadWorld();
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down, NET.downlink[4], NET.downlink[6]);
    for (const family of FAMILIES) {
      const base = { protocol: 'SCTP', port: 80 } as const;
      const backends = [[NET.backend(family, 2), 8080]] as const;
      world.addService({ ...base, backends, address: CLUSTER_IP[family] });
      world.addService({ ...base, address: SAME_PORT[family], backends: [[NET.backend(family, 3), 80]] });
      const flags = ABI.F_MASQ_ALWAYS | ABI.F_XDP;
      world.addService({ ...base, flags, backends, address: EXTERNAL[family] });
      world.addService({ ...base, address: REJECTED[family], inside: 'reject', outside: 'reject' });
    }
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  const ingress = (frame: Uint8Array, device = up) => world.tc('tp_ingress', frame, device);
  const egress = (frame: Uint8Array, device = down) => world.tc('tp_egress', frame, device);
  const good = { checksumHolds: true, ipChecksumHolds: true };

  describe.each(FAMILIES)('IPv%i', (family) => {
    const to = (dst: { 4: string; 6: string }, extra: Partial<PacketSpec> = {}): PacketSpec => ({
      src: POD[family],
      dst: dst[family],
      sport: 40000,
      dport: 80,
      proto: 'sctp',
      ...extra,
    });

    test('the sum is exact whatever the ports, the length and the content, at tc and in XDP', () => {
      const content = fc.uint8Array({ minLength: 0, maxLength: 1400 });
      fc.assert(
        fc.property(fc.integer({ min: 1, max: 65535 }), content, (sport, payload) => {
          world.forget();
          const asked = { sport, payload, src: NET.client[family] };
          const whole = world.xdp('tp_xdp', packet(to(EXTERNAL, asked)), up);
          expect(whole.verdict).toBe(XDP.REDIRECT);
          expect(dissect(whole.data)).toMatchObject({ ...good, dport: 8080, src: NET.downlink[family] });
          world.forget();
          const there = ingress(packet(to(EXTERNAL, asked)));
          expect(dissect(there.data)).toMatchObject({ ...good, sport, dport: 8080 });
          const out = egress(there.data);
          const sent = dissect(out.data);
          expect(sent).toMatchObject({ ...good, src: NET.downlink[family], dst: NET.backend(family, 2) });
          const { src, dst, sport: natPort } = sent;
          const answer = {
            src: dst,
            dst: src,
            sport: 8080,
            dport: natPort,
            proto: 'sctp',
            flags: 'SA',
          } as const;
          const back = egress(ingress(packet({ ...answer, payload }), down).data, up);
          expect(dissect(back.data)).toMatchObject({
            ...good,
            src: EXTERNAL[family],
            sport: 80,
            dport: sport,
          });
        }),
        { numRuns: 150 },
      );
    });

    test('what is left to the device stays so', () => {
      const there = ingress(packet(to(CLUSTER_IP, { checksum: 'partial' })));
      const got = dissect(there.data);
      expect(got).toMatchObject({ dst: NET.backend(family, 2), dport: 8080 });
      expect(got.l4.subarray(8, 12)).toEqual(new Uint8Array(4));
      const frame = packet(to(EXTERNAL, { checksum: 'partial', src: NET.client[family] }));
      const passed = world.xdp('tp_xdp', frame, up);
      expect(passed).toMatchObject({ verdict: XDP.PASS, data: frame });
    });

    test('where no port changes, no byte of it does', () => {
      const frame = packet(to(SAME_PORT, { payload: new Uint8Array(40).fill(3) }));
      const there = ingress(frame);
      const l4 = 14 + (family === 4 ? 20 : 40);
      expect(dissect(there.data)).toMatchObject({ ...good, dst: NET.backend(family, 3) });
      expect(there.data.subarray(l4)).toEqual(frame.subarray(l4));
      const piece = packet({
        ...to(SAME_PORT, { sport: 41000 }),
        fragment: { id: 9, offset: 0, more: true },
      });
      expect(dissect(ingress(piece).data).dst).toBe(NET.backend(family, 3));
    });

    /** An ICMP error that quotes the datagram's beginning, whose header says that it was `length` bytes long. */
    function quote(spec: PacketSpec, check: number, length: number, bytes: number): Uint8Array {
      const quoted = datagram(spec);
      const view = new DataView(quoted.buffer, quoted.byteOffset);
      const l4 = family === 4 ? 20 : 40;
      view.setUint16(family === 4 ? 2 : 4, family === 4 ? l4 + length : length);
      if (family === 4) {
        view.setUint16(10, 0);
        let sum = 0;
        for (let at = 0; at < 20; at += 2) sum += view.getUint16(at);
        while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
        view.setUint16(10, ~sum & 0xffff);
      }
      view.setUint32(l4 + 8, check, true);
      return quoted.subarray(0, l4 + bytes);
    }

    /** The sum in the quoted packet after it came back to the client, and whether the message's own holds. */
    function quotedCheck(check: number, length: number): { readonly was: number; readonly now: number } {
      world.forget();
      const asked = to(EXTERNAL, { src: NET.client[family] });
      const sent = dissect(egress(ingress(packet(asked)).data).data);
      const inner: PacketSpec = { ...asked, src: sent.src, dst: sent.dst, sport: sent.sport, dport: 8080 };
      const icmp = family === 4 ? { type: 3, code: 4, rest: 1400 } : { type: 2, code: 0, rest: 1400 };
      const error = packet({
        ...{ src: ROUTER[family], dst: sent.src, proto: 'icmp', icmp },
        payload: quote(inner, check, length, 16),
      });
      const home = dissect(egress(ingress(error, down).data, up).data);
      expect(home).toMatchObject({ ...good, dst: NET.client[family] });
      const l4 = home.l4.subarray(8 + (family === 4 ? 20 : 40));
      const view = new DataView(l4.buffer, l4.byteOffset);
      expect([view.getUint16(0), view.getUint16(2)]).toEqual([40000, 80]);
      const delta = new Uint8Array(4);
      new DataView(delta.buffer).setUint16(0, sent.sport ^ 40000);
      new DataView(delta.buffer).setUint16(2, 8080 ^ 80);
      return { was: (check ^ plainChange(delta, length)) >>> 0, now: view.getUint32(8, true) };
    }

    test('every digit of every length, as packets that are quoted cut short have it', () => {
      const digits = [4, 8, 12].flatMap((shift) => Array.from({ length: 15 }, (_, n) => (n + 1) << shift));
      for (const length of [...digits, ...Array.from({ length: 16 }, (_, n) => 16 + n), 65_000]) {
        const { was, now } = quotedCheck(0x1234_5678, Math.min(length, 65_515));
        expect(now, `${length} bytes`).toBe(was);
      }
    });

    test('any sum and any length', () => {
      const any = fc.integer({ min: 1, max: 0xffff_ffff });
      fc.assert(
        fc.property(any, fc.integer({ min: 16, max: 65_515 }), (check, length) => {
          const { was, now } = quotedCheck(check, length);
          expect(now).toBe(was);
        }),
        { numRuns: 60 },
      );
    });

    test.each([
      ['by its sender', 'full'],
      ['by nobody yet', 'partial'],
    ] as const)('refused by ICMP, summed %s', (_, checksum) => {
      const result = ingress(packet(to(REJECTED, { checksum, payload: new Uint8Array(16).fill(7) })));
      expect(result.verdict).toBe(TC.REDIRECT);
      const reply = dissect(result.data);
      expect(reply).toMatchObject({ src: REJECTED[family], dst: POD[family], ...good });
      expect([reply.proto, reply.l4[0], reply.l4[1]]).toEqual(family === 4 ? [1, 3, 3] : [58, 1, 4]);
      expect(reply.l4.subarray(8)).toEqual(
        datagram(to(REJECTED, { checksum, payload: new Uint8Array(16).fill(7) })),
      );
    });

    test('states and what follows from them', () => {
      const maps = new TableMaps(world.object.maps(), world.knobs.seed);
      const state = () =>
        readTableConnections(maps, world.knobs.hz).map((one) => `${one.protocol} ${one.state}`);
      const forward = (chunk: number) => ingress(packet(to(CLUSTER_IP, { chunk }))).data;
      const reply = (chunk: number) => {
        const { src, dst } = dissect(forward(3));
        return egress(packet({ src: dst, dst: src, sport: 8080, dport: 40000, proto: 'sctp', chunk }), up);
      };
      forward(1);
      expect(state()).toEqual(['SCTP COOKIE_WAIT']);
      forward(10);
      expect(state()).toEqual(['SCTP ESTABLISHED']);
      reply(2);
      expect(state()).toEqual(['SCTP ESTABLISHED']);
      forward(7);
      expect(state()).toEqual(['SCTP SHUTDOWN_SENT']);
      reply(8);
      expect(state()).toEqual(['SCTP SHUTDOWN_ACK_SENT']);
      forward(14);
      expect(state()).toEqual(['SCTP CLOSED']);
      const again = world.counter('repicked');
      forward(1);
      expect(world.counter('repicked')).toBe(again + 1);
      expect(state()).toEqual(['SCTP COOKIE_WAIT']);
    });

    test('an ABORT of nothing opens nothing', () => {
      const frame = packet(to(CLUSTER_IP, { chunk: 6 }));
      expect(ingress(frame)).toMatchObject({ verdict: TC.UNSPEC, data: frame });
      expect(world.connections()).toHaveLength(0);
    });

    test('while the kernel may translate associations, what opens none is left to it', () => {
      if (!world.knobs.ctLookup) return;
      const flags = world.settings.flags;
      world.settings.flags = flags | ABI.S_ASK_KERNEL;
      const data = packet(to(CLUSTER_IP, { chunk: 0 }));
      expect(ingress(data)).toMatchObject({ verdict: TC.UNSPEC, data });
      expect(dissect(ingress(packet(to(CLUSTER_IP))).data).dst).toBe(NET.backend(family, 2));
      expect(dissect(ingress(data).data).dst).toBe(NET.backend(family, 2));
      world.settings.flags = flags;
    });
  });
});
