/** A node on which kube-proxy in ipvs mode has carried traffic until now. Runs in a booted kernel. */
import { spawnSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { clusterCidrFlag } from '../../src/lab/wiring.ts';
import type { Family } from '../../src/model/records.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { ipvsRules } from '../support/kube-proxy-ipvs.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, logged, PROGRAM, triplane } from './support/node.ts';

const TOOLS = ['iptables-save', 'ipset', 'ipvsadm'];
const hasTools = TOOLS.every((tool) => spawnSync(tool, ['--version']).error === undefined);
const FAMILIES: readonly Family[] = [4];
const IPTABLES = { 4: 'iptables', 6: 'ip6tables' } as const;
/** pkg/proxy/ipvs/proxier.go, NewProxier(). */
const SYSCTLS = ['conntrack', 'conn_reuse_mode', 'expire_nodest_conn', 'expire_quiescent_template'];

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
`,
};

skipUnless(
  hasIpvs() && hasTools,
  'needs a kernel with IPVS, and ipvsadm; npm run test:kernels has both',
).describe('taking over from kube-proxy in ipvs mode', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'swv', families: [...FAMILIES] });
    await world.sysctl(SYSCTLS.map((one) => `net/ipv4/vs/${one}=1`));
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  const inside = async (command: string[], input = '') => {
    const { status, stdout, stderr } = await world.node.exec(command, input);
    if (status !== 0) expect(`${command.join(' ')}: ${stderr}`).toBe('');
    return stdout;
  };
  const cleanup = (...more: string[]) => inside([...PROGRAM, 'cleanup', '--kube-proxy', ...more]);

  async function makeForeign(): Promise<void> {
    await inside(['ipvsadm', '--restore'], BESIDE.servers);
    await inside(['ipset', 'restore'], BESIDE.sets);
    await inside(['iptables-restore', '--noflush'], BESIDE.rules);
    await inside(['ip', 'link', 'add', 'mine-ipvs0', 'type', 'dummy']);
    await inside(['ip', 'addr', 'add', '198.51.100.7/32', 'dev', 'mine-ipvs0']);
  }

  async function makeKubeProxys(): Promise<void> {
    const cidrs = clusterCidrFlag(world.lab.plan).split(',');
    await inside(['ip', 'link', 'add', 'kube-ipvs0', 'type', 'dummy']);
    for (const family of FAMILIES) {
      const made = ipvsRules(family, world.kubeProxyPorts(family), {
        clusterCIDR: cidrs.find((one) => one.includes(':') === (family === 6))!,
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

  /** Over every way, some new connections. */
  async function expectServed(): Promise<void> {
    for (const family of FAMILIES)
      for (const { title, from, address, port } of world.ways(family)) {
        const { outcomes } = await from.call('tcp', address, port, { count: 3, timeoutMs: 8000 });
        expect([title, outcomes.ok]).toEqual([title, 3]);
      }
  }

  for (const mode of ['nft', 'ebpf', 'ipvs'] as const) {
    test(`${mode} after ipvs: nothing is lost, and only what was kube-proxy's goes`, async () => {
      await makeForeign();
      const before = await rest();
      try {
        await makeKubeProxys();
        await world.open(1, { intervalMs: 400 });
        await world.startAgent(mode);
        await expectServed();
        const first = await cleanup();
        expect(first).toMatch(/left IPVS service \S+: it carries \d+ connections?, and takes no new ones/);
        expect(first).toContain('left device kube-ipvs0');
        expect(first).toMatch(/removed ipset KUBE-CLUSTER-IP/);
        expect(await rest()).toContain(before.split('\n').find((line) => line.includes('198.51.100.7:80'))!);
        await expectServed();
        // The same again: what carries connections is still there.
        expect(await cleanup()).toContain('left device kube-ipvs0');
        expect((await world.stop()).join('\n')).toBe('');
        expect(await cleanup('--now')).toContain('removed device kube-ipvs0');
        expect(await rest()).toBe(before);
        expect(await cleanup()).toBe('there was nothing to remove\n');
        await expectServed();
        await world.agent.stop('SIGKILL');
        await world.startAgent(mode);
        const [{ operations } = {}] = logged(world.agent.log(), 'the kernel holds the full state').slice(-1);
        expect(operations).toBeLessThanOrEqual(mode === 'ebpf' ? 1 : 0);
      } finally {
        await cleanup('--now').catch(() => {});
        for (const one of ['mine-ipvs0', 'kube-ipvs0']) await world.node.exec(['ip', 'link', 'del', one]);
        await inside(['iptables', '-F']);
        await inside(['iptables', '-X']);
        await inside(['ipset', 'destroy']);
        await inside(['ipvsadm', '-C']);
      }
    }, 600_000);
  }
});
