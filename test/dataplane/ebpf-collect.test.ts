import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { ABI, TOMB } from '../../src/dataplane/ebpf/abi.ts';
import { TableMaps } from '../../src/dataplane/ebpf/maps.ts';
import { readTableConnections } from '../../src/dataplane/ebpf/readback.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { hz, Subject } from '../support/ebpf-tables.ts';
import { dissect, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const XDP_REDIRECT = 4;
const LAST_SEEN = 32 / 4;
const CONN_WORDS = 16;

root.describe('collection', () => {
  let net: TestNet;
  let world: World;
  let subject: Subject;
  let up: number;

  beforeAll(async () => {
    net = new TestNet('g');
    world = await loadWorld({ hz: hz() });
    subject = new Subject(new TableMaps(world.object.maps(), world.knobs.seed));
    up = net.device('up0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(net.device('dn0').ifindex, NET.downlink[4], NET.downlink[6]);
    for (const protocol of ['TCP', 'UDP', 'SCTP'] as const)
      for (const family of [4, 6] as const)
        world.addService({
          address: family === 4 ? '192.0.2.10' : '2001:db8::10',
          port: 80,
          protocol,
          flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP,
          backends: [2, 3, 4].map((n) => [NET.backend(family, n), 8080] as const),
        });
  });
  afterAll(() => {
    subject?.clock.close();
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  interface Flow {
    readonly proto: 'tcp' | 'udp' | 'sctp';
    readonly family: 4 | 6;
    readonly sport: number;
  }

  /** Where the packet went: backend and NAT port; null: it was not forwarded. */
  function send({ proto, family, sport }: Flow, flags = 'A'): string | null {
    const frame = packet({
      ...{
        src: NET.client[family],
        dst: family === 4 ? '192.0.2.10' : '2001:db8::10',
        sport,
        dport: 80,
        proto,
      },
      ...(proto === 'udp' ? {} : { flags }),
    });
    const result = world.xdp('tp_xdp', frame, up);
    if (result.verdict !== XDP_REDIRECT) return null;
    const out = dissect(result.data);
    return `${out.dst} ${out.sport}`;
  }

  /** All connections have been silent for so many seconds more. */
  function age(seconds: number): void {
    const { words } = world.tables.conns;
    for (const { index } of world.connections()) words[index * CONN_WORDS + LAST_SEEN]! -= seconds;
  }

  test('what is silent for too long goes in two steps, and takes its keys along', () => {
    const flows: Flow[] = Array.from({ length: 40 }, (_, i) => ({
      proto: (['udp', 'tcp', 'sctp'] as const)[i % 3]!,
      family: i % 4 < 2 ? 4 : 6,
      sport: 40_000 + i,
    }));
    for (const flow of flows) expect(send(flow, 'S')).not.toBeNull();
    subject.collector.pass();
    subject.collector.pass();
    expect(world.connections()).toHaveLength(40);
    expect(subject.collector.last).toMatchObject({ live: 40, masqueraded: 40 });
    expect(readTableConnections(subject.compiler.maps, hz())).toHaveLength(40);
    age(500);
    subject.collector.pass();
    // Marked, and still there for a packet.
    expect(world.connections()).toHaveLength(0);
    const first = send(flows[1]!);
    expect(world.connections()).toHaveLength(1);
    subject.collector.pass();
    expect(subject.collector.last).toMatchObject({ live: 1, freed: 39 });
    expect(send(flows[1]!)).toBe(first);
    age(1_000_000);
    subject.collector.pass();
    subject.collector.pass();
    expect(subject.collector.last.live).toBe(0);
    world.tables.conns.bytes.forEach((_, at) => {
      if (at % 64 === 0) expect(world.tables.conns.words[at / 4]).toBe(0);
    });
    expect(world.tables.nat.words.every((word) => word === 0)).toBe(true);
  });

  test('connections that netfilter sees take their places in tp_pairs along', () => {
    for (const family of [4, 6] as const) {
      const address = family === 4 ? '10.96.0.10' : 'fd96::10';
      world.addService({ address, port: 80, backends: [[NET.backend(family, 5), 8080]] });
      for (let sport = 5000; sport < 5040; sport++)
        world.tc(
          'tp_ingress',
          packet({ src: NET.client[family], dst: address, sport, dport: 80, flags: 'S' }),
          up,
        );
    }
    const taken = () => world.tables.pairs.longs.filter((word) => word !== 0n && word !== TOMB).length;
    expect(taken()).toBe(80);
    age(500);
    subject.collector.pass();
    subject.collector.pass();
    expect(subject.collector.last.live).toBe(0);
    expect(taken()).toBe(0);
  });

  test('nothing that lives is ever taken down, whatever happens in between', () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.nat(11).map((n) => ({ do: 'send', n }) as const) },
      { weight: 2, arbitrary: fc.constant({ do: 'pass' } as const) },
      { weight: 1, arbitrary: fc.constantFrom(1, 100, 500_000).map((n) => ({ do: 'age', n }) as const) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        world.forget();
        // Each flow's place, and whether its entry may have gone since.
        const known = new Map<number, { where: string; quietSeconds: number }>();
        for (const one of steps) {
          if (one.do === 'pass') {
            subject.collector.pass();
          } else if (one.do === 'age') {
            age(one.n);
            for (const flow of known.values()) flow.quietSeconds += one.n;
          } else {
            const flow: Flow = { proto: 'tcp', family: one.n % 2 ? 4 : 6, sport: 41_000 + one.n };
            const before = known.get(one.n);
            const where = send(flow, before ? 'A' : 'S')!;
            expect(where).not.toBeNull();
            // SYN_SENT lasts two minutes here, so an entry that was used since is the same one.
            if (before && before.quietSeconds < 110) expect(where).toBe(before.where);
            known.set(one.n, { where, quietSeconds: 0 });
          }
        }
      }),
      { numRuns: 100 },
    );
  });
});
