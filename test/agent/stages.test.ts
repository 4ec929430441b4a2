/**
 * The agent is killed with -9 exactly between two steps of a start, of a change and of a switch, under open connections
 * and new ones: none is lost, and what the next agent makes of it is what a fresh start would make.
 */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { type FaultPoint, faultEnvironment } from '../support/fault-point.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { kernelImage } from './support/image.ts';
import { buildProgram, eventually, triplane } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

const FULL = 'the kernel holds the full state';
const TAKEN = 'changes of the cluster taken in';
const PRODUCED = 'changes on their way into the kernel';
const ACKNOWLEDGED = 'the kernel has acknowledged the changes';
const APPLIED = 'changes applied';
/** Steps as lines of the log; no comparison with the kernel by the clock. */
const ARGS = ['--v=3', '--sync-period', '1h', '--bpf-connections-max', '16384'];

interface Stage extends FaultPoint {
  readonly title: string;
}

const commit = (count: number, when: FaultPoint['when']): FaultPoint => ({
  ...{ call: 'NftSocket.commit', count },
  ...(when ? { when } : {}),
});

/** Of a change; by turns one that brings a backend, and one that takes it away, whose flows are then cleared. */
const CHANGE: Readonly<Record<'nft' | 'ebpf', readonly Stage[]>> = {
  nft: [
    { title: 'records taken in', log: TAKEN },
    { title: 'model produced', log: PRODUCED },
    { title: 'batch not yet sent', ...commit(1, 'before') },
    { title: 'batch being sent', ...commit(1, 'made') },
    { title: 'batch acknowledged', ...commit(1, 'after') },
    { title: 'conntrack being cleared', call: 'conntrackDelete', when: 'made' },
    { title: 'all acknowledged', log: ACKNOWLEDGED },
    { title: 'conntrack cleared', log: APPLIED },
  ],
  ebpf: [
    // What comes before and after is the same in each mode.
    { title: 'tables half written', call: 'Atomics.store', count: 4, when: 'before' },
    { title: 'conntrack being cleared', call: 'conntrackDelete', when: 'made' },
  ],
};

/** Of a switch. */
const SWITCH: readonly (readonly [from: Mode, to: Mode, stages: readonly Stage[]])[] = [
  [
    ...(['nft', 'ebpf'] as const),
    [
      { title: 'half of the devices', call: 'bpfLinkDevice', count: 3 },
      { title: 'complete', log: 'complete, and not yet in charge' },
      { title: 'in charge', log: 'in charge of new connections' },
      { title: 'old one retired', log: 'takes no new connections any more' },
    ],
  ],
  [
    ...(['ebpf', 'nft'] as const),
    [
      { title: 'tables half made', ...commit(2, 'made') },
      { title: 'affinities carried', log: 'affinities carried over' },
      { title: 'in charge', log: 'in charge of new connections' },
      { title: 'old one retired', log: 'takes no new connections any more' },
    ],
  ],
];

root.describe('an agent killed between two steps', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'stg', families: [4], args: ARGS });
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  const image = (mode: Mode) => kernelImage(world, mode);

  /** One agent after the other, in the place of the one before, dead or not. */
  async function start(mode: Mode, stage: Stage | null = null): Promise<void> {
    await world.agent?.stop('SIGKILL');
    const { title: _, ...point } = stage ?? { title: '' };
    await world.startAgent(mode, [], stage ? { env: faultEnvironment(point) } : {});
  }
  const expectDeath = ({ title }: Stage) =>
    eventually(() => (world.agent.alive() ? `not met: ${title}` : 'dead')).toBe('dead');

  for (const mode of ['nft', 'ebpf'] as const) {
    test(`${mode}: of a change`, async () => {
      const web = world.lab.plan.pods.filter(({ labels }) => labels.app === 'web');
      const states = [[...web, world.lab.pod('a').plan], web];
      // What agents make that nobody disturbs.
      const wanted: unknown[] = [];
      for (const state of states) {
        world.writeServices(state);
        await start(mode);
        wanted.push(await image(mode));
      }
      expect(wanted[0]).not.toEqual(wanted[1]);
      await world.open(1);
      await world.load(3);
      let now = 1;
      for (const stage of CHANGE[mode]) {
        const early = stage.log === TAKEN || stage.log === PRODUCED;
        await start(mode, { ...stage, armed: early ? [FULL] : [FULL, TAKEN, PRODUCED] });
        // Of the change that killed the one before.
        expect(await image(mode)).toEqual(wanted[now]);
        now = 1 - now;
        world.writeServices(states[now]);
        await expectDeath(stage);
      }
      await start(mode);
      expect(await image(mode)).toEqual(wanted[now]);
      expect((await world.stop()).join('\n')).toBe('');
    });
  }

  for (const [from, to, stages] of SWITCH) {
    test(`of a switch from ${from} to ${to}: the next agent keeps to either`, async () => {
      world.writeServices();
      await start(from);
      const wanted = await image(from);
      await world.open(1);
      await world.load(3);
      for (const stage of stages) {
        await start(from, { ...stage, armed: [FULL] });
        expect((await world.status()).mode).toMatchObject({ mode: from, switching: '', failure: '' });
        expect(await image(from)).toEqual(wanted);
        await world.switchTo(to).catch(() => {});
        await expectDeath(stage);
      }
      // The last one got so far that the next may as well go on in the mode that was to come.
      await start(to);
      await world.agent.stop('SIGKILL');
      expect((await world.stop()).join('\n')).toBe('');
      if (to === 'ebpf') return;
      const last = { title: 'nothing drains', log: 'its last connection has ended' };
      await start(to, last);
      await expectDeath(last);
      await start(to);
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
    });
  }
});
