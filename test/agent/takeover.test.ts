/** A node on which kube-proxy (nftables or iptables mode) has carried traffic until now. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { iptablesRules } from '../support/kube-proxy-rules.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { eventually } from './support/node.ts';
import { expectSound } from './support/sound.ts';
import { IPTABLES, nodeOfKubeProxy } from './support/takeover.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Of kube-proxy's own shape, for one service with one endpoint and its NodePort. */
function kubeProxyRules(clusterIP: string, port: number, nodePort: number, backend: string): string {
  return `table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set mark or 0x4000
  }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set mark xor 0x4000
    masquerade fully-random
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local meta l4proto . th dport vmap @service-nodeports
  }
  chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services
  }
  chain nat-output { type nat hook output priority -100; policy accept; jump services
  }
  chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; jump masquerading
  }
  chain endpoint-5OJB2KTY-default/web/tcp/tcp__${backend}/80 { meta l4proto tcp dnat to ${backend}:80
  }
  chain service-5OJB2KTY-default/web/tcp/tcp {
    jump mark-for-masquerade
    goto endpoint-5OJB2KTY-default/web/tcp/tcp__${backend}/80
  }
}
add element ip kube-proxy service-ips { ${clusterIP} . tcp . ${port} : goto service-5OJB2KTY-default/web/tcp/tcp }
add element ip kube-proxy service-nodeports { tcp . ${nodePort} : goto service-5OJB2KTY-default/web/tcp/tcp }
`;
}

root.describe('taking over from kube-proxy', () => {
  const { world: worldOf, inside, cleanup } = nodeOfKubeProxy({ label: 'swk', families: [4] });

  for (const mode of ['ebpf', 'nft'] as const) {
    root.test(`its connections live on under ${mode}, also when its rules are cleaned up`, async () => {
      const world = worldOf();
      const ways = world
        .ways(4)
        .filter(({ title }) => /pod to a cluster IP|client to a NodePort/.test(title));
      const [{ address, port }, { port: nodePort }] = ways as [(typeof ways)[0], (typeof ways)[0]];
      const backend = world.lab.pod('c').addresses[4]!;
      const rules = kubeProxyRules(address, port, nodePort, backend);
      await inside(['nft', '-f', '-'], rules);
      const holds = await Promise.all(
        ways.map((way) => way.from.hold('tcp', way.address, way.port, { connections: 3, intervalMs: 50 })),
      );
      for (const hold of holds) expect((await hold.established).pods).toEqual({ c: 3 });
      await world.startAgent(mode);
      expect(await cleanup()).toContain('nftables table ip kube-proxy');
      // New ones go to all backends, by our rules.
      for (const way of ways) {
        const { outcomes, pods } = await way.from.call('tcp', way.address, way.port, { count: 40 });
        expect(outcomes.ok).toBe(40);
        expect(Object.keys(pods).length).toBeGreaterThan(1);
      }
      for (const hold of holds) {
        expect((await hold.stop()).exchanges).toBeGreaterThan(3);
        expect(hold.failures).toEqual([]);
      }
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
      expect(world.tables()).toEqual(mode === 'nft' ? ['table ip triplane', 'table ip6 triplane'] : []);
    });
  }
});

/** What others have beside it: a kubelet's chains, a CNI's with jumps before and behind kube-proxy's, a firewall's table. */
const BESIDE = `*mangle
:KUBE-KUBELET-CANARY - [0:0]
:MINE-MARK - [0:0]
-A PREROUTING -m comment --comment "kubernetes, but mine -j KUBE-SERVICES" -j MINE-MARK
-A MINE-MARK -s 198.51.100.0/24 -j MARK --set-xmark 0x4000/0x4000
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-SVC-OF-MINE - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-ROUTER-INPUT
-A FORWARD -j KUBE-SVC-OF-MINE
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-SVC-OF-MINE -m comment --comment "-j KUBE-FORWARD" -m conntrack --ctstate INVALID
-A KUBE-ROUTER-INPUT -p tcp -m tcp --dport 30000:32767 -m comment --comment "kubernetes service portals" -j ACCEPT
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
COMMIT
`;
const FIREWALL = `table inet firewall {
  set KUBE-SERVICES { type ipv4_addr; elements = { 192.0.2.77 } }
  chain KUBE-FORWARD { type filter hook forward priority 10; policy accept; ip saddr @KUBE-SERVICES drop; }
}
`;
const BACKENDS = ['nft', 'legacy'] as const;
const hasBackends = BACKENDS.every((one) => spawnSync(`iptables-${one}-save`).status === 0);

skipUnless(privilege() === 'root' && hasBackends, 'needs root, and iptables of both kinds').describe(
  'taking over from kube-proxy in iptables mode',
  () => {
    const { world: worldOf, inside, cleanup, clusterCIDR } = nodeOfKubeProxy({ label: 'swi' });
    const FAMILIES = [4, 6] as const;
    /** All rules of everybody, but for counters and dates. */
    const rules = async () => {
      const saves = BACKENDS.flatMap((one) => FAMILIES.map((family) => `${IPTABLES[family]}-${one}-save`));
      const texts = await Promise.all(saves.map((save) => inside([save])));
      const firewall = await inside(['nft', 'list', 'table', 'inet', 'firewall']);
      return [...texts, firewall]
        .join('\n')
        .replaceAll(/^#.*\n|\[\d+:\d+\]/gm, '')
        .trim();
    };

    const CASES: readonly (readonly [
      backend: (typeof BACKENDS)[number],
      mode: Mode,
      when: 'always' | 'long',
    ])[] = [
      ['nft', 'nft', 'always'],
      ['legacy', 'ebpf', 'long'],
      ['nft', 'ebpf', 'long'],
      ['legacy', 'nft', 'long'],
    ];
    for (const [backend, mode, when] of CASES) {
      const one = when === 'always' ? test : LONG.test;
      one(
        `${mode} after iptables (${backend}): nothing is lost, and only what was kube-proxy's goes`,
        async () => {
          const world = worldOf();
          const restore = (family: 4 | 6, text: string) =>
            inside([`${IPTABLES[family]}-${backend}-restore`, '--noflush'], text);
          await inside(['nft', '-f', '-'], FIREWALL);
          await restore(4, BESIDE);
          await restore(6, BESIDE.replaceAll('198.51.100.0/24', '2001:db8:51::/48'));
          const before = await rules();
          try {
            for (const family of FAMILIES)
              await restore(family, iptablesRules(family, world.kubeProxyPorts(family), clusterCIDR(family)));
            await world.open(2);
            await world.load(3);
            // What kube-proxy remembers of clients is its own.
            world.forgetClients();
            await world.startAgent(mode);
            expect((await cleanup()).trim().split('\n')).toHaveLength(2);
            expect(await rules()).toBe(before);
            expect(await cleanup()).toBe('there was nothing to remove\n');
            await flow(1500);
            expect((await world.stop()).join('\n')).toBe('');
            await eventually(async () => (await world.status()).mode.draining).toEqual([]);
            await expectSound(world, mode, []);
          } finally {
            await inside(['nft', 'delete', 'table', 'inet', 'firewall']);
            for (const family of FAMILIES)
              for (const table of ['nat', 'filter', 'mangle'])
                for (const how of ['-F', '-X'])
                  await inside([`${IPTABLES[family]}-${backend}`, '-t', table, how]);
          }
        },
      );
    }
  },
);
