/** Between every two modes and ipvs, under traffic of every kind, in a booted kernel. Of the other two: switching.test.ts. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import type { Family } from '../../src/model/records.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { isLong } from '../support/long.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually } from './support/node.ts';
import { expectSound } from './support/sound.ts';

const describe = skipUnless(
  isLong && hasIpvs(),
  'needs a kernel with IPVS, and takes minutes: npm run test:kernels -- 6.1 switching',
).describe;

/** Every ordered pair of them. */
const ROUND: readonly Mode[] = ['ipvs', 'ebpf', 'nft', 'ebpf', 'ipvs', 'nft'];
const FAMILIES: readonly Family[] = [4, 6];
const DURATION_MS = 1_500_000;
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

for (const family of FAMILIES)
  describe(`switching to ipvs and from it, IPv${family}`, () => {
    let world: SwitchWorld;
    beforeAll(async () => {
      buildProgram();
      world = await SwitchWorld.create({ label: `swi${family}`, families: [family] });
    });
    afterAll(async () => {
      await world?.agent?.stop('SIGKILL');
      world?.remove();
    });

    test('round all pairs of modes loses nothing, and leaves nothing behind', async () => {
      await world.startAgent('nft');
      await world.open(1, { intervalMs: 300, durationMs: DURATION_MS });
      await world.load(1, 'fin', DURATION_MS);
      const wrong: string[] = [];
      for (const mode of ROUND) {
        await flow(3000);
        expect(await world.switchTo(mode)).toMatchObject({ to: mode });
        await flow(3000);
        // New connections are counted for each switch, so that the output says which one lost some.
        for (const line of await world.endLoads()) wrong.push(`to ${mode}: ${line}`);
        await world.load(1, 'fin', DURATION_MS);
      }
      wrong.push(...(await world.stop()));
      expect(wrong.join('\n')).toBe('');
      expect((await world.status()).mode).toMatchObject({ mode: 'nft', failure: '', switching: '' });
      await eventually(async () => (await world.status()).mode.draining).toEqual([]);
      expect(world.tables()).toEqual(['table ip triplane', 'table ip6 triplane']);
      await expectSound(world, 'nft');
    }, 1_200_000);
  });
