import { expect, test } from 'vitest';
import { IpvsDataplane } from '../../../src/dataplane/ipvs/ipvs-dataplane.ts';
import { ipvs } from '../../support/ipvs.ts';
import { web } from '../../support/web.ts';
import { expectConnectionsAlone, FOUR, sumOf, testCounting } from './table.ts';

testCounting(
  { title: 'ipvs', gate: ipvs, open: (netns, traffic) => new IpvsDataplane({ netns, traffic }) },
  (ground) => {
    test('level connections counts no packet', () => expectConnectionsAlone(ground));

    test('what a predecessor has counted is not counted again; a backend that comes back goes on', async () => {
      const services = [web(10, FOUR)];
      const call = (count: number) => ground.world.place('pod').call('tcp', '10.200.1.10', 9000, { count });
      const connections = async () => sumOf(await ground.cells('test/web-10:tcp')).connections;
      await ground.start({ level: 'traffic', by: 'endpoint' }, services);
      await call(6);
      expect(await connections()).toBe(6);
      await ground.start({ level: 'traffic', by: 'endpoint' }, services);
      expect(await connections()).toBe(0);
      await call(4);
      expect(await connections()).toBe(4);
      await ground.apply([web(10, FOUR.slice(1))]);
      await ground.apply(services);
      expect(await connections()).toBe(4);
    });
  },
);
