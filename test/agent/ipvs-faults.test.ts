/** What goes wrong under open connections in ipvs mode, in a booted kernel. Of the other modes: faults.test.ts and others. */
import { spawnSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type FaultPoint, faultEnvironment } from '../support/fault-point.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { isLong } from '../support/long.ts';
import { Refusal } from '../support/refusal.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, logged, triplane } from './support/node.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const hasTool = spawnSync('ipvsadm', ['--version']).error === undefined;
const describe = skipUnless(
  isLong && hasIpvs() && hasTool,
  'needs a kernel with IPVS, and ipvsadm, and takes minutes: npm run test:kernels -- 6.1 faults',
).describe;

/** IPVS tells nobody of a change: what somebody does to it is found by the clock. */
const CLOCK = ['--sync-period', '2s'];
const FLOWS = { intervalMs: 400, durationMs: 900_000 };
/** As a node's CNI has them: connection tracking and NAT do not hang on our tables. */
const CNI = `table ip cni {
  chain post { type nat hook postrouting priority 90; policy accept; ct state new counter; }
}
`;

const DATAGRAMS = /, (udp|unconnected)/;
/**
 * What somebody else does on the node, and which open connections it may end. Where a service has affinity, our rules
 * translate the port in every packet (docs/ipvs.md): the backend resets what comes without them. While the addresses are
 * away, the node tells who sends a datagram to one that there is no way to it; and a socket of the node, whose own source it
 * is, sends none, or sends it as somebody else.
 */
const FOREIGN: readonly (readonly [title: string, command: string, ends: RegExp])[] = [
  ['our table is emptied', 'nft flush table ip triplane-ipvs', /sticky/],
  ['our table is deleted', 'nft delete table ip triplane-ipvs', /sticky/],
  ['the routes to the services are removed', 'ip route flush table local dev triplane-ipvs0', DATAGRAMS],
  ['the device of the services is deleted', 'ip link del triplane-ipvs0', DATAGRAMS],
  ['IPVS is emptied', 'ipvsadm -C', /./],
];

const TAKEN = 'changes of the cluster taken in';
const PRODUCED = 'changes on their way into the kernel';
const FAILED = 'could not be brought up to date';
const FULL = 'the kernel holds the full state';
/** In turns of a change that adds an endpoint and one that takes it away; the calls of one go to IPVS, the table, IPVS. */
const STEPS: readonly (readonly [title: string, point: FaultPoint])[] = [
  ['an endpoint is in IPVS, and nothing else of it', { call: 'IpvsSocket.commit', count: 1 }],
  ['one is out of the table, and not yet out of IPVS', { call: 'NftSocket.commit', count: 1 }],
  ['one is in the table', { call: 'NftSocket.commit', count: 1 }],
  ['one is being withdrawn', { call: 'IpvsSocket.commit', count: 1, when: 'made' }],
];

