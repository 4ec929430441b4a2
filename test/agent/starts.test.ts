/**
 * The agent is killed with -9 at calls into the kernel all along a start: on a node that has nothing of ours, over the
 * remains of an agent that the cluster has moved on from, and where another mode carries traffic. Open connections and
 * new ones go on, and the next agent makes of it what a fresh start would make.
 */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { clusterCidrFlag } from '../../src/lab/wiring.ts';
import { type FaultPoint, faultEnvironment } from '../support/fault-point.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { nftablesRules } from '../support/kube-proxy-nftables.ts';
import { iptablesRules } from '../support/kube-proxy-rules.ts';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { kernelImage } from './support/image.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';
import { expectSound } from './support/sound.ts';

const root = skipUnless(
  isLong && privilege() === 'root',
  'takes long; TRIPLANE_TEST_LONG=1 runs it, as root',
);

const FULL = 'the kernel holds the full state';
const ARGS = ['--v=3', '--sync-period', '1h', '--bpf-connections-max', '16384'];
/** A kernel that has IPVS is a booted one, where a start takes long; it is asked about that alone. */
const MODES: readonly Mode[] = hasIpvs() ? ['ipvs'] : ['nft', 'ebpf'];
const OTHER = { nft: 'ebpf', ebpf: 'nft', ipvs: 'nft' } as const;
/** Points along a start, spread over all of its calls. */
const POINTS = hasIpvs() ? 5 : 12;
const CALLS_MIN = 3;
/** Modes of the kube-proxy that was there before; after its ipvs mode: ipvs-takeover.test.ts. */
const KUBE_PROXYS = ['iptables', 'nftables'] as const;

root.describe('an agent killed along its start', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'sta', families: [4], args: ARGS });
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  async function start(mode: Mode, point: FaultPoint | null = null): Promise<void> {
    await world.agent?.stop('SIGKILL');
    const options = point ? { env: faultEnvironment(point), wait: 'started' as const } : {};
    await world.startAgent(mode, [], options);
  }

  /** Dead, or by another count of calls than before through after all; anything else is a fault. */
  async function killedAt(mode: Mode, count: number): Promise<boolean> {
    await world.agent.stop('SIGKILL');
    // The log goes on from one agent to the next.
    const before = world.agent.log().length;
    await start(mode, { call: '*', count, when: 'made' });
    await eventually(() => !world.agent.alive() || world.agent.log().slice(before).includes(FULL)).toBe(true);
    return !world.agent.alive();
  }

  /** Numbers of calls, POINTS of them, spread over a start as it is on the node now. */
  async function callsOfStart(mode: Mode): Promise<number[]> {
    const file = path.join(path.dirname(world.lab.manifests.path), 'tally');
    await start(mode, { call: '*', count: 1e9, tally: { log: FULL, file } });
    const tally = () => {
      try {
        return Number(readFileSync(file, 'utf8'));
      } catch {
        return 0;
      }
    };
    await eventually(tally).toBeGreaterThan(CALLS_MIN);
    const calls = tally();
    rmSync(file);
    const step = Math.max(1, calls / POINTS);
    return Array.from({ length: Math.min(POINTS, calls) }, (_, n) => Math.floor(n * step + step / 2) + 1);
  }

  /** Numbers of IPVS depend on the past: there the next start says whether it would have made something otherwise. */
  async function imageOf(mode: Mode): Promise<unknown> {
    if (mode !== 'ipvs') return kernelImage(world, mode);
    await expectSound(world, mode, []);
    return 'sound';
  }

  /** Its rules, who loads them, and what is said when they go. */
  function kubeProxy(kind: (typeof KUBE_PROXYS)[number]) {
    const [ports, clusterCIDR] = [world.kubeProxyPorts(4), clusterCidrFlag(world.lab.plan)];
    if (kind === 'iptables') {
      const rules = iptablesRules(4, ports, clusterCIDR);
      return { command: ['iptables-restore', '--noflush'], rules, removed: 'removed iptables-nft' };
    }
    const rules = nftablesRules(4, ports, { clusterCIDR, nodeAddress: world.node.addresses[4]! });
    return { command: ['nft', '-f', '-'], rules, removed: 'removed nftables table ip kube-proxy' };
  }

  const web = () => world.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
  const asked = async () =>
    (await world.lab.pod('a').ask('tcp', world.ways(4)[0]!.address, 9000, { timeoutMs: 2000 })).outcome;

  /**
   * Kills an agent of `mode` at each of these calls of its start. The next agent, of the mode `next`, makes of it what a
   * fresh start would make.
   */
  async function killAtEach(
    mode: Mode,
    calls: readonly number[],
    {
      next = mode,
      before = async () => {},
      wanted,
    }: { next?: Mode; before?: (n: number) => Promise<unknown>; wanted: (n: number) => unknown },
  ): Promise<void> {
    let died = 0;
    for (const [n, call] of calls.entries()) {
      await world.agent.stop('SIGKILL');
      await before(n);
      if (await killedAt(mode, call)) died++;
      await start(next);
      expect(await imageOf(next)).toEqual(wanted(n));
      expect(await asked()).toBe('ok');
    }
    expect(died).toBeGreaterThan(0);
  }

  for (const mode of MODES) {
    test(`${mode}: on a fresh node`, async () => {
      world.writeServices();
      const calls = await callsOfStart(mode);
      const wanted = await imageOf(mode);
      await killAtEach(mode, calls, { before: () => triplane(world.node, 'cleanup'), wanted: () => wanted });
    }, 600_000);

    test(`${mode}: over what another agent left, the cluster having moved on`, async () => {
      const states = [web(), [...web(), world.lab.pod('a').plan]];
      const wanted: unknown[] = [];
      for (const state of states) {
        world.writeServices(state);
        await start(mode);
        wanted.push(await imageOf(mode));
      }
      world.writeServices(states[0]);
      const calls = await callsOfStart(mode);
      await world.open(1);
      await world.load(2);
      const now = (n: number) => (n + 1) % 2;
      const before = async (n: number) => world.writeServices(states[now(n)]);
      await killAtEach(mode, calls, { before, wanted: (n) => wanted[now(n)] });
      expect((await world.stop()).join('\n')).toBe('');
    }, 600_000);

    test(`${mode}: while the other mode carries the traffic`, async () => {
      const other = OTHER[mode];
      world.writeServices();
      await start(other);
      const wanted = await imageOf(other);
      const calls = await callsOfStart(mode);
      await start(other);
      await world.open(1);
      await world.load(2);
      await killAtEach(mode, calls, { next: other, wanted: () => wanted });
      await start(mode);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      expect((await world.stop()).join('\n')).toBe('');
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
    }, 600_000);

    for (const kind of KUBE_PROXYS)
      test(`${mode}: where kube-proxy (${kind}) has carried the traffic`, async () => {
        world.writeServices();
        await world.agent?.stop('SIGKILL');
        const { command, rules, removed } = kubeProxy(kind);
        expect((await world.node.exec(command, rules)).stderr).toBe('');
        await world.open(2);
        const calls = await callsOfStart(mode);
        const wanted = await imageOf(mode);
        // As before: kube-proxy alone, but for the connections that it has had all the time.
        await killAtEach(mode, calls, {
          before: () => triplane(world.node, 'cleanup'),
          wanted: () => wanted,
        });
        expect((await triplane(world.node, 'cleanup', '--kube-proxy')).stdout).toContain(removed);
        await new Promise((resolve) => setTimeout(resolve, 1000));
        expect((await world.stop()).join('\n')).toBe('');
      }, 600_000);
  }
});
