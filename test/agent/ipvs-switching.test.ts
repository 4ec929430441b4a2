/** Between every two modes and ipvs, under traffic of every kind, in a booted kernel. Of the other two: switching.test.ts. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import type { Family } from '../../src/model/records.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { isLong } from '../support/long.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram } from './support/node.ts';
import { BY_PACKETS, expectDrained, goRound, surround } from './support/round.ts';
import { expectSound } from './support/sound.ts';

const describe = skipUnless(
  isLong && hasIpvs(),
  'needs a kernel with IPVS, and takes minutes: npm run test:kernels -- 6.1 switching',
).describe;

/** Every ordered pair of them. */
const ROUND: readonly Mode[] = ['ipvs', 'ebpf', 'nft', 'ebpf', 'ipvs', 'nft'];
const FAMILIES: readonly Family[] = [4, 6];

for (const family of FAMILIES)
  describe(`switching to ipvs and from it, IPv${family}`, () => {
    let world: SwitchWorld;
    beforeAll(async () => {
      buildProgram();
      // IPVS keeps a datagram flow that has ended for five minutes otherwise.
      const args = ['--ipvs-udp-timeout', '20s'];
      world = await SwitchWorld.create({ ...BY_PACKETS, args, label: `swi${family}`, families: [family] });
      await surround(world, BY_PACKETS);
    });
    afterAll(async () => {
      await world?.agent?.stop('SIGKILL');
      world?.remove();
    });

    test('round all pairs of modes loses nothing, and leaves nothing behind', async () => {
      await world.startAgent('nft');
      const { wrong } = await goRound(world, {
        ...{
          modes: ROUND,
          connections: 1,
          datagrams: 1,
          later: { connections: 1, datagrams: 1 },
          rate: 1,
          intervalMs: 300,
          pauseMs: 3000,
        },
      });
      expect(wrong.join('\n')).toBe('');
      await expectDrained(world, 'nft');
      await expectSound(world, 'nft');
    }, 1_200_000);
  });
