import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { BALANCER_CIDRS, balancerAddress, serviceAddress } from '../../src/lab/plan.ts';
import type { Family } from '../../src/model/records.ts';
import { type Hook, LiveWorld } from '../support/live-world.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const FAMILIES = [4, 6] as const;
const PROTOCOLS = ['tcp', 'udp'] as const;
const ECHO_PORT = 9000;
/** Host numbers of the cluster IPs. */
const IP = { local: 10, remote: 11, self: 12, reject: 13, drop: 14, host: 15 } as const;
/** Host numbers of the load-balancer addresses. */
const LB = { remote: 20, kept: 21, local: 22 } as const;
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

  describe.each(['tcx', 'clsact'] as Hook[])('%s', (hook) => {
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

        test('hairpin: a pod reaches itself under the node\'s address', async () => {
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
          const ask = (address: string, port: number) => node().ask(proto, address, port, { socket: 'unconnected' });
          const good = { outcome: 'ok', peer: nodeAddress() };
          expect(await ask(service(IP.local), 80)).toMatchObject({ ...good, name: 'b' });
          expect(await ask(service(IP.remote), 80)).toMatchObject({ ...good, name: 'c' });
          expect(await ask(nodeAddress(), NODE_PORT)).toMatchObject({ ...good, name: 'c' });
          expect(await ask(nodeAddress(), NODE_PORT + 1)).toMatchObject({ ...good, name: 'b' });
          expect(await ask(service(IP.host), 80)).toMatchObject({ ...good, name: 'n1' });
        });

        test('a server on the node\'s own network', async () => {
          expect(await pod('a').ask(proto, service(IP.host), 80)).toMatchObject({ outcome: 'ok', name: 'n1' });
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
        const before = live.world.counter('icmp_translated');
        const send = (from: 'a' | 'client', address: string) =>
          live.send(live.lab.place(from), 'tcp', address, ECHO_PORT, 200_000);
        await live.mtu('n2', 'vethc', 1300);
        expect(await send('client', balancerAddress(family, LB.remote))).toBe('200000');
        expect(await send('a', service(IP.remote))).toBe('200000');
        await live.mtu('n2', 'vethc', 1500);
        await live.mtu('fabric', 'client', 1290);
        expect(await send('client', balancerAddress(family, LB.kept))).toBe('200000');
        expect(await send('client', balancerAddress(family, LB.remote))).toBe('200000');
        await live.mtu('fabric', 'client', 1500);
        expect(live.world.counter('icmp_translated')).toBeGreaterThan(before);
      });
    });
  });
});
