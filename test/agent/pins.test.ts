/** ebpf mode under open connections, when what it has pinned goes: the programs stay, and the pins come back. */
import { readdirSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, OwnAgent, statusOf, triplane } from './support/node.ts';
import { OwnBpf } from './support/own-bpf.ts';
import { expectSound, expectSoundAfter } from './support/sound.ts';

const root = skipUnless(
  isLong && privilege() === 'root',
  'takes long; TRIPLANE_TEST_LONG=1 runs it, as root',
);
const OFTEN = ['--sync-period', '1s'];

root.describe('pins that go', () => {
  let world: SwitchWorld;
  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'pin', families: [4] });
  });
  afterEach(async () => {
    await world.stop();
    await world.agent?.stop('SIGKILL');
    await triplane(world.node, 'cleanup');
  });
  afterAll(() => world?.remove());

  const rootOf = () => {
    const name = readdirSync('/sys/fs/bpf').find((one) => one.includes(world.lab.name));
    return name === undefined ? '' : `/sys/fs/bpf/${name}`;
  };
  const filesIn = (folder: string) => {
    try {
      return (readdirSync(folder, { recursive: true }) as string[])
        .filter((name) => path.basename(name).includes('_'))
        .sort();
    } catch {
      return [];
    }
  };

  test('somebody removes all of them: the next agent, after one killed with -9, takes everything over', async () => {
    await world.startAgent('ebpf', OFTEN);
    const folder = rootOf();
    const before = filesIn(folder);
    expect(before.length).toBeGreaterThan(20);
    await world.open(1);
    await world.load(2);
    for (let n = 1; n <= 2; n++) {
      // The folders stay: the agent may put pins back into them at any moment.
      for (const file of filesIn(folder)) unlinkSync(path.join(folder, file));
      await eventually(() => filesIn(folder)).toEqual(before);
      await eventually(async () => JSON.stringify((await world.status()).mode)).not.toContain(
        'cannot be pinned',
      );
    }
    await expectSound(world, 'ebpf', OFTEN);
    expect((await world.stop()).join('\n')).toBe('');
  });

  test('their file system is unmounted under the agent, and another one is there', async () => {
    const bpf = await OwnBpf.mount(path.join(path.dirname(world.lab.manifests.path), 'bpf'));
    const args = ['--manifests', world.lab.manifests.path, '--cluster-cidr', '10.10.0.0/16', ...OFTEN];
    args.push('--proxy-mode', 'ebpf', '--bpf-root', `${bpf.folder}/pins`);
    const own = () => new OwnAgent(world.lab, 'n1', args, {}, bpf.under);
    const agent = own();
    const pins = () => bpf.inside(['find', bpf.folder, '-name', '*_*']).trim().split('\n').sort();
    try {
      await agent.ready();
      const before = pins();
      expect(before.length).toBeGreaterThan(20);
      await world.open(1);
      await world.load(2);
      bpf.inside(['umount', bpf.folder]);
      // It mounts one by itself, as at a start.
      await eventually(pins).toEqual(before);
      const { mode } = await statusOf(agent.adminSocket);
      expect(mode).toMatchObject({ mode: 'ebpf', failure: '' });
      expect((await world.stop()).join('\n')).toBe('');
      await expectSoundAfter(agent, 'ebpf', own);
    } finally {
      await agent.stop('SIGKILL');
      await bpf.end();
    }
  });
});
