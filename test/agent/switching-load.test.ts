/**
 * Ten switches under the load that the product promises to carry through them: 2,000 open TCP connections that exchange
 * data, 500 new ones a second, and datagram flows beside them (docs/switching.md has the figures of a run).
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { isLong } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram } from './support/node.ts';
import { BARE, BY_PACKETS, BY_SOCKETS, expectDrained, goRound, surround } from './support/round.ts';
import { expectSound } from './support/sound.ts';

const describe = skipUnless(
  isLong && privilege() === 'root',
  'takes minutes; TRIPLANE_TEST_LONG=1 runs it, as root',
).describe;

const OPEN = 2000;
/** On top of them, so that either mode has some to keep whole. */
const OPEN_LATER = 500;
const NEW_PER_SECOND = 500;
const TEN: readonly Mode[] = Array.from({ length: 10 }, (_, n) => (n % 2 === 0 ? 'ebpf' : 'nft'));

for (const [n, surroundings] of [BARE, BY_PACKETS, BY_SOCKETS].entries())
  describe(`ten switches under load: ${surroundings.title}`, () => {
    let world: SwitchWorld;
    beforeAll(async () => {
      buildProgram();
      world = await SwitchWorld.create({ ...surroundings, label: `swl${n}` });
      await surround(world, surroundings);
    });
    afterAll(() => world?.remove());

    test('nothing is lost, and nothing is left behind', async () => {
      const ways = world.lab.plan.families.length * world.ways(4).length;
      await world.startAgent('nft');
      const { switches, wrong } = await goRound(world, {
        modes: TEN,
        ...{ connections: Math.ceil(OPEN / ways), datagrams: 8 },
        later: { connections: Math.ceil(OPEN_LATER / ways), datagrams: 4 },
        ...{ rate: Math.ceil(NEW_PER_SECOND / ways), intervalMs: 500, pauseMs: 2000 },
      });
      const { opened, exchanges, answered } = world;
      const rows = switches.map(({ from, to, draining, durationMs }) => {
        return `${from} to ${to}: ${draining} stay, ${Math.round(durationMs)} ms`;
      });
      console.log([...rows, JSON.stringify({ opened, exchanges, answered })].join('\n'));
      expect(wrong.join('\n')).toBe('');
      await expectDrained(world, 'nft');
      await expectSound(world, 'nft');
    }, 1_200_000);
  });
