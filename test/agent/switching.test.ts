/** Moving a running agent between modes under traffic of every kind: docs/switching.md. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SwitchWorld } from '../support/switch-world.ts';
import { buildProgram, eventually, logged } from './support/node.ts';
import { BARE, BY_SOCKETS, expectDrained, goRound, KEEPERS, surround } from './support/round.ts';

const root = skipUnless(privilege() === 'root', 'needs root');
/** Traffic of a moment: nothing is waited for. */
const flow = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const AWAKE = `table ip awake {
  chain post { type nat hook postrouting priority 90; policy accept; ct state new counter; }
}
`;

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
          ...{ connections: 2, datagrams: 2, rate: 4, intervalMs: 100, pauseMs: 800 },
        });
        expect(wrong.join('\n')).toBe('');
        await expectDrained(world, 'nft');
      });

      test('the keeper is there while the kernel translates something, and no longer', async () => {
        const [way] = world.ways(4);
        const hold = await way!.from.hold('tcp', way!.address, way!.port, { durationMs: 60_000 });
        await hold.established;
        await world.switchTo('ebpf');
        await flow(5000);
        expect(world.tables()).toEqual(KEEPERS);
        expect((await world.status()).mode.draining).toMatchObject([{ mode: 'nft' }]);
        expect(await hold.stop()).toMatchObject({ moved: 0 });
        expect(hold.failures).toEqual([]);
        await eventually(() => world.tables()).toEqual([]);
        await eventually(async () => (await world.status()).mode.draining).toEqual([]);
        await world.switchTo('nft');
      });

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
      world = await SwitchWorld.create({ label: 'sww', families: [4] });
    });
    afterAll(() => world?.remove());

    test('a NAT port that the kernel has toward a backend is not given away twice', async () => {
      const { client } = world.lab;
      const { address, port } = world.single();
      // As our programs would choose: the client's own port, where it is one of theirs.
      const [kernelPort, sourcePort] = [61_500, 61_500];
      const rules = `table ip pinned { chain post { type nat hook postrouting priority 90;
        ip saddr ${client.addresses[4]} tcp sport 50000 masquerade to :${kernelPort}; }; }\n`;
      expect((await world.node.exec(['nft', '-f', '-'], rules)).stderr).toBe('');
      await world.startAgent('nft');
      const hold = await client.hold('tcp', address, port, { sourcePort: 50_000, intervalMs: 50 });
      expect((await hold.established).open).toBe(1);
      await world.switchTo('ebpf');
      for (let i = 0; i < 3; i++) {
        const answer = await client.ask('tcp', address, port, { sourcePort, timeoutMs: 3000 });
        expect(answer).toMatchObject({ outcome: 'ok' });
        expect(answer.peerPort).not.toBe(kernelPort);
        await flow(100);
      }
      const { exchanges } = await hold.stop();
      expect(exchanges).toBeGreaterThan(3);
      expect(hold.failures).toEqual([]);
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
      await world.node.exec(['nft', 'delete', 'table', 'ip', 'awake']);
      await world.agent.stop();
    });

    test('the annotation of the Node moves it, and is followed when it goes', async () => {
      await world.startAgent('nft');
      await world.annotate('ebpf');
      await eventually(async () => (await world.status()).mode.mode).toBe('ebpf');
      expect((await world.status()).mode.reason).toContain('annotation');
      await world.annotate(null);
      await eventually(async () => (await world.status()).mode.mode).toBe('nft');
    });

    test('a client of a sticky service stays with its backend', async () => {
      const pod = world.lab.pod('a');
      const sticky = world.ways(4).find(({ title }) => title.includes('pod to a sticky'))!;
      const answering = async () => {
        const { pods } = await pod.call('tcp', sticky.address, sticky.port, { count: 20, timeoutMs: 3000 });
        return Object.keys(pods);
      };
      const first = await answering();
      expect(first).toHaveLength(1);
      for (const mode of ['ebpf', 'nft', 'ebpf'] as const) {
        await world.switchTo(mode);
        expect(await answering()).toEqual(first);
      }
    });
  });
});
