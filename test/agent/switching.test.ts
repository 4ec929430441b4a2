/** Moving a running agent between modes under traffic of every kind: docs/switching.md. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Family } from '../../src/model/records.ts';
import { LONG } from '../support/long.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, logged } from './support/node.ts';
import { BARE, BY_SOCKETS, expectDrained, goRound, KEEPERS, surround } from './support/round.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const AWAKE = ['ip', 'ip6']
  .map(
    (ip) => `table ${ip} awake {
  chain post { type nat hook postrouting priority 90; policy accept; ct state new counter; }
}
`,
  )
  .join('');
const FAMILIES: readonly Family[] = [4, 6];
/** Each by itself: nothing else is there that the kernel translates. */
const FLOWS = [
  ['tcp', 4],
  ['udp', 4],
  ['tcp', 6],
  ['udp', 6],
] as const;

const SURROUNDINGS = { swb: BARE, swf: BY_SOCKETS };

root.describe('switching', () => {
  beforeAll(buildProgram);

  for (const [label, surroundings] of Object.entries(SURROUNDINGS)) {
    root.describe(surroundings.title, () => {
      let world: SwitchWorld;
      beforeAll(async () => {
        world = await SwitchWorld.create({ ...surroundings, label });
        await surround(world, surroundings);
        await world.startAgent('nft');
      });
      afterAll(() => world?.remove());

      test('there and back again loses nothing, and leaves nothing behind', async () => {
        const { wrong } = await goRound(world, {
          modes: ['ebpf', 'nft', 'ebpf', 'nft'],
          ...{
            connections: 2,
            datagrams: 2,
            later: { connections: 1, datagrams: 1 },
            rate: 4,
            intervalMs: 100,
            pauseMs: 800,
          },
        });
        expect(wrong.join('\n')).toBe('');
        await expectDrained(world, 'nft');
      });

      for (const [protocol, family] of FLOWS) {
        // Two of the eight are enough for each commit.
        const isUsual =
          label === 'swb' ? protocol === 'tcp' && family === 4 : protocol === 'udp' && family === 6;
        (isUsual ? test : LONG.test)(
          `the keeper is there while the kernel translates something, ${protocol} over IPv${family} alone, and no longer`,
          async () => {
            const [way] = world.ways(family);
            const options = { durationMs: 60_000, timeoutMs: 8000 };
            const hold = await way!.from.hold(protocol, way!.address, way!.port, options);
            expect((await hold.established).open).toBe(1);
            await world.switchTo('ebpf');
            // Longer than connection tracking here keeps a flow without packets, and than a look at what drains takes.
            await flow(5000);
            expect(world.tables()).toEqual(KEEPERS);
            expect((await world.status()).mode.draining).toMatchObject([{ mode: 'nft' }]);
            expect(await hold.stop()).toMatchObject({ moved: 0 });
            expect(hold.failures).toEqual([]);
            await eventually(() => world.tables()).toEqual([]);
            await eventually(async () => (await world.status()).mode.draining).toEqual([]);
            await world.switchTo('nft');
          },
        );
      }

      test('a mode that cannot run here changes nothing and says so', async () => {
        await expect(world.switchTo('ipvs')).rejects.toThrow();
        const { mode } = await world.status();
        expect(mode).toMatchObject({ mode: 'nft', switching: '' });
        expect(mode.failure).toContain('ipvs');
        const { outcomes } = await world.lab
          .pod('a')
          .call('tcp', world.ways(4)[0]!.address, 9000, { count: 5 });
        expect(outcomes.ok).toBe(5);
      });
    });
  }

  root.describe('with what is in the way', () => {
    let world: SwitchWorld;
    beforeAll(async () => {
      world = await SwitchWorld.create({ label: 'sww' });
    });
    afterAll(() => world?.remove());

    test('a NAT port that the kernel has toward a backend is not given away twice', async () => {
      const { client } = world.lab;
      // As our programs would choose: the client's own port, where it is one of theirs.
      const [kernelPort, sourcePort] = [61_500, 61_500];
      const pinned = FAMILIES.map((family) => {
        const ip = family === 4 ? 'ip' : 'ip6';
        const from = `${ip} saddr ${client.addresses[family]}`;
        const rules = ['tcp', 'udp'].map((one) => `${from} ${one} sport 50000 masquerade to :${kernelPort};`);
        return `table ${ip} pinned { chain post { type nat hook postrouting priority 90; ${rules.join(' ')} }; }\n`;
      });
      expect((await world.node.exec(['nft', '-f', '-'], pinned.join(''))).stderr).toBe('');
      await world.startAgent('nft');
      const flows = FAMILIES.flatMap((family) =>
        (['tcp', 'udp'] as const).map((protocol) => ({ family, protocol, ...world.single(family) })),
      );
      const holds = await Promise.all(
        flows.map(({ protocol, address, port }) =>
          client.hold(protocol, address, port, { sourcePort: 50_000, intervalMs: 50, timeoutMs: 8000 }),
        ),
      );
      for (const hold of holds) expect((await hold.established).open).toBe(1);
      await world.switchTo('ebpf');
      for (const { family, protocol, address, port } of flows)
        for (let i = 0; i < 3; i++) {
          const answer = await client.ask(protocol, address, port, { sourcePort, timeoutMs: 3000 });
          expect([family, protocol, answer.outcome]).toEqual([family, protocol, 'ok']);
          expect([family, protocol, answer.peer]).toEqual([family, protocol, world.node.addresses[family]]);
          expect(answer.peerPort).not.toBe(kernelPort);
          await flow(100);
        }
      for (const hold of holds) {
        const { exchanges } = await hold.stop();
        expect(exchanges).toBeGreaterThan(3);
        expect(hold.failures).toEqual([]);
      }
      for (const ip of ['ip', 'ip6']) await world.node.exec(['nft', 'delete', 'table', ip, 'pinned']);
      await world.agent.stop();
    });

    test('from ebpf and back: what drains is no stray, and what came meanwhile stays where it is', async () => {
      // Connection tracking stays awake while our tables are away: it forgets a datagram flow after four seconds here.
      await world.node.exec(['nft', '-f', '-'], AWAKE);
      await world.startAgent('ebpf');
      await world.open(2);
      await world.switchTo('nft');
      const repairs = () => logged(world.agent.log(), 'the kernel differed from what was applied').length;
      for (const table of ['ip', 'ip6'] as const)
        await world.node.exec(['nft', 'delete', 'table', table, 'triplane']);
      await eventually(repairs).toBeGreaterThan(0);
      await flow(1500);
      // What the tables knew of clients went with them.
      world.forgetClients();
      // Back to maps that began without another mode: those of the kernel stay with it all the same.
      await world.open(1);
      await world.switchTo('ebpf');
      await flow(800);
      expect((await world.stop()).join('\n')).toBe('');
      for (const ip of ['ip', 'ip6']) await world.node.exec(['nft', 'delete', 'table', ip, 'awake']);
      await world.agent.stop();
    });
  });
});
