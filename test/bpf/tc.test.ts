import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI, PROTOCOL_NUMBERS, writeAddress } from '../../src/dataplane/ebpf/abi.ts';
import type { Address, Cidr, Family, Protocol } from '../../src/model/records.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import {
  concat,
  type Dissected,
  datagram,
  dissect,
  dissectL3,
  ethernet,
  type PacketSpec,
  packet,
} from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 };
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;
const NAMES = { 6: 'tcp', 17: 'udp', 132: 'sctp' } as const;
const ip = (v4: string, v6: string) => ({ 4: v4, 6: v6 });
const CLUSTER_IP = ip('10.96.0.10', 'fd96::10');
const REJECTED = ip('10.96.0.11', 'fd96::11');
const DROPPED = ip('10.96.0.12', 'fd96::12');
const EXTERNAL = ip('192.0.2.10', '2001:db8::10');
const GUARDED = ip('192.0.2.12', '2001:db8::12');
const LOCAL_ONLY = ip('192.0.2.13', '2001:db8::13');
const STICKY = ip('10.96.0.20', 'fd96::20');
const POD = ip('10.244.0.5', 'fd44::5');
const ROUTER = ip('172.16.9.9', 'fd77::9');

root.describe('tc', () => {
  let net: TestNet;
  let world: World;
  let up: number;
  let down: number;

  beforeAll(async () => {
    net = new TestNet('t');
    world = await loadWorld();
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down, NET.downlink[4], NET.downlink[6]);
    world.settings.setPrefixes('pod', 4, ['10.244.0.0/16' as Cidr]);
    world.settings.setPrefixes('pod', 6, ['fd44::/16' as Cidr]);
    world.settings.setPrefixes('service', 4, ['10.96.0.0/16' as Cidr]);
    world.settings.setPrefixes('service', 6, ['fd96::/64' as Cidr]);
    for (const [family, low, high] of [
      [4, '10.96.0.0', '10.96.255.255'],
      [6, 'fd96::', 'fd96::ffff:ffff:ffff:ffff'],
    ] as const) {
      const ends = [low, high].map((text) => {
        const bytes = new Uint8Array(16);
        writeAddress(bytes, 0, text as Address);
        return bytes;
      });
      world.settings.setClusterSpan(family, ends[0]!, ends[1]!);
    }
    for (const family of FAMILIES) {
      const backend = NET.backend(family, 2);
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const) {
        const backends = [[backend, 8080]] as const;
        const base = { protocol, port: 80, backends } as const;
        world.addService({ ...base, address: CLUSTER_IP[family], flags: ABI.F_MASQ_STRANGERS });
        world.addService({ ...base, address: REJECTED[family], inside: 'reject', outside: 'reject' });
        world.addService({ ...base, address: DROPPED[family], inside: 'drop', outside: 'drop' });
        world.addService({ ...base, address: EXTERNAL[family], flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP });
        world.addService({ ...base, address: GUARDED[family], flags: ABI.F_GUARDED, guard: 3 });
        world.addService({ ...base, address: LOCAL_ONLY[family], outside: 'drop' });
        world.addService({
          ...base,
          address: STICKY[family],
          affinity: 100,
          service: 900 + PROTOCOL_NUMBERS[protocol],
          backends: [2, 3, 4, 5].map((n) => [NET.backend(family, n), 8080] as const),
        });
      }
      for (const address of [CLUSTER_IP, REJECTED]) {
        world.addService({
          address: address[family],
          port: 0,
          protocol: 0 as never,
          flags: ABI.F_ADDRESS,
          inside: 'reject',
          outside: 'reject',
        });
      }
    }
    world.addRange(3, '10.244.0.0', 24);
    world.addRange(3, 'fd44::', 64);
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  const ingress = (frame: Uint8Array, device = up) => world.tc('tp_ingress', frame, device);
  const egress = (frame: Uint8Array, device = down) => world.tc('tp_egress', frame, device);
  const good = { checksumHolds: true, ipChecksumHolds: true };

  /** The packet's answer, as the host that got it would send it. */
  const answer = (got: Dissected, extra: Partial<PacketSpec> = {}): PacketSpec => ({
    src: got.dst,
    dst: got.src,
    sport: got.dport,
    dport: got.sport,
    proto: NAMES[got.proto as keyof typeof NAMES],
    flags: 'SA',
    payload: new Uint8Array([7, 7, 7]),
    ...extra,
  });

  describe.each(FAMILIES)('IPv%i', (family: Family) => {
    const backend = NET.backend(family, 2);

    describe.each(PROTOCOLS)('%s', (proto) => {
      const to = (dst: { 4: string; 6: string }, extra: Partial<PacketSpec> = {}): PacketSpec => ({
        src: POD[family],
        dst: dst[family],
        sport: 40000,
        dport: 80,
        proto,
        payload: new Uint8Array([1, 2, 3]),
        ...extra,
      });

      test('a pod to a cluster IP: its address is kept, and the answer comes from the cluster IP', () => {
        const there = ingress(packet(to(CLUSTER_IP)));
        expect(there.verdict).toBe(TC.UNSPEC);
        expect(dissect(there.data)).toMatchObject({
          src: POD[family],
          sport: 40000,
          dst: backend,
          dport: 8080,
          ...good,
        });
        const out = egress(there.data);
        expect(out.data).toEqual(there.data);
        const back = ingress(packet(answer(dissect(out.data))), down);
        expect(dissect(back.data)).toMatchObject({ src: backend, dst: POD[family] });
        expect(dissect(egress(back.data, up).data)).toMatchObject({
          src: CLUSTER_IP[family],
          sport: 80,
          dst: POD[family],
          dport: 40000,
          ...good,
        });
      });

      test.each([
        ['always', EXTERNAL, POD],
        ['a stranger to a cluster IP', CLUSTER_IP, NET.client],
      ])('masqueraded (%s): each half on its side, sums exact', (_, dst, src) => {
        const there = ingress(packet(to(dst, { src: src[family] })));
        expect(dissect(there.data)).toMatchObject({ src: src[family], dst: backend, ...good });
        const out = dissect(egress(there.data).data);
        expect(out).toMatchObject({ src: NET.downlink[family], dst: backend, dport: 8080, ...good });
        expect(out.sport).toBeGreaterThanOrEqual(61000);
        const back = ingress(packet(answer(out)), down);
        expect(dissect(back.data)).toMatchObject({
          src: backend,
          sport: 8080,
          dst: src[family],
          dport: 40000,
          ...good,
        });
        const home = dissect(egress(back.data, up).data);
        expect(home).toMatchObject({ src: dst[family], sport: 80, dst: src[family], dport: 40000, ...good });
      });

      test('hairpin: the backend reaches itself under our address', () => {
        const there = ingress(packet(to(CLUSTER_IP, { src: backend })), down);
        const out = dissect(egress(there.data).data);
        expect(out).toMatchObject({ src: NET.downlink[family], dst: backend, ...good });
        const back = ingress(packet(answer(out)), down);
        expect(dissect(egress(back.data).data)).toMatchObject({
          src: CLUSTER_IP[family],
          dst: backend,
          ...good,
        });
      });

      test('inside and outside may be answered differently', () => {
        expect(ingress(packet(to(LOCAL_ONLY))).verdict).toBe(TC.UNSPEC);
        expect(ingress(packet(to(LOCAL_ONLY, { src: NET.client[family] }))).verdict).toBe(TC.SHOT);
      });

      test('source ranges let in whom they cover', () => {
        expect(dissect(ingress(packet(to(GUARDED))).data).dst).toBe(backend);
        expect(ingress(packet(to(GUARDED, { src: NET.client[family] }))).verdict).toBe(TC.SHOT);
      });

      test('drop is silent; an address that no service has is dropped', () => {
        expect(ingress(packet(to(DROPPED))).verdict).toBe(TC.SHOT);
        const nobody = ip('10.96.3.3', 'fd96::3:3');
        expect(ingress(packet(to(nobody))).verdict).toBe(TC.SHOT);
      });

      test.each([
        ['no endpoints', REJECTED, 80],
        ['an undefined port', CLUSTER_IP, 81],
      ])('reject: %s', (_, dst, dport) => {
        const asked = to(dst, { dport, payload: new Uint8Array([1, 2, 3, 4]) });
        const result = ingress(packet(asked));
        expect(result.verdict).toBe(TC.REDIRECT);
        const reply = dissect(result.data);
        expect(reply).toMatchObject({ src: dst[family], dst: POD[family], ...good });
        expect([reply.dmac, reply.smac]).toEqual(['02:00:00:00:00:01', '02:00:00:00:00:02']);
        if (proto === 'tcp') {
          expect(reply).toMatchObject({ sport: dport, dport: 40000, tcpFlags: 0x14 });
          const view = new DataView(reply.l4.buffer, reply.l4.byteOffset);
          expect(view.getUint32(8)).toBe(0x01020304 + 1 + 4);
        } else {
          expect(reply.proto).toBe(family === 4 ? 1 : 58);
          expect([reply.l4[0], reply.l4[1]]).toEqual(family === 4 ? [3, 3] : [1, 4]);
          expect(dissectL3(reply.l4.subarray(8))).toMatchObject({
            src: POD[family],
            dst: dst[family],
            dport,
          });
        }
      });

      test('tags in the frame are no obstacle', () => {
        const there = ingress(packet(to(CLUSTER_IP, { vlans: [7] })));
        expect(dissect(there.data)).toMatchObject({ vlans: [7], dst: backend, ...good });
      });

      test('IPv4 options and IPv6 extension headers are stepped over', () => {
        const extra: Partial<PacketSpec> =
          family === 4
            ? { ipOptions: new Uint8Array([148, 4, 0, 0]) }
            : {
                extensions: [
                  { type: 0, body: new Uint8Array([5, 2, 0, 0, 1, 0]) },
                  { type: 60, body: new Uint8Array(14) },
                ],
              };
        expect(dissect(ingress(packet(to(CLUSTER_IP, extra))).data)).toMatchObject({ dst: backend, ...good });
      });

      test('fragments follow their first', () => {
        const id = 77 + 10 * Number(family) + PROTOCOLS.indexOf(proto);
        const whole = to(CLUSTER_IP, { payload: new Uint8Array(64).fill(9) });
        const first = ingress(packet({ ...whole, fragment: { id, offset: 0, more: true } }));
        // SCTP's sum is over the whole datagram, so the port cannot be replaced in a part of it.
        if (proto === 'sctp') expect(first.verdict).toBe(TC.SHOT);
        else expect(dissect(first.data)).toMatchObject({ dst: backend });
        const rest = ingress(packet({ ...whole, fragment: { id, offset: 40, more: false } }));
        const frame = packet({ ...whole, fragment: { id, offset: 40, more: false } });
        const got = dissect(rest.data);
        expect(got).toMatchObject({ src: POD[family], dst: backend, ipChecksumHolds: true });
        // Only addresses (and IPv4's own sum) change where there is no transport header.
        const payloadAt = family === 4 ? 34 : 54;
        expect(rest.data.subarray(payloadAt)).toEqual(frame.subarray(payloadAt));
        const stray = packet({ ...whole, fragment: { id: id + 100, offset: 40, more: false } });
        expect(ingress(stray).data).toEqual(stray);
      });

      test('every truncation passes untouched', () => {
        const frame = packet(to(CLUSTER_IP));
        // BPF_PROG_TEST_RUN itself refuses an skb without a whole network header; XDP's test covers those.
        for (let length = family === 4 ? 34 : 54; length < frame.length; length++) {
          const cut = frame.subarray(0, length);
          for (const result of [ingress(cut), egress(cut)]) {
            expect(result.verdict, `${length} bytes`).toBe(TC.UNSPEC);
            expect(result.data).toEqual(cut);
          }
        }
        expect(world.connections()).toHaveLength(0);
      });

      test('clients and backends that count upward have places of their own in tp_pairs', () => {
        const far = ip('10.97.0.10', 'fd97::10');
        const near = (n: number) => (family === 4 ? `10.130.0.${n}` : `fd01:130::${n.toString(16)}`);
        const backends = Array.from({ length: 64 }, (_, i) => [near(i + 1), 8080] as const);
        const protocol = proto.toUpperCase() as Protocol;
        world.addService({ address: far[family], port: 80, protocol, backends });
        const clients = Array.from({ length: 250 }, (_, i) => i + 1);
        for (const n of clients) {
          const src = family === 4 ? `10.244.9.${n}` : `fd44:9::${n.toString(16)}`;
          expect(ingress(packet(to(far, { src, sport: 5000 }))).verdict).toBe(TC.UNSPEC);
        }
        const tags = [...world.tables.pairs.longs].filter((word) => word !== 0n).map((word) => word >> 32n);
        expect(tags).toHaveLength(clients.length);
        // Sums of plain addresses were alike for one in three.
        expect(new Set(tags).size).toBeGreaterThan(clients.length * 0.95);
      });

      test('affinity: one client, one backend, until the backend is gone', () => {
        const visit = (sport: number): Address =>
          dissect(ingress(packet(to(STICKY, { sport }))).data).dst as Address;
        const first = visit(1000);
        for (let i = 1; i < 30; i++) expect(visit(1000 + i)).toBe(first);
        const { bytes, view, entries } = world.tables.backends;
        const wanted = new Uint8Array(16);
        writeAddress(wanted, 0, first);
        const mine = Array.from({ length: entries }, (_, i) => i).filter(
          (i) =>
            view.getUint16(i * 32 + 18, true) !== 0 &&
            wanted.every((byte, at) => bytes[i * 32 + at] === byte),
        );
        for (const index of mine) world.tables.setBackendFlags(index, 0);
        const others = Array.from({ length: 60 }, (_, i) => visit(2000 + i));
        expect(new Set(others).size).toBeLessThanOrEqual(2);
        expect(others.at(-1)).not.toBe(first);
        for (const index of mine) world.tables.setBackendFlags(index, ABI.B_IN_CLUSTER | ABI.B_IN_LOCAL);
      });

      test('what XDP forwards and leaves for once, tc sends the same way', () => {
        const asked = to(EXTERNAL, { src: NET.client[family] });
        const forwarded = dissect(world.xdp('tp_xdp', packet(asked), up).data);
        const again = ingress(packet({ ...asked, flags: 'A' }));
        expect(again.verdict).toBe(TC.REDIRECT);
        expect(dissect(again.data)).toMatchObject({
          src: forwarded.src,
          sport: forwarded.sport,
          dst: backend,
          ttl: 63,
          ...good,
        });
        const back = ingress(packet(answer(forwarded)), down);
        expect(back.verdict).toBe(TC.REDIRECT);
        expect(dissect(back.data)).toMatchObject({
          src: EXTERNAL[family],
          sport: 80,
          dst: NET.client[family],
          dport: 40000,
          ...good,
        });
      });

      test('a client port used toward two frontends of one backend: both stand, from two ports', () => {
        const first = dissect(ingress(packet(to(CLUSTER_IP))).data);
        const taken = world.counter('tuple_taken');
        const other = { ...to(LOCAL_ONLY), src: POD[family] };
        const second = dissect(ingress(packet(other)).data);
        expect(second).toMatchObject({ src: POD[family], dst: backend, dport: 8080, ...good });
        expect(second.sport).toBeGreaterThanOrEqual(61000);
        expect(world.counter('tuple_taken')).toBe(taken + 1);
        expect(world.connections()).toHaveLength(2);
        for (const [inner, dst] of [
          [first, CLUSTER_IP],
          [second, LOCAL_ONLY],
        ] as const) {
          const reply = egress(ingress(packet(answer(inner)), down).data, up);
          expect(dissect(reply.data)).toMatchObject({
            ...{ src: dst[family], sport: 80, dst: POD[family], dport: 40000 },
            ...good,
          });
        }
        // The same connection again, and one that takes the place of what is over.
        const again = dissect(ingress(packet({ ...other, flags: 'A' })).data);
        expect(again.sport).toBe(second.sport);
        expect(world.connections()).toHaveLength(2);
        if (proto === 'udp') return;
        egress(packet(answer(first, { flags: 'R' })), up);
        const third = dissect(ingress(packet(to(GUARDED, { src: POD[family] }))).data);
        expect(third.sport).toBe(40000);
      });

      test('a client port that looks like one of ours, toward a server on the network of the node', () => {
        const flags = world.settings.flags;
        world.settings.flags = flags | ABI.S_NODE_EGRESS;
        const there = dissect(ingress(packet(to(CLUSTER_IP, { sport: 61234 }))).data);
        // What a process of the node sends has come by no device, as what a test run sends.
        const home = dissect(egress(packet(answer(there)), up).data);
        world.settings.flags = flags;
        expect(home).toMatchObject({ src: CLUSTER_IP[family], sport: 80, dport: 61234, ...good });
      });

      test('a backend that is gone: picked again in the same entry, and never left half', () => {
        const host = 1 + PROTOCOLS.indexOf(proto);
        const dst = ip(`10.96.7.${host}`, `fd96::7:${host}`);
        const { backends } = world.addService({
          ...{ address: dst[family], port: 80, protocol: proto.toUpperCase() as Protocol },
          backends: [6, 7].map((n) => [NET.backend(family, n), 8080] as const),
        });
        const first = dissect(ingress(packet(to(dst))).data).dst;
        const gone = first === NET.backend(family, 6) ? 0 : 1;
        const [entry] = world.connections();
        world.tables.setBackendFlags(backends[gone]!, 0);
        // The pool still names it, so it may be picked a few times more; then never again.
        let last = first;
        for (let i = 0; i < 60 && last === first; i++) last = dissect(ingress(packet(to(dst))).data).dst;
        expect(last).not.toBe(first);
        expect(world.connections()).toEqual([entry]);
      });

      test.each([
        ['too large', { payload: new Uint8Array(1600) }],
        ['at its last hop', { ttl: 1 }],
      ])("a whole connection, %s: answered, and the quoted packet is the sender's own", (name, extra) => {
        const asked = to(EXTERNAL, { src: NET.client[family] });
        world.xdp('tp_xdp', packet(asked), up);
        expect(world.connections()).toHaveLength(1);
        const result = ingress(packet({ ...asked, flags: 'A', ...extra }));
        // IPv4 datagrams may be fragmented, so XDP leaves those to the stack only where a link is smaller.
        expect(result.verdict).toBe(TC.REDIRECT);
        const reply = dissect(result.data);
        expect(reply).toMatchObject({ src: NET.uplink[family], dst: NET.client[family], ...good });
        const large = name === 'too large';
        const [type, code] = family === 4 ? (large ? [3, 4] : [11, 0]) : large ? [2, 0] : [3, 0];
        expect([reply.l4[0], reply.l4[1]]).toEqual([type, code]);
        if (large) expect(new DataView(reply.l4.buffer, reply.l4.byteOffset).getUint32(4)).toBe(1500);
        expect(dissectL3(reply.l4.subarray(8))).toMatchObject({
          src: NET.client[family],
          dst: EXTERNAL[family],
        });
      });

      test('drain: what is open goes on, nothing new is taken', () => {
        ingress(packet(to(CLUSTER_IP)));
        const flags = world.settings.flags;
        world.settings.flags = flags | ABI.S_DRAIN;
        expect(dissect(ingress(packet(to(CLUSTER_IP, { flags: 'A' }))).data).dst).toBe(backend);
        const fresh = packet(to(CLUSTER_IP, { sport: 40001 }));
        expect(ingress(fresh).data).toEqual(fresh);
        world.settings.flags = flags;
      });
    });

    describe.each(PROTOCOLS)('ICMP errors about %s', (proto) => {
      const error = (src: string, dst: string, quoted: Uint8Array): Uint8Array => {
        // Too big: RFC 792 type 3 code 4, RFC 4443 type 2.
        const icmp = family === 4 ? { type: 3, code: 4, rest: 1400 } : { type: 2, code: 0, rest: 1400 };
        return packet({ src, dst, proto: 'icmp', icmp, payload: quoted });
      };
      const l3 = (frame: Uint8Array) => frame.subarray(14);
      const quotedIn = (frame: Uint8Array) => dissectL3(dissect(frame).l4.subarray(8));

      test('from the backend side, masqueraded: back to the client', () => {
        const asked = {
          src: NET.client[family],
          dst: EXTERNAL[family],
          sport: 40000,
          dport: 80,
          proto,
        } as const;
        const there = ingress(packet(asked));
        const out = egress(there.data);
        const sent = dissect(out.data);
        const inward = ingress(error(ROUTER[family], sent.src, l3(out.data)), down);
        expect(dissect(inward.data)).toMatchObject({ src: ROUTER[family], dst: NET.client[family], ...good });
        const home = egress(inward.data, up);
        expect(dissect(home.data)).toMatchObject({ src: ROUTER[family], dst: NET.client[family], ...good });
        expect(l3(home.data).subarray(family === 4 ? 28 : 48)).toEqual(datagram(asked));
        expect(quotedIn(home.data)).toMatchObject(good);
      });

      test('from the client side: on to the backend', () => {
        const asked = {
          src: NET.client[family],
          dst: EXTERNAL[family],
          sport: 40000,
          dport: 80,
          proto,
        } as const;
        const sent = dissect(egress(ingress(packet(asked)).data).data);
        const reply = packet(answer(sent));
        const home = egress(ingress(reply, down).data, up);
        const inward = ingress(error(ROUTER[family], EXTERNAL[family], l3(home.data)), up);
        expect(dissect(inward.data)).toMatchObject({ src: ROUTER[family], dst: backend, ...good });
        const out = egress(inward.data, down);
        expect(dissect(out.data)).toMatchObject({ src: NET.downlink[family], dst: backend, ...good });
        expect(l3(out.data).subarray(family === 4 ? 28 : 48)).toEqual(l3(reply));
      });

      test('with only eight bytes of the transport quoted', () => {
        const asked = {
          src: NET.client[family],
          dst: EXTERNAL[family],
          sport: 40000,
          dport: 80,
          proto,
        } as const;
        const out = egress(ingress(packet(asked)).data);
        const quoted = l3(out.data).subarray(0, (family === 4 ? 20 : 40) + 8);
        const home = egress(ingress(error(ROUTER[family], dissect(out.data).src, quoted), down).data, up);
        expect(dissect(home.data)).toMatchObject({ dst: NET.client[family], checksumHolds: true });
        expect(l3(home.data).subarray(family === 4 ? 28 : 48)).toEqual(
          datagram(asked).subarray(0, quoted.length),
        );
      });

      test('about nothing of ours: untouched', () => {
        const quoted = datagram({ src: POD[family], dst: ROUTER[family], proto });
        const frame = error(ROUTER[family], POD[family], quoted);
        expect(ingress(frame).data).toEqual(frame);
        expect(egress(frame).data).toEqual(frame);
      });

      test('cut short anywhere: never an error, never another length', () => {
        const asked = {
          src: NET.client[family],
          dst: EXTERNAL[family],
          sport: 40000,
          dport: 80,
          proto,
        } as const;
        const out = egress(ingress(packet(asked)).data);
        const quoted = l3(out.data);
        for (let length = 0; length < quoted.length; length++) {
          const frame = error(ROUTER[family], dissect(out.data).src, quoted.subarray(0, length));
          const result = ingress(frame, down);
          expect(result.verdict).toBe(TC.UNSPEC);
          expect(result.data.length).toBe(frame.length);
        }
      });
    });
  });

  test('no frontend, no NAT port: untouched in both directions', () => {
    const frame = concat(
      ethernet({ src: '10.0.0.9', dst: '10.0.0.1' }, datagram({ src: '10.0.0.9', dst: '10.0.0.1' })),
    );
    expect(ingress(frame).data).toEqual(frame);
    expect(egress(frame).data).toEqual(frame);
  });
});
