/** A kernel that refuses changes for a while, under open connections and new ones: the agent says so and comes after. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { Refusal } from '../support/refusal.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, logged } from './support/node.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const FAILED = 'could not be brought up to date';

root.describe('a kernel that refuses', () => {
  let world: SwitchWorld;
  let refusal: Refusal;
  beforeAll(async () => {
    buildProgram();
    refusal = new Refusal();
    world = await SwitchWorld.create({ label: 'ref', families: [4] });
  });
  afterEach(async () => {
    refusal.none();
    await world.stop();
    await world.agent?.stop('SIGKILL');
    world.lab.manifests.write('more', []);
    world.writeServices();
  });
  afterAll(() => {
    world?.remove();
    refusal?.remove();
  });

  const failures = () => logged(world.agent.log(), FAILED).length;
  const one = () => world.lab.plan.pods.filter(({ name }) => name === 'd');
  const answering = async () => {
    const { pods } = await world.lab
      .pod('a')
      .call('tcp', world.ways(4)[0]!.address, 9000, { count: 30, timeoutMs: 3000 });
    return Object.keys(pods);
  };

  const CASES = [
    ['nft', 'nft', 'ENOBUFS', test],
    ['nft', 'nft', 'ENOMEM', LONG.test],
    ['ebpf', 'bpf', 'ENOMEM', LONG.test],
    ['ebpf', 'bpf', 'E2BIG', LONG.test],
  ] as const;
  for (const [mode, of, error, declare] of CASES)
    declare(`${mode}: every change is refused (${error}), then taken`, async () => {
      await world.startAgent(mode, NO_CLOCK, { env: refusal.environment });
      await world.open(1);
      await world.load(2);
      refusal.begin(of, error);
      // A backend that comes, and a service that was not there; one that goes would take its datagram flows along.
      const all = world.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
      world.writeServices([...all, world.lab.pod('a').plan]);
      world.lab.manifests.write('more', [
        serviceObject({
          name: 'more',
          clusterIPs: [serviceAddress(4, 77)],
          ports: [{ port: 9000, targetPort: 80 }],
        }),
        ...sliceObjects({ service: 'more', families: [4], ports: [{ port: 80 }], endpoints: one() }),
      ]);
      await eventually(
        async () => failures() + (await world.status()).problems.length,
      ).toBeGreaterThanOrEqual(1);
      expect((await world.status()).mode).toMatchObject({ mode });
      expect(world.agent.alive()).toBe(true);
      refusal.none();
      await eventually(answering).toContain('a');
      const more = async () =>
        (await world.lab.pod('a').ask('tcp', serviceAddress(4, 77), 9000, { timeoutMs: 1000 })).outcome;
      await eventually(more).toBe('ok');
      await eventually(async () => (await world.status()).problems).toEqual([]);
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode);
    });

  for (const [mode, of] of [
    ['nft', 'nft'],
    ['ebpf', 'bpf'],
  ] as const)
    LONG.test(`${mode}: a start is refused until there is memory`, async () => {
      refusal.begin(of, 'ENOMEM');
      await world.startAgent(mode, NO_CLOCK, { env: refusal.environment, wait: 'started' });
      await eventually(failures).toBeGreaterThan(1);
      expect(world.agent.alive()).toBe(true);
      refusal.none();
      await world.agent.ready();
      await world.open(1);
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode);
    });
});
