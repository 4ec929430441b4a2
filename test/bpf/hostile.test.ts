/** Packets that lie about themselves. What is rewritten must have been whole; nothing else may change. */
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { dissect, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2, REDIRECT: 7 };
const XDP = { DROP: 1, PASS: 2, TX: 3, REDIRECT: 4 };
const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp', 'sctp'] as const;
const VIP = { 4: '192.0.2.10', 6: '2001:db8::10' };

root.describe('hostile packets', () => {
  let net: TestNet;
  let world: World;
  let up: number;

  beforeAll(async () => {
    net = new TestNet('h');
    world = await loadWorld();
    up = net.device('up0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(net.device('dn0').ifindex, NET.downlink[4], NET.downlink[6]);
    for (const family of FAMILIES)
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const)
        world.addService({
          ...{ address: VIP[family], port: 80, protocol, flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP },
          backends: [[NET.backend(family, 2), 8080]],
        });
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  describe.each(FAMILIES)('IPv%i', (family) => {
    const l3 = 14;
    const l4 = l3 + (family === 4 ? 20 : 40);

    describe.each(PROTOCOLS)('%s', (proto) => {
      const spec = (extra: Partial<PacketSpec> = {}): PacketSpec => ({
        ...{ src: NET.client[family], dst: VIP[family], sport: 40000, dport: 80, proto },
        payload: new Uint8Array(24).fill(5),
        ...extra,
      });
      /** Longer than its headers say: Ethernet pads, and the rest is not the datagram's. */
      const untouched = (frame: Uint8Array, why: string) => {
        const tc = world.tc('tp_ingress', frame, up);
        expect([tc.verdict, tc.data], `tc, ${why}`).toEqual([TC.UNSPEC, frame]);
        const xdp = world.xdp('tp_xdp', frame, up);
        expect([xdp.verdict, xdp.data], `XDP, ${why}`).toEqual([XDP.PASS, frame]);
      };

      test('a datagram longer than its frame, or shorter than its own headers', () => {
        const whole = packet(spec());
        const total = whole.length - (family === 4 ? l3 : l4);
        const at = family === 4 ? l3 + 2 : l3 + 4;
        const shortest = { tcp: 20, udp: 8, sctp: 16 }[proto] + (family === 4 ? 20 : 0);
        for (const length of [0, 1, shortest - 1, total + 1, 0xffff]) {
          const frame = Uint8Array.from(whole);
          new DataView(frame.buffer).setUint16(at, length);
          untouched(frame, `length ${length}`);
        }
      });

      test('a version, a header length or a transport length that cannot be', () => {
        const lies: [number, number][] = [
          [l3, family === 4 ? 0x65 : 0x40],
          ...(family === 4
            ? ([
                [l3, 0x44],
                [l3, 0x4f],
                [l3, 0x40],
              ] as [number, number][])
            : []),
          ...(proto === 'tcp'
            ? ([
                [l4 + 12, 0x00],
                [l4 + 12, 0x40],
                [l4 + 12, 0xf0],
              ] as [number, number][])
            : []),
          ...(proto === 'udp'
            ? ([
                [l4 + 5, 7],
                [l4 + 4, 0xff],
              ] as [number, number][])
            : []),
        ];
        for (const [offset, value] of lies) {
          const frame = packet(spec());
          frame[offset] = value;
          untouched(frame, `byte ${offset} is ${value}`);
        }
      });

      test('whatever any byte says: nothing grows, and what was right stays right', () => {
        const change = fc.tuple(fc.integer({ min: 12, max: l4 + 30 }), fc.integer({ min: 0, max: 255 }));
        fc.assert(
          fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), fc.boolean(), (changes, cut) => {
            world.forget();
            const frame = packet(spec());
            for (const [at, value] of changes) frame[at] = value;
            const given = cut ? frame.subarray(0, Math.max(l4, frame.length - 9)) : frame;
            const tc = world.tc('tp_ingress', given, up);
            expect(Object.values(TC)).toContain(tc.verdict);
            const xdp = world.xdp('tp_xdp', given, up);
            expect(Object.values(XDP)).toContain(xdp.verdict);
            for (const { verdict, data } of [tc, xdp]) {
              if (verdict === TC.REDIRECT || verdict === TC.SHOT) continue;
              expect(data.length).toBe(given.length);
              const before = sums(given);
              if (Buffer.compare(data, given) !== 0 && before) expect(sums(data)).toEqual(before);
            }
          }),
          { numRuns: 200 },
        );
      });
    });
  });
});

/** Which sums hold; null: it is no packet that can be read. */
function sums(frame: Uint8Array): { transport: boolean; header: boolean } | null {
  try {
    const { proto, l4, checksumHolds, ipChecksumHolds } = dissect(frame);
    // Sums over fragments say nothing, and those of other protocols are not ours.
    if (![6, 17, 132].includes(proto) || l4.length < 8) return null;
    return { transport: checksumHolds, header: ipChecksumHolds };
  } catch {
    return null;
  }
}
