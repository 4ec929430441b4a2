import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import type { Place } from '../../src/lab/place.ts';
import { BALANCER_CIDRS, balancerAddress, serviceAddress } from '../../src/lab/plan.ts';
import { applySettings } from '../../src/lab/run.ts';
import type { Family } from '../../src/model/records.ts';
import { loadWorld, type World } from '../support/bpf-world.ts';
import { HAS_TCX, NO_PROGRAMS, NO_TCX, TAKES_PROGRAMS } from '../support/kernel-age.ts';
import { type Hook, LiveWorld } from '../support/live-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(
  privilege() === 'root' && TAKES_PROGRAMS,
  TAKES_PROGRAMS ? 'needs root' : NO_PROGRAMS,
);
/** As the product takes it. */
const BEST_HOOK: Hook = HAS_TCX ? 'tcx' : 'clsact';
const hooks = { tcx: skipUnless(HAS_TCX, NO_TCX), clsact: skipUnless(true, '') } as const;
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp'] as const;
const ECHO_PORT = 9000;
/** Host numbers of the cluster IPs. */
const IP = { local: 10, remote: 11, self: 12, reject: 13, drop: 14, host: 15 } as const;
/** Host numbers of the load-balancer addresses. */
const LB = { remote: 20, kept: 21, local: 22, moved: 23 } as const;
const NODE_PORT = 30080;
const HOST_PORT = 7000;

