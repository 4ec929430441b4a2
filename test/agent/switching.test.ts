/** Moving a running agent between modes under traffic of every kind. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram } from './support/node.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

root.describe('switching', () => {
  let world: SwitchWorld;

  beforeAll(async () => {
    buildProgram();
    world = await SwitchWorld.create({ label: 'sw' });
    await world.startAgent('nft');
  });
  afterAll(() => world?.remove());

  test('ten switches lose nothing', async () => {
    await world.open(2);
    await world.load(5);
    const modes: Mode[] = ['ebpf', 'nft', 'ebpf', 'nft'];
    for (const mode of modes) {
      await pause(1500);
      expect(await world.switchTo(mode)).toMatchObject({ to: mode });
    }
    await pause(1500);
    expect((await world.stop()).join('\n')).toBe('');
  });
});
