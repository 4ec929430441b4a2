/** A node on which kube-proxy (nftables mode) has carried traffic until now. */
import { afterAll, beforeAll, expect } from 'vitest';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

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
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'swk', families: [4] });
  });
  afterAll(() => world?.remove());

  for (const mode of ['ebpf', 'nft'] as const) {
    root.test(`its connections live on under ${mode}, also when its rules are cleaned up`, async () => {
      const ways = world
        .ways(4)
        .filter(({ title }) => /pod to a cluster IP|client to a NodePort/.test(title));
      const [{ address, port }, { port: nodePort }] = ways as [(typeof ways)[0], (typeof ways)[0]];
      const backend = world.lab.pod('c').addresses[4]!;
      const rules = kubeProxyRules(address, port, nodePort, backend);
      expect((await world.node.exec(['nft', '-f', '-'], rules)).stderr).toBe('');
      const holds = await Promise.all(
        ways.map((way) => way.from.hold('tcp', way.address, way.port, { connections: 3, intervalMs: 50 })),
      );
      for (const hold of holds) expect((await hold.established).pods).toEqual({ c: 3 });
      await world.startAgent(mode);
      const { status, stdout } = await triplane(world.node, 'cleanup', '--kube-proxy');
      expect(status).toBe(0);
      expect(stdout).toContain('nftables table ip kube-proxy');
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
      await world.agent.stop();
      await triplane(world.node, 'cleanup');
    });
  }
});
