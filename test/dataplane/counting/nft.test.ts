import { expect, test } from 'vitest';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { TRAFFIC_TABLE } from '../../../src/dataplane/nft/traffic-text.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { web } from '../../support/web.ts';
import { expectConnectionsAlone, FOUR, sumOf, testCounting } from './table.ts';

/** What others may do to the table. */
const FOREIGN = [
  `flush chain ip ${TRAFFIC_TABLE} count-in`,
  `flush table ip ${TRAFFIC_TABLE}`,
  `add rule ip6 ${TRAFFIC_TABLE} begin-input counter`,
  `flush chain ip ${TRAFFIC_TABLE} begin-input; delete chain ip ${TRAFFIC_TABLE} begin-input`,
  `add table ip ${TRAFFIC_TABLE} { flags dormant; }`,
];

testCounting(
  {
    title: 'nft',
    gate: skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace'),
    open: (netns, traffic) => new NftDataplane({ netns, traffic }),
  },
  (ground) => {
    const node = (command: readonly string[], input = '') => ground.world.run('node', command, input);
    const isThere = async () => (await node(['nft', 'list', 'tables'])).stdout.includes(TRAFFIC_TABLE);

    test('what others translate is not ours', async () => {
      const foreign = `table ip tpforeign { chain c { type nat hook prerouting priority -100;
        ip daddr 203.0.113.9 tcp dport 7 dnat to 10.10.1.1:80; }; }`;
      await node(['nft', '-f', '-'], foreign);
      const before = await ground.cells();
      const { outcomes } = await ground.world.place('pod').call('tcp', '203.0.113.9', 7, { count: 3 });
      await node(['nft', 'delete', 'table', 'ip', 'tpforeign']);
      expect(outcomes).toMatchObject({ ok: 3 });
      expect(await ground.cells()).toEqual(before);
    });

    test('level connections counts no packet', () => expectConnectionsAlone(ground));

    test('a table that somebody takes is made anew, and only then; level connections looks at no open connection', async () => {
      const dataplane = await ground.start({ level: 'connections', by: 'service' }, [web(10, FOUR)]);
      expect((await node(['nft', 'list', 'table', 'ip', TRAFFIC_TABLE])).stdout).not.toContain('type filter');
      const call = (count: number) => ground.world.place('pod').call('tcp', '10.200.1.10', 9000, { count });
      await call(2);
      expect((await dataplane.verify(ground.state)).repaired).toEqual([]);
      expect(await ground.connections('')).toBe(2);
      await node(['nft', 'delete', 'table', 'ip', TRAFFIC_TABLE]);
      const { repaired } = await dataplane.verify(ground.state);
      expect(repaired).toEqual([expect.stringMatching(/^IPv4: .*counts traffic/)]);
      await call(3);
      expect(await ground.connections('')).toBe(2 + 3);
    });

    test('rules that somebody changes in the table are made anew, and nothing that was counted is lost', async () => {
      const dataplane = await ground.start({ level: 'traffic', by: 'service' }, [web(10, FOUR)]);
      const repaired = async () => (await dataplane.verify(ground.state)).repaired;
      const call = (count: number) => ground.world.place('pod').call('tcp', '10.200.1.10', 9000, { count });
      let called = 0;
      for (const [round, command] of FOREIGN.entries()) {
        await call(1);
        expect(await repaired()).toEqual([]);
        expect(await node(['nft', '-f', '-'], command)).toMatchObject({ status: 0 });
        expect(await repaired()).toEqual([expect.stringMatching(/counts traffic/)]);
        expect(await repaired()).toEqual([]);
        // More than the counter before has had: it is another one.
        await call(round + 2);
        called += round + 3;
        expect(await ground.connections('test/web-10:tcp')).toBe(called);
      }
    });

    test('connections that drain go on being counted, and the last of them takes the table along', async () => {
      const services = [web(10, FOUR)];
      const dataplane = (await ground.start({ level: 'traffic', by: 'service' }, services)) as NftDataplane;
      const reader = dataplane.traffic()!;
      await ground.world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 1 });
      const remains = await dataplane.retire(ground.state, 'ebpf');
      expect(remains.traffic!()).toBe(reader);
      expect(await isThere()).toBe(true);
      expect(sumOf(await reader.read(ground.state)).connections).toBe(1);
      await remains.remove();
      expect(await isThere()).toBe(false);
      ground.dataplane = null;
    });

    test('level off leaves nothing in the kernel, also of an agent that counted', async () => {
      await ground.start({ level: 'traffic', by: 'service' }, []);
      expect(await isThere()).toBe(true);
      await ground.start({ level: 'off', by: 'service' }, []);
      expect(await isThere()).toBe(false);
      expect(ground.dataplane!.traffic!()).toBeNull();
    });
  },
);
