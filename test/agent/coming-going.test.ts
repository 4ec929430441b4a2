/** Devices and addresses that go and come again under open connections and new ones: nobody else's notice it. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { serviceObject, sliceObjects } from '../../src/lab/manifests.ts';
import type { Place } from '../../src/lab/place.ts';
import { serviceAddress } from '../../src/lab/plan.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';
import { expectSound, NO_CLOCK } from './support/sound.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const EXTRA = '198.18.7.1';
const CHURN = 30;
/** Every address of the node has NodePorts. */
const ARGS = [...NO_CLOCK, '--nodeport-addresses', 'all'];

root.describe('what comes and goes under traffic', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'cng', families: [4], args: ARGS });
    await world.lab.route('198.18.7.0/24', 'n1');
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  const outcome = async (from: Place, address: string, port = 9000) =>
    (await from.ask('tcp', address, port, { timeoutMs: 500 })).outcome;
  const linkIndex = async (device: string) => {
    const { stdout } = await world.node.exec(['ip', '-j', 'link', 'show', device]);
    return (JSON.parse(stdout) as { ifindex: number }[])[0]!.ifindex;
  };

  for (const mode of ['nft', 'ebpf'] as const) {
    test(`${mode}: a pod is replaced, and its device has the name of the one before`, async () => {
      await world.startAgent(mode);
      await world.open(1);
      await world.load(3);
      const address = serviceAddress(4, 88);
      const indexes = new Set<number>();
      try {
        for (let n = 0; n < 3; n++) {
          const pod = await world.lab.addPod({ name: 'short', node: 'n1' });
          indexes.add(await linkIndex(pod.plan.device));
          world.lab.manifests.write('more', [
            serviceObject({ name: 'more', clusterIPs: [address], ports: [{ port: 9000, targetPort: 80 }] }),
            ...sliceObjects({ service: 'more', families: [4], ports: [{ port: 80 }], endpoints: [pod.plan] }),
          ]);
          // As a client, as a backend of others, and of itself.
          for (const from of [pod, world.lab.pod('a'), world.node])
            await eventually(() => outcome(from, address)).toBe('ok');
          const { outcomes } = await pod.call('tcp', world.ways(4)[0]!.address, 9000, {
            count: 20,
            timeoutMs: 8000,
          });
          expect(outcomes.ok).toBe(20);
          await world.lab.removePod('short');
        }
      } finally {
        if (world.lab.pods.has('short')) await world.lab.removePod('short');
        world.lab.manifests.remove('more');
        await eventually(() => outcome(world.lab.pod('a'), address)).not.toBe('ok');
      }
      expect(indexes.size).toBe(3);
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode, []);
    });

    test(`${mode}: devices come and go, faster than anybody looks`, async () => {
      await world.startAgent(mode);
      await world.open(1);
      await world.load(3);
      const one = [
        'link add vethq type veth peer name vethr',
        'link set vethq up',
        'addr add 198.18.9.1/32 dev vethq',
      ];
      for (let n = 0; n < CHURN; n++) await world.lab.ip('n1', [...one, 'link del vethq']);
      await world.lab.ip('n1', one);
      const port = world.ways(4).find(({ title }) => title.includes('client to a NodePort'))!.port;
      await world.lab.route('198.18.9.0/24', 'n1');
      await eventually(() => outcome(world.lab.client, '198.18.9.1', port)).toBe('ok');
      await world.lab.ip('n1', ['link del vethq']);
      await eventually(() => outcome(world.lab.client, '198.18.9.1', port)).not.toBe('ok');
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode, []);
    });

    test(`${mode}: an address of the node is removed and added again`, async () => {
      const { port } = world.single();
      await world.startAgent(mode);
      await world.open(1);
      await world.load(3);
      const there = () => outcome(world.lab.client, EXTRA, port);
      const toggle = (how: 'add' | 'del') => world.lab.ip('n1', [`addr ${how} ${EXTRA}/32 dev eth0`]);
      await toggle('add');
      await eventually(there).toBe('ok');
      const options = { connections: 2, intervalMs: 100, timeoutMs: 8000 };
      const hold = await world.lab.client.hold('tcp', EXTRA, port, options);
      expect((await hold.established).open).toBe(2);
      for (let n = 0; n < 3; n++) {
        await toggle('del');
        await eventually(there).not.toBe('ok');
        await toggle('add');
        await eventually(there).toBe('ok');
      }
      // What was translated before goes on without the address: it is the client's, and nobody of the node has it.
      const { outcomes, exchanges } = await hold.stop();
      expect([outcomes.ok, hold.failures]).toEqual([2, []]);
      expect(exchanges).toBeGreaterThan(0);
      await toggle('del');
      await eventually(there).not.toBe('ok');
      expect((await world.stop()).join('\n')).toBe('');
      await expectSound(world, mode, []);
    });
  }
});
