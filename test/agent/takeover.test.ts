/** A node on which kube-proxy (nftables or iptables mode) has carried traffic until now. */
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import type { Family } from '../../src/model/records.ts';
import { nftablesRules } from '../support/kube-proxy-nftables.ts';
import { iptablesRules, type KubeProxyPort } from '../support/kube-proxy-rules.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import type { SwitchWorld } from '../support/switch-world.ts';
import { eventually } from './support/node.ts';
import { expectSound } from './support/sound.ts';
import { IPTABLES, nodeOfKubeProxy } from './support/takeover.ts';

/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const FAMILIES = [4, 6] as const;

type Node = ReturnType<typeof nodeOfKubeProxy>;

interface Takeover {
  readonly mode: Mode;
  /** Loads what kube-proxy would have of these ports. */
  readonly load: (family: Family, ports: readonly KubeProxyPort[]) => Promise<unknown>;
  /** The rules of everybody else. */
  readonly rest: () => Promise<string>;
  /** What the cleanup prints. */
  readonly removes: RegExp;
}

/**
 * What the node's own processes send as packets meets netfilter's output hook, and so kube-proxy's rules, before any
 * program of ebpf mode, until the cleanup: docs/switching.md, Limits.
 */
const MEETS_NETFILTER = /node to/;
const NONE = /^$/;
/** Started when kube-proxy had ended: whom only our rules lead to. */
const LATE = 'd';

/** New connections are answered by all backends there are now, over every way but those that `but` names: there by some. */
async function expectOurs(world: SwitchWorld, but: RegExp): Promise<void> {
  for (const { title, from, address, port } of FAMILIES.flatMap((family) => world.ways(family))) {
    const { outcomes, pods } = await from.call('tcp', address, port, { count: 40 });
    // A client of a sticky service stays with one, and outside traffic of a Local one on the node.
    const isAny = /sticky|Local/.test(title) || but.test(title);
    expect([title, outcomes.ok, isAny || (pods[LATE] ?? 0) > 0]).toEqual([title, 40, true]);
  }
}

async function expectTakeover(node: Node, { mode, load, rest, removes }: Takeover): Promise<void> {
  const world = node.world();
  const late = world.lab.pod(LATE);
  const before = await rest();
  for (const family of FAMILIES) {
    const ports = world.kubeProxyPorts(family).map((port) => ({
      ...port,
      backends: port.backends.filter(({ address }) => address !== late.addresses[family]),
    }));
    await load(family, ports);
  }
  await world.open(2);
  await world.load(3);
  // What kube-proxy remembers of clients is its own.
  world.forgetClients();
  await world.startAgent(mode);
  await expectOurs(world, mode === 'ebpf' && world.lab.plan.cgroups === 'none' ? MEETS_NETFILTER : NONE);
  expect(await node.cleanup()).toMatch(removes);
  expect(await rest()).toBe(before);
  await expectOurs(world, NONE);
  expect(await node.cleanup()).toBe('there was nothing to remove\n');
  await flow(1500);
  expect((await world.stop()).join('\n')).toBe('');
  await eventually(async () => (await world.status()).mode.draining).toEqual([]);
  expect(world.tables()).toEqual(mode === 'nft' ? ['table ip triplane', 'table ip6 triplane'] : []);
  await expectSound(world, mode, []);
}

/** Of others; names like kube-proxy's, which are not its own in another table or family. */
const NAMESAKES = `table ip kube-proxy-mine {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 192.0.2.77 . tcp . 80 : drop } }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
}
table inet kube-proxy {
  set cluster-ips { type ipv4_addr; elements = { 192.0.2.77 } }
  chain filter-forward { type filter hook forward priority 0; policy accept; ip daddr @cluster-ips drop; }
}
table ip6 service-ips {
  chain nat-prerouting { type filter hook prerouting priority -100; policy accept; meta mark 0x4000 ip6 daddr 2001:db8:7::7 drop; }
}
`;
/** Keeps connection tracking and NAT alive, and drops what connection tracking knows nothing of. */
const TRACKING = `table inet tracking {
  chain forward { type filter hook forward priority 10; policy accept; ct state invalid drop; }
  chain hostports { type nat hook prerouting priority -95; policy accept; fib daddr type local tcp dport 8777 dnat ip to 192.0.2.77; }
}
`;
const BESIDES = { 'a firewall with NAT': NAMESAKES + TRACKING, 'nothing that tracks': NAMESAKES } as const;

type Case = readonly [mode: Mode, beside: keyof typeof BESIDES, when: 'always' | 'long'];
const NFTABLES_CASES: readonly (readonly [cgroups: 'none' | 'per-pod', cases: readonly Case[]])[] = [
  [
    'none',
    [
      ['nft', 'a firewall with NAT', 'always'],
      ['ebpf', 'nothing that tracks', 'always'],
    ],
  ],
  [
    'per-pod',
    [
      ['ebpf', 'a firewall with NAT', 'long'],
      ['nft', 'nothing that tracks', 'long'],
    ],
  ],
];

const root = skipUnless(privilege() === 'root', 'needs root');
for (const [cgroups, cases] of NFTABLES_CASES)
  root.describe(`taking over from kube-proxy in nftables mode, ${cgroups} cgroups`, () => {
    const node = nodeOfKubeProxy({ label: `swk${cgroups[0]}`, cgroups });
    const { world: worldOf, inside, clusterCIDR } = node;
    const tablesOfOthers = async () =>
      (await inside(['nft', 'list', 'tables'])).split('\n').filter((line) => line && !/ triplane/.test(line));
    /** All but ours, word for word; not what counters say. */
    const rest = async () => {
      const tables = await tablesOfOthers();
      const texts = tables.map((table) => inside(['nft', '-s', 'list', ...table.split(' ')]));
      return (await Promise.all(texts)).join('\n');
    };

    for (const [mode, beside, when] of cases) {
      const one = when === 'always' ? test : LONG.test;
      one(`${mode}, beside ${beside}: nothing is lost, and only what was kube-proxy's goes`, async () => {
        await inside(['nft', '-f', '-'], BESIDES[beside]);
        try {
          await expectTakeover(node, {
            ...{ mode, rest },
            load: (family, ports) => {
              const nodeAddress = worldOf().node.addresses[family]!;
              const rules = nftablesRules(family, ports, { clusterCIDR: clusterCIDR(family), nodeAddress });
              return inside(['nft', '-f', '-'], rules);
            },
            removes: /^(kube-proxy: removed nftables table ip6? kube-proxy\n){2}$/,
          });
        } finally {
          for (const table of await tablesOfOthers()) await inside(['nft', 'delete', ...table.split(' ')]);
        }
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
    const node = nodeOfKubeProxy({ label: 'swi' });
    const { inside, clusterCIDR } = node;
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
          const restore = (family: 4 | 6, text: string) =>
            inside([`${IPTABLES[family]}-${backend}-restore`, '--noflush'], text);
          await inside(['nft', '-f', '-'], FIREWALL);
          await restore(4, BESIDE);
          await restore(6, BESIDE.replaceAll('198.51.100.0/24', '2001:db8:51::/48'));
          try {
            await expectTakeover(node, {
              ...{ mode, rest: rules },
              load: (family, ports) => restore(family, iptablesRules(family, ports, clusterCIDR(family))),
              removes: /^(kube-proxy: removed ip6?tables-\w+: \d+ chains and \d+ rules\n){2}$/,
            });
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
