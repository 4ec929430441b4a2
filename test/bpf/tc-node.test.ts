/** The node's own processes, which no device brings: translated at egress, both ends at once. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { datagram, dissect, dissectL3, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 };
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;
const SERVICE = { 4: '10.96.0.10', 6: 'fd96::10' };
const REJECTED = { 4: '10.96.0.11', 6: 'fd96::11' };
const GUARDED = { 4: '192.0.2.12', 6: '2001:db8::12' };
const ROUTER = { 4: '172.16.9.9', 6: 'fd77::9' };

root.describe('the node itself, at tc', () => {
  let net: TestNet;
  let world: World;
  let up: number;
  let down: number;

  beforeAll(async () => {
    net = new TestNet('n');
    // As on any node a cluster IP leads out by some route: without one it counts as an address of the node's own.
    net.route(`10.96.0.0/16 via ${NET.client[4]} dev up0`);
    net.route(`fd96::/16 via ${NET.client[6]} dev up0`);
    world = await loadWorld();
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down, NET.downlink[4], NET.downlink[6]);
    for (const family of FAMILIES)
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const) {
        const base = { protocol, port: 80, backends: [[NET.backend(family, 2), 8080]] } as const;
        world.addService({ ...base, address: SERVICE[family] });
        world.addService({ ...base, address: REJECTED[family], inside: 'reject', outside: 'reject' });
        world.addService({ ...base, address: GUARDED[family], flags: ABI.F_GUARDED, guard: 3 });
      }
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => {
    world.forget();
    world.settings.flags = ABI.S_DETECTOR | ABI.S_NODE_EGRESS;
  });

  const egress = (frame: Uint8Array, device = up) => world.tc('tp_egress', frame, device);
  const ingress = (frame: Uint8Array, device = down) => world.tc('tp_ingress', frame, device);
  const good = { checksumHolds: true, ipChecksumHolds: true };

  describe.each(FAMILIES)('IPv%i', (family) => {
    describe.each(PROTOCOLS)('%s', (proto) => {
      const asked = (dst: string, extra: Partial<PacketSpec> = {}): PacketSpec => ({
        ...{ src: NET.uplink[family], dst, sport: 40000, dport: 80, proto },
        payload: new Uint8Array([1, 2, 3, 4]),
        ...extra,
      });

      test('both ends there, both ends back', () => {
        const there = egress(packet(asked(SERVICE[family])));
        expect(there.verdict).toBe(TC.REDIRECT);
        const sent = dissect(there.data);
        expect(sent).toMatchObject({
          ...good,
          // The address that the socket chose: this frontend masquerades nobody.
          src: NET.uplink[family],
          dst: NET.backend(family, 2),
          dport: 8080,
        });
        expect(sent.sport).toBeGreaterThanOrEqual(61000);
        const answer: PacketSpec = {
          ...{ src: sent.dst, dst: sent.src, sport: 8080, dport: sent.sport, proto, flags: 'SA' },
          payload: new Uint8Array([9]),
        };
        const back = ingress(packet(answer));
        expect(back.verdict).toBe(TC.UNSPEC);
        expect(dissect(back.data)).toMatchObject({
          ...{ ...good, src: SERVICE[family], sport: 80, dst: NET.uplink[family], dport: 40000 },
        });
        const again = dissect(egress(packet(asked(SERVICE[family], { flags: 'A' }))).data);
        expect([again.sport, again.dst]).toEqual([sent.sport, sent.dst]);
        expect(world.connections()).toHaveLength(1);
      });

      test('with options or extension headers', () => {
        const extra: Partial<PacketSpec> =
          family === 4
            ? { ipOptions: new Uint8Array([148, 4, 0, 0]) }
            : { extensions: [{ type: 60, body: new Uint8Array(6) }] };
        const there = egress(packet(asked(SERVICE[family], extra)));
        expect(there.verdict).toBe(TC.REDIRECT);
        expect(dissect(there.data)).toMatchObject({ ...good, dst: NET.backend(family, 2) });
      });

      test('every truncation passes untouched', () => {
        const frame = packet(asked(SERVICE[family]));
        for (let length = family === 4 ? 34 : 54; length < frame.length; length++) {
          const cut = frame.subarray(0, length);
          expect(egress(cut), `${length} bytes`).toMatchObject({ verdict: TC.UNSPEC, data: cut });
        }
        expect(world.connections()).toHaveLength(0);
      });

      test('refused aloud; source ranges that do not cover the node are silent', () => {
        const refused = egress(packet(asked(REJECTED[family])));
        expect(refused.verdict).toBe(TC.REDIRECT);
        const reply = dissect(refused.data);
        expect(reply).toMatchObject({ ...good, src: REJECTED[family], dst: NET.uplink[family] });
        if (proto === 'tcp') expect(reply.tcpFlags).toBe(0x14);
        else expect([reply.l4[0], reply.l4[1]]).toEqual(family === 4 ? [3, 3] : [1, 4]);
        expect(egress(packet(asked(GUARDED[family]))).verdict).toBe(TC.SHOT);
      });

      test('an ICMP error from the way gets both ends back', () => {
        const sent = egress(packet(asked(SERVICE[family])));
        const icmp = family === 4 ? { type: 3, code: 4, rest: 1400 } : { type: 2, code: 0, rest: 1400 };
        const error = (src: string) =>
          packet({ src, dst: dissect(sent.data).src, proto: 'icmp', icmp, payload: sent.data.subarray(14) });
        for (const src of [ROUTER[family], NET.backend(family, 2)]) {
          const back = ingress(error(src));
          expect(back.verdict).toBe(TC.UNSPEC);
          const got = dissect(back.data);
          const said = src === ROUTER[family] ? src : SERVICE[family];
          expect(got).toMatchObject({ ...good, src: said, dst: NET.uplink[family] });
          const quoted = got.l4.subarray(8);
          expect(dissectL3(quoted)).toMatchObject({ ...good, src: NET.uplink[family], dst: SERVICE[family] });
          expect(quoted).toEqual(datagram(asked(SERVICE[family])));
        }
      });

      test('what has come by a device is none of it, nor is anything while it is switched off', () => {
        world.settings.flags = ABI.S_DETECTOR;
        const frame = packet(asked(SERVICE[family]));
        expect(egress(frame)).toMatchObject({ verdict: TC.UNSPEC, data: frame });
      });
    });
  });
});