describe('faults under open connections, in ipvs mode', () => {
  let world: SwitchWorld;
  let refusal: Refusal;
  beforeAll(async () => {
    buildProgram();
    refusal = new Refusal();
    world = await SwitchWorld.create({ label: 'fvi', families: [4], args: ['--v=3'] });
    expect((await world.node.exec(['nft', '-f', '-'], CNI)).stderr).toBe('');
  });
  afterEach(async () => {
    refusal.none();
    await world.stop();
    // A second one would end at the lock, and the first would answer for it.
    await world.agent?.stop('SIGKILL');
  });
  afterAll(async () => {
    await world?.agent?.stop('SIGKILL');
    if (world) await triplane(world.node, 'cleanup');
    world?.remove();
    refusal?.remove();
  });

  const web = () => world.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
  const repairs = () => logged(world.agent.log(), 'the kernel differed from what was applied').length;
  /** New connections, by every way. */
  const failing = async () => {
    const asked = world.ways(4).map(async ({ title, from, address, port }) => {
      const { outcome } = await from.ask('tcp', address, port, { timeoutMs: 2000 });
      return outcome === 'ok' ? [] : [`${title}: ${outcome}`];
    });
    return (await Promise.all(asked)).flat();
  };
  const reached = async () => {
    const { address, port } = world.ways(4)[0]!;
    const { pods } = await world.lab.pod('a').call('tcp', address, port, { count: 30, timeoutMs: 8000 });
    return Object.keys(pods).sort();
  };

  test('what somebody else takes away comes back', async () => {
    await world.startAgent('ipvs', CLOCK);
    for (const [title, command, ends] of FOREIGN) {
      // Devices and routes have just been made again.
      await world.open(1, { ...FLOWS, secondTry: true });
      const before = repairs();
      const { stderr } = await world.node.exec(['sh', '-c', command]);
      expect([title, stderr]).toEqual([title, '']);
      await eventually(repairs).toBeGreaterThan(before);
      await eventually(failing).toEqual([]);
      const lost = (await world.stop()).filter((line) => !ends.test(line));
      expect([title, ...lost]).toEqual([title]);
    }
    await expectSound(world, 'ipvs');
  }, 600_000);

  test('killed with -9 between two steps of a change: the next agent ends it', async () => {
    const states = [[...web(), world.lab.pod('a').plan], web()];
    await world.startAgent('ipvs', NO_CLOCK);
    await world.open(1, FLOWS);
    for (const [n, [title, point]] of STEPS.entries()) {
      await world.agent.stop('SIGKILL');
      const env = faultEnvironment({ ...point, armed: [FULL, TAKEN, PRODUCED] });
      await world.startAgent('ipvs', NO_CLOCK, { env });
      world.writeServices(states[n % 2]);
      await eventually(() => (world.agent.alive() ? `not met: ${title}` : 'dead')).toBe('dead');
    }
    await world.startAgent('ipvs', NO_CLOCK);
    const last = states[(STEPS.length - 1) % 2]!;
    await eventually(reached).toEqual(last.map(({ name }) => name).sort());
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, 'ipvs');
  }, 600_000);

  test('every change of IPVS is refused, then taken', async () => {
    world.writeServices();
    await world.startAgent('ipvs', CLOCK, { env: refusal.environment });
    await world.open(1, FLOWS);
    refusal.begin('ipvs', 'ENOMEM');
    world.writeServices([...web(), world.lab.pod('a').plan]);
    await eventually(() => JSON.stringify(logged(world.agent.log(), FAILED))).toContain('ENOMEM');
    expect(world.agent.alive()).toBe(true);
    refusal.none();
    await eventually(reached).toContain('a');
    await eventually(async () => (await world.status()).problems).toEqual([]);
    expect((await world.stop()).join('\n')).toBe('');
    world.writeServices();
    await eventually(reached).not.toContain('a');
    await expectSound(world, 'ipvs');
  }, 600_000);

  test('a switch to ipvs, which refuses all: nft goes on, says so, and nothing is left of it', async () => {
    world.writeServices();
    await world.startAgent('nft', NO_CLOCK, { env: refusal.environment });
    await world.open(1, FLOWS);
    refusal.begin('ipvs', 'ENOMEM');
    await expect(world.switchTo('ipvs')).rejects.toThrow(/Cannot allocate memory/);
    const { mode } = await world.status();
    // What drains is of the tests before.
    expect(mode).toMatchObject({ mode: 'nft', switching: '' });
    expect(mode.failure).toMatch(/ipvs.*Cannot allocate memory/);
    await eventually(failing).toEqual([]);
    refusal.none();
    expect(await world.switchTo('ipvs')).toMatchObject({ to: 'ipvs' });
    await eventually(failing).toEqual([]);
    expect(await world.switchTo('nft')).toMatchObject({ to: 'nft' });
    expect((await world.stop()).join('\n')).toBe('');
    await expectSound(world, 'nft');
  }, 600_000);
});
