/**
 * Client ports that come round: toward a backend's own address while a translated connection has the same two ends behind
 * the node, or toward a frontend that is none any more while the connection from before is remembered.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI, LAYOUTS } from '../../src/dataplane/ebpf/abi.ts';
import type { Pool } from '../../src/dataplane/ebpf/tables.ts';
import type { Family } from '../../src/model/records.ts';
import { loadWorld, NET, TestNet, type World } from '../support/bpf-world.ts';
import { type Dissected, datagram, dissect, dissectL3, type PacketSpec, packet } from '../support/packet.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const TC = { UNSPEC: -1, SHOT: 2 };
const root = skipUnless(privilege() === 'root', 'needs root');
const ip = (v4: string, v6: string) => ({ 4: v4, 6: v6 });
const CLUSTER_IP = ip('10.96.0.10', 'fd96::10');
const MASQUERADED = ip('192.0.2.10', '2001:db8::10');
const WITHDRAWN = ip('192.0.2.11', '2001:db8::11');
const POD = ip('10.244.0.5', 'fd44::5');
const ROUTER = ip('172.16.9.9', 'fd77::9');
const FLAGS = LAYOUTS.tp_conn.members.flags;
const MEMBER = ABI.B_IN_CLUSTER | ABI.B_IN_LOCAL;
const good = { checksumHolds: true, ipChecksumHolds: true };

root.describe('client ports that come round', () => {
  let net: TestNet;
  let world: World;
  let up: number;
  let down: number;
  const withdrawn = new Map<string, { frontend: number; backends: number[] }>();

  beforeAll(async () => {
    net = new TestNet('d');
    world = await loadWorld();
    up = net.device('up0').ifindex;
    down = net.device('dn0').ifindex;
    world.setDevice(up, NET.uplink[4], NET.uplink[6]);
    world.setDevice(down, NET.downlink[4], NET.downlink[6]);
    for (const family of [4, 6] as const) {
      for (const protocol of ['TCP', 'UDP', 'SCTP'] as const) {
        const base = { protocol, port: 80, backends: [[NET.backend(family, 2), 8080]] } as const;
        world.addService({ ...base, address: CLUSTER_IP[family] });
        world.addService({ ...base, address: MASQUERADED[family], flags: ABI.F_MASQ_ALWAYS });
        withdrawn.set(
          `${family} ${protocol.toLowerCase()}`,
          world.addService({ ...base, address: WITHDRAWN[family] }),
        );
      }
    }
  });
  afterAll(() => {
    world?.close();
    net?.leave();
  });
  beforeEach(() => world.forget());

  const ingress = (spec: PacketSpec, device = up) =>
    dissect(world.tc('tp_ingress', packet(spec), device).data);
  const conns = () => world.tables.conns.bytes;
  /** Through the node, from one side to the other. */
  const through = (spec: PacketSpec, from = up, to = down) => {
    const inside = world.tc('tp_ingress', packet(spec), from);
    expect(inside.verdict).toBe(TC.UNSPEC);
    const out = world.tc('tp_egress', inside.data, to);
    expect(out.verdict).toBe(TC.UNSPEC);
    return { inside: dissect(inside.data), out: dissect(out.data), frame: out.data };
  };

  describe.each([4, 6] as const)('IPv%i', (family: Family) => {
    describe.each(['tcp', 'udp', 'sctp'] as const)('%s', (proto) => {
      const backend = NET.backend(family, 2);
      const from = (dst: string, dport: number, flags: string, sport = 40000): PacketSpec => ({
        ...{ src: POD[family], dst, sport, dport, proto, flags, payload: new Uint8Array([1, 2, 3]) },
      });
      const direct = (flags = 'S', sport = 40000) => from(backend, 8080, flags, sport);
      const answer = (got: Dissected, flags = 'SA'): PacketSpec => ({
        ...{ src: got.dst, dst: got.src, sport: got.dport, dport: got.sport, proto, flags },
        payload: new Uint8Array([7, 7, 7]),
      });
      const home = (got: Dissected, flags?: string) => through(answer(got, flags), down, up).out;
      const client = { dst: POD[family], dport: 40000, ...good };
      const itself = { src: backend, sport: 8080, ...client };
      const others = { src: POD[family], dst: backend, dport: 8080, ...good };

      test.each([
        ['as it came', CLUSTER_IP],
        ['masqueraded', MASQUERADED],
      ])('directly, beside a connection that goes on %s: both have their answers', (_, frontend) => {
        const first = through(from(frontend[family], 80, 'S')).out;
        const { inside, out } = through(direct());
        // Already where netfilter sees it, which would take the two for one.
        expect(inside).toMatchObject(others);
        expect(inside.sport).toBeGreaterThanOrEqual(61000);
        expect(out).toMatchObject({ ...others, sport: inside.sport });
        expect(home(out)).toMatchObject(itself);
        expect(home(first)).toMatchObject({ src: frontend[family], sport: 80, ...client });
        // And so it stays, whoever of the two speaks.
        expect(through(from(frontend[family], 80, 'A')).out).toMatchObject({
          src: first.src,
          sport: first.sport,
        });
        expect(through(direct('A')).out).toMatchObject({ ...others, sport: inside.sport });
        expect(world.connections()).toHaveLength(2);
      });

      test('by way of two frontends: it goes on from no port from which the client itself speaks', () => {
        // A tenth of the ports that it may have.
        for (let port = 61_000; port < 61_450; port++) through(from(CLUSTER_IP[family], 80, 'S', port));
        for (let port = 40_000; port < 40_060; port++) {
          through(from(CLUSTER_IP[family], 80, 'S', port));
          const { out } = through(from(WITHDRAWN[family], 80, 'S', port));
          expect(out.sport).toBeGreaterThanOrEqual(61_000);
          const wanted = { src: WITHDRAWN[family], sport: 80, dst: POD[family], dport: port, ...good };
          expect(home(out)).toMatchObject(wanted);
        }
      });

      test('the direct one goes on from its port when the other is no more', () => {
        through(from(CLUSTER_IP[family], 80, 'S'));
        const { out } = through(direct());
        const [entry] = world.connections().filter(({ at }) => (conns()[at + FLAGS]! & ABI.C_DIRECT) === 0);
        conns().fill(0, entry!.at, entry!.at + LAYOUTS.tp_conn.bytes);
        expect(through(direct('A')).out).toMatchObject({ ...others, sport: out.sport });
        expect(home(out, 'A')).toMatchObject(itself);
        // Another one to the frontend has the port for itself.
        expect(through(from(CLUSTER_IP[family], 80, 'S')).out).toMatchObject({ ...others, sport: 40000 });
        expect(through(direct('A')).out).toMatchObject({ ...others, sport: out.sport });
      });

      test('while programs over older tables stand before ours, what they have translated is theirs', () => {
        through(from(CLUSTER_IP[family], 80, 'S'));
        const flags = world.settings.flags;
        world.settings.flags = flags | ABI.S_OLDER;
        expect(ingress(direct())).toMatchObject({ ...others, sport: 40000 });
        world.settings.flags = flags;
        expect(world.connections()).toHaveLength(1);
      });

      test('from another port, or to another one of the backend: as it is', () => {
        through(from(CLUSTER_IP[family], 80, 'S'));
        expect(through(direct('S', 40001)).out).toMatchObject({ ...others, sport: 40001 });
        expect(through(from(backend, 8081, 'S')).out).toMatchObject({ sport: 40000, dport: 8081, ...good });
        expect(world.connections()).toHaveLength(1);
      });

      test('an ICMP error about it, from either side: about the packet that its end has sent', () => {
        through(from(CLUSTER_IP[family], 80, 'S'));
        const asked = direct();
        const there = through(asked);
        const icmp = family === 4 ? { type: 3, code: 4, rest: 1400 } : { type: 2, code: 0, rest: 1400 };
        const error = (dst: string, frame: Uint8Array): PacketSpec => ({
          ...{ src: ROUTER[family], dst, proto: 'icmp', icmp, payload: frame.subarray(14) },
        });
        const quoted = (got: Dissected) => dissectL3(got.l4.subarray(8));
        const toClient = through(error(POD[family], there.frame), down, up).out;
        expect(toClient).toMatchObject({ src: ROUTER[family], dst: POD[family], ...good });
        expect(quoted(toClient)).toMatchObject({ src: POD[family], sport: 40000, dst: backend, dport: 8080 });
        const back = through(answer(there.out), down, up);
        const toBackend = through(error(backend, back.frame)).out;
        expect(toBackend).toMatchObject({ src: ROUTER[family], dst: backend, ...good });
        expect(quoted(toBackend)).toMatchObject({ src: backend, sport: 8080, dport: there.out.sport });
        expect(datagram(asked).length).toBe(toClient.l4.length - 8);
      });

      test('what was open before the frontend was withdrawn goes on; another one is no more of ours', () => {
        const { frontend, backends } = withdrawn.get(`${family} ${proto}`)!;
        const flip = (pool: Pool) => {
          for (const side of ['inside', 'outside'] as const) world.tables.flip(frontend, side, pool);
        };
        const first = through(from(WITHDRAWN[family], 80, 'S')).out;
        flip({ base: 0, count: 0, answer: ABI.GONE });
        expect(ingress(from(WITHDRAWN[family], 80, 'A')).dst).toBe(backend);
        // UDP goes on as long as its backend does.
        if (proto === 'udp') for (const index of backends) world.tables.setBackendFlags(index, 0);
        else home(first, 'R');
        for (const flags of ['S', 'A', 'A'])
          expect(ingress(from(WITHDRAWN[family], 80, flags)), flags).toMatchObject({
            dst: WITHDRAWN[family],
          });
        for (const index of backends) world.tables.setBackendFlags(index, MEMBER);
        flip(world.addPool(backends, ABI.CLUSTER));
      });

      if (proto === 'udp') return;
      test('over: the next one has the port again, whichever way it goes', () => {
        const first = through(from(CLUSTER_IP[family], 80, 'S')).out;
        const { out } = through(direct());
        home(out, 'R');
        expect(through(direct()).out.sport).not.toBe(40000);
        home(first, 'R');
        home(through(direct('A')).out, 'R');
        expect(through(direct()).out).toMatchObject({ ...others, sport: 40000 });
        expect(home(through(direct('A')).out, 'A')).toMatchObject(itself);
      });

      test('begun before the other one: left as it is', () => {
        through(from(CLUSTER_IP[family], 80, 'S'));
        expect(through(direct('A')).out).toMatchObject({ ...others, sport: 40000 });
        expect(world.connections()).toHaveLength(1);
      });
    });
  });
});
