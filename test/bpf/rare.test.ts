/** What is rare on the wire: errors about whole connections, chains of extension headers, fragments out of order. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { datagram, dissect, dissectL3, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 };
const XDP_REDIRECT = 4;
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;
const SERVICE = { 4: '10.96.0.10', 6: 'fd96::10' };
const REJECTED = { 4: '10.96.0.11', 6: 'fd96::11' };
const EXTERNAL = { 4: '192.0.2.10', 6: '2001:db8::10' };
const POD = { 4: '10.244.0.5', 6: 'fd44::5' };
const ROUTER = { 4: '172.16.9.9', 6: 'fd77::9' };

root.describe('rare packets', () => {
  let net: TestNet;
  let world: World;
  let up: number;
  let down: number;

  beforeAll(async () => {
    net = new TestNet('r');
    world = await loadWorld();
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down, NET.downlink[4], NET.downlink[6]);
    net.route(`${ROUTER[4]} via ${NET.client[4]} dev up0`);
    net.route(`${ROUTER[6]} via ${NET.client[6]} dev up0`);
    for (const family of FAMILIES)
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const) {
        const base = { protocol, port: 80, backends: [[NET.backend(family, 2), 8080]] } as const;
        world.addService({ ...base, address: SERVICE[family] });
        world.addService({ ...base, address: REJECTED[family], inside: 'reject', outside: 'reject' });
        world.addService({ ...base, address: EXTERNAL[family], flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP });
      }
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  const ingress = (frame: Uint8Array, device = up) => world.tc('tp_ingress', frame, device);
  const egress = (frame: Uint8Array, device = up) => world.tc('tp_egress', frame, device);
  const good = { checksumHolds: true, ipChecksumHolds: true };

  describe.each(FAMILIES)('IPv%i', (family) => {
    const backend = NET.backend(family, 2);
    const l3 = (frame: Uint8Array) => frame.subarray(14);
    const error = (src: string, dst: string, quoted: Uint8Array): Uint8Array => {
      const icmp = family === 4 ? { type: 3, code: 4, rest: 1400 } : { type: 2, code: 0, rest: 1400 };
      return packet({ src, dst, proto: 'icmp', icmp, payload: quoted });
    };
    const quotedIn = (frame: Uint8Array) => dissect(frame).l4.subarray(8);

    describe.each(PROTOCOLS)('%s', (proto) => {
      const to = (dst: { 4: string; 6: string }, extra: Partial<PacketSpec> = {}): PacketSpec => ({
        ...{ src: POD[family], dst: dst[family], sport: 40000, dport: 80, proto },
        payload: new Uint8Array(32).fill(6),
        ...extra,
      });
      const asked = to(EXTERNAL, { src: NET.client[family] });
      const whole = () => {
        const sent = world.xdp('tp_xdp', packet(asked), up);
        expect(sent.verdict).toBe(XDP_REDIRECT);
        return sent.data;
      };

      test('an error about what XDP has sent goes back to the client, who sees the frontend', () => {
        const sent = whole();
        for (const from of [ROUTER[family], backend]) {
          const back = ingress(error(from, dissect(sent).src, l3(sent)), down);
          expect(back.verdict).toBe(TC.REDIRECT);
          const said = from === backend ? EXTERNAL[family] : from;
          expect(dissect(back.data)).toMatchObject({ ...good, src: said, dst: NET.client[family], ttl: 63 });
          // One hop further than its sender knows it; otherwise byte for byte.
          expect(quotedIn(back.data)).toEqual(datagram({ ...asked, ttl: 63 }));
        }
      });

      test('an error about an answer that XDP has sent goes on to the backend, who sees the node', () => {
        const out = dissect(whole());
        const reply: PacketSpec = {
          ...{ src: out.dst, dst: out.src, sport: 8080, dport: out.sport, proto, flags: 'SA' },
          payload: new Uint8Array(8).fill(1),
        };
        const home = world.xdp('tp_xdp', packet(reply), down);
        expect(home.verdict).toBe(XDP_REDIRECT);
        const on = ingress(error(ROUTER[family], EXTERNAL[family], l3(home.data)));
        expect(on.verdict).toBe(TC.REDIRECT);
        expect(dissect(on.data)).toMatchObject({ ...good, src: NET.downlink[family], dst: backend });
        expect(quotedIn(on.data)).toEqual(datagram({ ...reply, ttl: 63 }));
      });

      test('a refusal keeps the tag of the frame that it answers', () => {
        const reply = ingress(packet(to(REJECTED, { vlans: [9], payload: new Uint8Array(4) })));
        expect(reply.verdict).toBe(TC.REDIRECT);
        expect(dissect(reply.data)).toMatchObject({
          ...good,
          vlans: [9],
          src: REJECTED[family],
          dst: POD[family],
        });
        if (proto !== 'tcp')
          expect(dissectL3(quotedIn(reply.data))).toMatchObject({ src: POD[family], dst: REJECTED[family] });
      });

      test('a later fragment before the first is left alone, and counted; afterwards it follows', () => {
        if (proto === 'sctp') return;
        const id = 500 + 10 * family + PROTOCOLS.indexOf(proto);
        const piece = (offset: number, more: boolean) =>
          packet(to(SERVICE, { fragment: { id, offset, more } }));
        const lost = world.counter('fragment_lost');
        const early = ingress(piece(16, false));
        expect(early).toMatchObject({ verdict: TC.UNSPEC, data: piece(16, false) });
        expect(world.counter('fragment_lost')).toBe(lost + 1);
        expect(dissect(ingress(piece(0, true)).data).dst).toBe(backend);
        expect(dissect(ingress(piece(16, false)).data)).toMatchObject({
          dst: backend,
          ipChecksumHolds: true,
        });
        // The answer's fragments come from the frontend.
        const answer = (offset: number, more: boolean) =>
          packet({
            ...{ src: backend, dst: POD[family], sport: 8080, dport: 40000, proto, flags: 'A' },
            ...{ payload: new Uint8Array(32), fragment: { id: id + 1000, offset, more } },
          });
        expect(dissect(egress(answer(0, true)).data).src).toBe(SERVICE[family]);
        expect(dissect(egress(answer(16, false)).data).src).toBe(SERVICE[family]);
      });

      if (family === 6) {
        test('extension headers: as many as are walked, and no more', () => {
          const many = (n: number) =>
            Array.from({ length: n }, () => ({ type: 60, body: new Uint8Array(6) }));
          const five = ingress(packet(to(SERVICE, { extensions: many(5) })));
          expect(dissect(five.data)).toMatchObject({ ...good, dst: backend, dport: 8080 });
          const seven = packet(to(SERVICE, { extensions: many(7) }));
          expect(ingress(seven)).toMatchObject({ verdict: TC.UNSPEC, data: seven });
        });

        test('a routing header that has places left is not ours', () => {
          const routed = packet(
            to(SERVICE, { extensions: [{ type: 43, body: new Uint8Array([0, 1, 0, 0, 0, 0]) }] }),
          );
          expect(ingress(routed)).toMatchObject({ verdict: TC.UNSPEC, data: routed });
          const done = packet(to(SERVICE, { extensions: [{ type: 43, body: new Uint8Array(6) }] }));
          expect(dissect(ingress(done).data).dst).toBe(backend);
        });

        test('a fragment behind other headers; an atomic one is a whole datagram', () => {
          const before = { extensions: [{ type: 0, body: new Uint8Array([5, 2, 0, 0, 1, 0]) }] };
          const atomic = packet(to(SERVICE, { ...before, fragment: { id: 3, offset: 0, more: false } }));
          const got = ingress(atomic);
          // dissect() does not look behind a fragment header, so the destination alone is compared.
          expect(dissect(got.data).dst).toBe(backend);
          if (proto === 'sctp') return;
          const first = packet(to(SERVICE, { ...before, fragment: { id: 4, offset: 0, more: true } }));
          expect(dissect(ingress(first).data).dst).toBe(backend);
        });
      }
    });
  });
});
