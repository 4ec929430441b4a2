/** A node on which kube-proxy in ipvs mode has carried traffic until now. Runs in a booted kernel. */
import { spawnSync } from 'node:child_process';
import { beforeAll, expect, test } from 'vitest';
import type { Family } from '../../src/model/records.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { ipvsRules } from '../support/kube-proxy-ipvs.ts';
import { isLong } from '../support/long.ts';
import { skipUnless } from '../support/skip.ts';
import { expectSound } from './support/sound.ts';
import { IPTABLES, nodeOfKubeProxy } from './support/takeover.ts';

const TOOLS = ['iptables-save', 'ipset', 'ipvsadm'];
const hasTools = TOOLS.every((tool) => spawnSync(tool, ['--version']).error === undefined);
const FAMILIES: readonly Family[] = [4];
/** pkg/proxy/ipvs/proxier.go, NewProxier(). */
const SYSCTLS = ['conntrack', 'conn_reuse_mode', 'expire_nodest_conn', 'expire_quiescent_template'];

/**
 * In ebpf mode, what the node's own processes send as packets (no socket program translates a sticky frontend) meets
 * kube-proxy's IPVS first, whose servers take nothing new from cleanup on: docs/switching.md, Limits.
 */
const MEETS_IPVS = /node to a sticky cluster IP/;
const NONE = /^$/;

/** docs/ipvs.md: pool number << 8 | 0x7a */
const isOurs = (line: string) => (Number(/^-[Aa] -f (\d+)/.exec(line)?.[1] ?? 0) & 0xff) === 0x7a;

/** Of a load balancer and a firewall of somebody's own; some by names like kube-proxy's. */
const BESIDE = {
  servers: `-A -t 198.51.100.7:80 -s wrr
-a -t 198.51.100.7:80 -r 198.51.100.99:8080 -m -w 3
-A -f 7 -s rr
-a -f 7 -r 198.51.100.99:0 -m -w 1
`,
  sets: 'create KUBE-MINE hash:ip family inet hashsize 1024 maxelem 65536\nadd KUBE-MINE 198.51.100.1\n',
  rules: `*filter
:KUBE-FIREWALL - [0:0]
:MINE - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m set --match-set KUBE-MINE src -j MINE
COMMIT
*nat
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
COMMIT
`,
};

skipUnless(
  isLong && hasIpvs() && hasTools,
  'needs a kernel with IPVS, and ipvsadm, and takes minutes: npm run test:kernels -- 6.1 takeover',
).describe('taking over from kube-proxy in ipvs mode', () => {
  const {
    world: worldOf,
    inside,
    cleanup,
    clusterCIDR,
  } = nodeOfKubeProxy({
    label: 'swv',
    families: FAMILIES,
    cgroups: 'per-pod',
  });
  beforeAll(() => worldOf().sysctl(SYSCTLS.map((one) => `net/ipv4/vs/${one}=1`)));

  async function makeForeign(): Promise<void> {
    await inside(['ipvsadm', '--restore'], BESIDE.servers);
    await inside(['ipset', 'restore'], BESIDE.sets);
    await inside(['iptables-restore', '--noflush'], BESIDE.rules);
    await inside(['ip', 'link', 'add', 'mine-ipvs0', 'type', 'dummy']);
    await inside(['ip', 'addr', 'add', '198.51.100.7/32', 'dev', 'mine-ipvs0']);
  }

  async function makeKubeProxys(): Promise<void> {
    const world = worldOf();
    await inside(['ip', 'link', 'add', 'kube-ipvs0', 'type', 'dummy']);
    for (const family of FAMILIES) {
      const made = ipvsRules(family, world.kubeProxyPorts(family), {
        clusterCIDR: clusterCIDR(family),
        nodeAddress: world.lab.node('n1').addresses[family]!,
      });
      await inside(['ipset', 'restore'], made.sets);
      await inside([`${IPTABLES[family]}-restore`, '--noflush'], made.rules);
      await inside(['ipvsadm', '--restore'], made.servers);
      for (const address of made.addresses)
        await inside(['ip', 'addr', 'add', `${address}/${family === 4 ? 32 : 128}`, 'dev', 'kube-ipvs0']);
    }
  }

  /** What is there of everybody but us. */
  async function rest(): Promise<string> {
    const saves = [['iptables-save'], ['ip6tables-save'], ['ipset', 'save'], ['ipvsadm', '-S', '-n']];
    const texts: string[] = [];
    for (const save of saves) texts.push(await inside(save));
    const lines = texts
      .join('\n')
      .split('\n')
      // Dates, counters, random seeds; servers by our marks.
      .filter((line) => !line.startsWith('#') && !isOurs(line))
      .map((line) => line.replaceAll(/\[\d+:\d+\]| initval \S+/g, '').trim());
    const devices = await inside(['sh', '-c', 'ip -o addr show | grep -E "(kube|mine)-ipvs0"; true']);
    return [...lines.filter(Boolean), devices.replaceAll(/^\d+/gm, '').trim()].join('\n');
  }

  /** Over every way but those that `but` names, some new connections. */
  async function expectServed(but: RegExp = NONE): Promise<void> {
    for (const family of FAMILIES)
      for (const { title, from, address, port } of worldOf().ways(family)) {
        if (but.test(title)) continue;
        const { outcomes } = await from.call('tcp', address, port, { count: 3, timeoutMs: 8000 });
        expect([title, outcomes.ok]).toEqual([title, 3]);
      }
  }

  for (const mode of ['nft', 'ebpf', 'ipvs'] as const) {
    test(`${mode} after ipvs: nothing is lost, and only what was kube-proxy's goes`, async () => {
      const world = worldOf();
      await makeForeign();
      const before = await rest();
      try {
        await makeKubeProxys();
        await world.open(1, { intervalMs: 400, durationMs: 900_000 });
        await world.startAgent(mode);
        await expectServed();
        const first = await cleanup();
        expect(first).toMatch(/left IPVS service \S+: it carries \d+ connections?, and takes no new ones/);
        expect(first).toContain('left device kube-ipvs0');
        expect(first).toMatch(/removed ipset KUBE-CLUSTER-IP/);
        expect(await rest()).toContain(before.split('\n').find((line) => line.includes('198.51.100.7:80'))!);
        await expectServed(mode === 'ebpf' ? MEETS_IPVS : NONE);
        // The same again: what carries connections is still there.
        expect(await cleanup()).toContain('left device kube-ipvs0');
        expect((await world.stop()).join('\n')).toBe('');
        expect(await cleanup('--now')).toContain('removed device kube-ipvs0');
        expect(await rest()).toBe(before);
        expect(await cleanup()).toBe('there was nothing to remove\n');
        await expectServed();
        await expectSound(world, mode, []);
      } finally {
        await cleanup('--now').catch(() => {});
        for (const one of ['mine-ipvs0', 'kube-ipvs0']) await world.node.exec(['ip', 'link', 'del', one]);
        for (const table of ['filter', 'nat'])
          for (const how of ['-F', '-X']) await inside(['iptables', '-t', table, how]);
        await inside(['ipset', 'destroy']);
        await inside(['ipvsadm', '-C']);
      }
    }, 600_000);
  }
});