root.describe('live traffic', () => {
  let live: LiveWorld;

  function addServices(family: Family): void {
    const { world } = live;
    const address = (pod: string) => live.lab.pod(pod).addresses[family]!;
    const node = live.lab.node('n1').addresses[family]!;
    for (const protocol of ['TCP', 'UDP'] as const) {
      for (const port of [80, ECHO_PORT]) {
        const [a, b, c] = (['a', 'b', 'c'] as const).map((pod) => [address(pod), port, pod !== 'c'] as const);
        const own = (host: number) => ({ protocol, port, address: serviceAddress(family, host) });
        const strangers = { flags: ABI.F_MASQ_STRANGERS };
        world.addService({ ...own(IP.local), ...strangers, backends: [b!] });
        world.addService({ ...own(IP.remote), ...strangers, backends: [c!] });
        world.addService({ ...own(IP.self), ...strangers, backends: [a!] });
        world.addService({ ...own(IP.reject), inside: 'reject', outside: 'reject' });
        world.addService({ ...own(IP.drop), inside: 'drop', outside: 'drop' });
        const balanced = (host: number) => ({ protocol, port, address: balancerAddress(family, host) });
        const always = { flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP };
        world.addService({ ...balanced(LB.remote), ...always, backends: [c!] });
        world.addService({ ...balanced(LB.local), ...always, backends: [b!] });
        world.addService({ ...balanced(LB.kept), outside: 'local', backends: [b!] });
      }
      const always = { protocol, address: node, flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP };
      world.addService({ ...always, port: NODE_PORT, backends: [[address('c'), 80]] });
      world.addService({ ...always, port: NODE_PORT + 1, backends: [[address('b'), 80, true]] });
      world.addService({
        ...{ protocol, port: 80, address: serviceAddress(family, IP.host), flags: ABI.F_MASQ_STRANGERS },
        backends: [[node, HOST_PORT, true]],
      });
    }
  }

  beforeAll(async () => {
    live = await LiveWorld.create('live');
    for (const family of FAMILIES) {
      addServices(family);
      await live.lab.route(BALANCER_CIDRS[family], 'n1');
      for (const pod of ['b', 'c'])
        for (const proto of PROTOCOLS) await live.echo(live.lab.pod(pod), proto, family, ECHO_PORT);
    }
    await live.lab.listen('n1', [`tcp:${HOST_PORT}`, `udp:${HOST_PORT}`]);
  }, 60_000);
  afterAll(() => live?.remove());
  beforeEach(() => live.world.forget());
  // Nothing that passes is ever found invalid by a firewall between the two halves.
  afterEach(async () => expect(await live.foreignDrops()).toBe(0));

  const throughTc = (hook: Hook) => {
    beforeAll(() => live.attach(hook));
    afterAll(() => live.detach());

    describe.each(FAMILIES)('IPv%i', (family) => {
      const service = (host: number) => serviceAddress(family, host);
      const pod = (name: string) => live.lab.pod(name);
      const client = () => live.lab.client;
      const node = () => live.lab.node('n1');
      const nodeAddress = () => node().addresses[family]!;

      describe.each(PROTOCOLS)('%s', (proto) => {
        test('a pod to a cluster IP keeps its address', async () => {
          const mine = pod('a').addresses[family];
          const one = await pod('a').ask(proto, service(IP.local), 80);
          expect(one).toMatchObject({ outcome: 'ok', name: 'b', peer: mine });
          const other = await pod('a').ask(proto, service(IP.remote), 80, { socket: 'unconnected' });
          expect(other).toMatchObject({ outcome: 'ok', name: 'c', peer: mine });
        });

        test('many connections', async () => {
          const count = 300;
          const result = await pod('a').call(proto, service(IP.remote), 80, { count, concurrency: 8 });
          expect(result.outcomes).toMatchObject({ ok: count });
          const outside = await client().call(proto, balancerAddress(family, LB.remote), 80, {
            ...{ count, concurrency: 8, close: 'fin' as const },
          });
          expect(outside.outcomes).toMatchObject({ ok: count });
        });

        if (proto === 'tcp') {
          test.each([
            ['rst', 42000],
            ['fin', 42001],
            ['server', 42002],
          ] as const)(
            'one client port by a cluster IP and straight to its pod, closed by %s',
            async (close, sourcePort) => {
              const options = { close, sourcePort, timeoutMs: 2000 };
              for (const to of [service(IP.remote), pod('c').addresses[family]!, service(IP.remote)]) {
                expect(await pod('a').ask(proto, to, 80, options)).toMatchObject({
                  outcome: 'ok',
                  name: 'c',
                });
                await live.closed([pod('a'), pod('c')], sourcePort);
              }
            },
          );
        }

        test('what senders have left to their devices, a device that cannot finish it sends on right', async () => {
          const devices = ['eth0', 'vetha', 'vethb'];
          const finish = (state: 'on' | 'off') =>
            applySettings([
              `netns /run/netns/${node().namespace}`,
              ...devices.map((device) => `txcsum ${device} ${state}`),
            ]);
          // The node's stack finishes the sums then, and the receivers verify them.
          await finish('off');
          try {
            const ask = (from: Place, address: string) => from.ask(proto, address, 80);
            for (const host of [IP.local, IP.remote, IP.self])
              expect(await ask(pod('a'), service(host))).toMatchObject({ outcome: 'ok' });
            for (const host of [LB.local, LB.remote, LB.kept])
              expect(await ask(client(), balancerAddress(family, host))).toMatchObject({ outcome: 'ok' });
          } finally {
            await finish('on');
          }
        });

        test("hairpin: a pod reaches itself under the node's address", async () => {
          const result = await pod('a').ask(proto, service(IP.self), 80);
          expect(result).toMatchObject({ outcome: 'ok', name: 'a', peer: nodeAddress() });
        });

        test('from outside, masqueraded or not', async () => {
          const masqueraded = { outcome: 'ok', peer: nodeAddress() };
          const ask = (address: string, port: number) => client().ask(proto, address, port);
          expect(await ask(nodeAddress(), NODE_PORT)).toMatchObject({ ...masqueraded, name: 'c' });
          expect(await ask(nodeAddress(), NODE_PORT + 1)).toMatchObject({ ...masqueraded, name: 'b' });
          expect(await ask(balancerAddress(family, LB.remote), 80)).toMatchObject(masqueraded);
          expect(await ask(balancerAddress(family, LB.local), 80)).toMatchObject(masqueraded);
          expect(await ask(balancerAddress(family, LB.kept), 80)).toMatchObject({
            ...{ outcome: 'ok', name: 'b', peer: client().addresses[family] },
          });
        });

        test('refused aloud', async () => {
          expect(await pod('a').ask(proto, service(IP.reject), 80)).toMatchObject({ outcome: 'refused' });
          await live.lab.route(`${service(IP.reject)}/${family === 4 ? 32 : 128}`, 'n1');
          expect(await client().ask(proto, service(IP.reject), 80)).toMatchObject({ outcome: 'refused' });
          expect(await node().ask(proto, service(IP.reject), 80)).toMatchObject({ outcome: 'refused' });
          const silent = await pod('a').ask(proto, service(IP.drop), 80, { timeoutMs: 300 });
          expect(silent).toMatchObject({ outcome: 'timeout' });
        });

        test('a process of the node', async () => {
          const ask = (address: string, port: number) =>
            node().ask(proto, address, port, { socket: 'unconnected' });
          const good = { outcome: 'ok', peer: nodeAddress() };
          expect(await ask(service(IP.local), 80)).toMatchObject({ ...good, name: 'b' });
          expect(await ask(service(IP.remote), 80)).toMatchObject({ ...good, name: 'c' });
          expect(await ask(nodeAddress(), NODE_PORT)).toMatchObject({ ...good, name: 'c' });
          expect(await ask(nodeAddress(), NODE_PORT + 1)).toMatchObject({ ...good, name: 'b' });
          expect(await ask(service(IP.host), 80)).toMatchObject({ ...good, name: 'n1' });
        });

        test("a server on the node's own network", async () => {
          expect(await pod('a').ask(proto, service(IP.host), 80)).toMatchObject({
            outcome: 'ok',
            name: 'n1',
          });
        });

        test('much, in both directions', async () => {
          const size = proto === 'udp' ? 4000 : 300_000;
          const send = (place: 'a' | 'client' | 'n1', address: string) =>
            live.send(live.lab.place(place), proto, address, ECHO_PORT, size);
          expect(await send('a', service(IP.local))).toBe(String(size));
          expect(await send('a', service(IP.remote))).toBe(String(size));
          expect(await send('client', balancerAddress(family, LB.remote))).toBe(String(size));
          expect(await send('client', balancerAddress(family, LB.kept))).toBe(String(size));
          expect(await send('n1', service(IP.remote))).toBe(String(size));
        });
      });

      test('a link that carries less: the sender hears of it, whoever it is', async () => {
        await live.forgetPaths();
        const before = live.world.counter('icmp_translated');
        const send = (from: 'a' | 'client', address: string) =>
          live.send(live.lab.place(from), 'tcp', address, ECHO_PORT, 200_000);
        // An IPv6 sender does not forget what it was told, so each hook has others.
        const mtu = hook === 'tcx' ? { pod: 1340, client: 1335 } : { pod: 1330, client: 1325 };
        const toPod = await live.narrow('n2', 'vethc', pod('c').addresses[family]!, mtu.pod);
        try {
          expect(await send('client', balancerAddress(family, LB.remote))).toBe('200000');
          expect(await send('a', service(IP.remote))).toBe('200000');
        } finally {
          await toPod.undo();
        }
        const toClient = await live.narrow('fabric', 'client', client().addresses[family]!, mtu.client);
        try {
          expect(await send('client', balancerAddress(family, LB.kept))).toBe('200000');
          expect(await send('client', balancerAddress(family, LB.remote))).toBe('200000');
        } finally {
          await toClient.undo();
          await live.forgetPaths();
        }
        expect(live.world.counter('icmp_translated')).toBeGreaterThan(before);
      });
    });
  };
  for (const hook of ['tcx', 'clsact'] as const) hooks[hook].describe(hook, () => throughTc(hook));

  describe.each(['generic', 'native'] as const)('XDP, %s', (mode) => {
    let idle: World;

    beforeAll(async () => {
      // As on a kernel that does not let programs ask its connection tracking.
      idle = await loadWorld({ ctLookup: false });
      await live.checksums('off');
      await live.forgetPaths();
      live.attach(BEST_HOOK);
      live.attachXdp(mode);
      live.attachFabric(idle.programs.tp_xdp!);
      // The neighbours are known: what has none goes by the stack.
      const { lab } = live;
      for (const family of FAMILIES)
        for (const proto of PROTOCOLS) await lab.client.ask(proto, balancerAddress(family, LB.remote), 80);
    });
    afterAll(async () => {
      live.detach();
      idle?.close();
      await live.checksums('on');
    });

    describe.each(FAMILIES)('IPv%i', (family) => {
      const address = (host: number) => balancerAddress(family, host);
      const ask = (proto: 'tcp' | 'udp', host: number) =>
        live.lab.client.call(proto, address(host), 80, { count: 100, concurrency: 4 });

      test.each(PROTOCOLS)('%s to another node, past the stack', async (proto) => {
        const result = await ask(proto, LB.remote);
        expect(result).toMatchObject({ outcomes: { ok: 100 }, pods: { c: 100 } });
        expect(Object.keys(result.peers)).toEqual([live.lab.node('n1').addresses[family]]);
        // A port that the client used twice is one entry.
        expect(live.wholes().whole).toBeGreaterThan(90);
        expect(live.wholes().split).toBe(0);
      });

      test.each(PROTOCOLS)('%s to a pod of this node, by the stack', async (proto) => {
        expect(await ask(proto, LB.local)).toMatchObject({ outcomes: { ok: 100 }, pods: { b: 100 } });
        expect(await ask(proto, LB.kept)).toMatchObject({ outcomes: { ok: 100 }, pods: { b: 100 } });
        expect(live.wholes().whole).toBe(0);
        // Twice the same port toward one address is one entry, and a client that is quick takes some again.
        expect(live.wholes().split).toBeGreaterThan(120);
      });

      test('datagrams in pieces, and streams', async () => {
        const send = (proto: 'tcp' | 'udp', size: number) =>
          live.send(live.lab.client, proto, address(LB.remote), ECHO_PORT, size);
        expect(await send('udp', 4000)).toBe('4000');
        expect(await send('tcp', 300_000)).toBe('300000');
      });

      test('a link that carries less', async () => {
        const narrow = await live.narrow('n2', 'vethc', live.lab.pod('c').addresses[family]!, 1300);
        try {
          const got = await live.send(live.lab.client, 'tcp', address(LB.remote), ECHO_PORT, 200_000);
          expect(got).toBe('200000');
        } finally {
          await narrow.undo();
          await live.forgetPaths();
        }
      });

      test('unfinished checksums are left to tc, which forwards them the same way', async () => {
        await live.checksums('on');
        expect(await ask('tcp', LB.remote)).toMatchObject({ outcomes: { ok: 100 } });
        expect(await ask('udp', LB.remote)).toMatchObject({ outcomes: { ok: 100 } });
        await live.checksums('off');
      });

      test('and what is too large of them is answered as well', async () => {
        const { lab, world } = live;
        const [to, via] = [lab.pod('c'), lab.node('n2')].map((place) => place.addresses[family]!);
        const bits = family === 4 ? 32 : 128;
        const answered = world.counter('icmp_answered');
        // An IPv6 client does not forget what it was told, so each time less.
        const mtu = mode === 'generic' ? 1290 : 1285;
        await live.checksums('on');
        await lab.ip('n1', [`route add ${to}/${bits} via ${via} mtu lock ${mtu}`]);
        world.settings.advanceRoutes();
        try {
          expect(await live.send(lab.client, 'tcp', address(LB.remote), ECHO_PORT, 200_000)).toBe('200000');
          expect(world.counter('icmp_answered')).toBeGreaterThan(answered);
        } finally {
          await lab.ip('n1', [`route del ${to}/${bits} via ${via}`]);
          world.settings.advanceRoutes();
          await live.forgetPaths();
          await live.checksums('off');
        }
      });
    });
  });

  describe('a switch from a dataplane of the kernel', () => {
    const PORT = 80;
    const moved = (family: Family) => balancerAddress(family, LB.moved);

    afterAll(async () => {
      live.detach();
      live.world.settings.flags &= ~ABI.S_ASK_KERNEL;
      await live.lab.node('n1').exec(['nft', 'delete', 'table', 'inet', 'before']);
    });

    test('what the kernel translates stays with it, what is new does not', async () => {
      const rules = FAMILIES.flatMap((family) => {
        const ip = family === 4 ? 'ip' : 'ip6';
        const to = live.lab.pod('c').addresses[family];
        return PROTOCOLS.map(
          (proto) => `${ip} daddr ${moved(family)} ${proto} dport ${PORT} dnat ${ip} to ${to}`,
        );
      });
      const table = `table inet before {
        chain pre { type nat hook prerouting priority -100; ${rules.join('; ')}; }
        chain post { type nat hook postrouting priority 100; oifname "eth0" masquerade; }
      }
`;
      expect((await live.lab.node('n1').exec(['nft', '-f', '-'], table)).stderr).toBe('');
      for (const family of FAMILIES) {
        for (const protocol of ['TCP', 'UDP'] as const)
          live.world.addService({
            ...{ protocol, port: PORT, address: moved(family), flags: ABI.F_MASQ_ALWAYS | ABI.F_XDP },
            backends: [[live.lab.pod('b').addresses[family]!, PORT, true]],
          });
      }
      const everyone = FAMILIES.flatMap((family) =>
        PROTOCOLS.flatMap((proto) =>
          [live.lab.client, live.lab.pod('a')].map((from) => ({ family, proto, from })),
        ),
      );
      // One after the other: of two first packets after a flush of routes the kernel may lose one.
      for (const { family, proto, from } of everyone) await from.ask(proto, moved(family), PORT);
      const holds = await Promise.all(
        everyone.map(({ family, proto, from }) =>
          from.hold(proto, moved(family), PORT, { connections: 3, intervalMs: 20, timeoutMs: 5000 }),
        ),
      );
      for (const [n, hold] of holds.entries()) {
        const { pods } = await hold.established;
        const { family, proto, from } = everyone[n]!;
        expect({ family, proto, from: from.name, pods, failures: hold.failures }).toMatchObject({
          pods: { c: 3 },
        });
      }
      live.world.settings.flags |= ABI.S_ASK_KERNEL;
      const owned = live.world.counter('kernel_owned');
      live.attach(BEST_HOOK);
      live.attachXdp('generic');
      for (const { family, proto, from } of everyone) {
        const result = await from.call(proto, moved(family), PORT, { count: 20 });
        expect(result.pods).toEqual({ b: 20 });
      }
      for (const hold of holds) {
        const { exchanges, moved: changed } = await hold.stop();
        expect(exchanges).toBeGreaterThan(3);
        expect([hold.failures, changed]).toEqual([[], 0]);
      }
      expect(live.world.counter('kernel_owned')).toBeGreaterThan(owned);
    });
  });
});
