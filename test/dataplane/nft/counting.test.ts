/** What the nft mode counts, against what another table of nftables counts at the servers' own end. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import { TRAFFIC_TABLE } from '../../../src/dataplane/nft/traffic-text.ts';
import type { TrafficCell, TrafficSettings } from '../../../src/dataplane/traffic.ts';
import type { DesiredService } from '../../../src/model/desired.ts';
import { same } from '../../../src/model/same.ts';
import { stateOf } from '../../support/desired.ts';
import { type HostName, NodeWorld } from '../../support/node-world.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { countAt, truthOf } from '../../support/truth.ts';
import { NODE, web } from '../../support/web.ts';

const networks = skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace');
const WAIT = { timeout: 30_000, interval: 50 };

networks.describe('nft, counting', () => {
  let world: NodeWorld;
  let dataplane: NftDataplane | null = null;

  beforeAll(async () => {
    world = await NodeWorld.create({ names: ['pod', 'L1', 'R2', 'outside', 'nobody'] });
  });
  afterAll(() => world?.remove());
  afterEach(async () => {
    await dataplane?.close();
    dataplane = null;
  });

  async function bring(traffic: TrafficSettings, services: readonly DesiredService[]) {
    dataplane = new NftDataplane({ netns: world.netns, traffic });
    const state = stateOf(services, NODE);
    expect((await dataplane.start(state)).refusals).toEqual([]);
    const running = dataplane;
    return {
      state,
      cells: () => running.traffic()!.read(state),
      verify: () => running.verify(state),
    };
  }

  const isThere = async () =>
    (await world.run('node', ['nft', 'list', 'tables'])).stdout.includes(TRAFFIC_TABLE);

  const FOUR = ['10.10.1.1 80', '10.10.2.2 80'];
  const SIX = ['fd00:10:10:1::1 80', 'fd00:10:10:2::2 80'];
  const OWN = ['192.0.2.11 30000'];
  const CASES: readonly (readonly [
    string,
    'tcp' | 'udp',
    HostName | 'node',
    string,
    number,
    readonly string[],
    readonly (HostName | 'node')[],
  ])[] = [
    ['a pod to a cluster IP, TCP', 'tcp', 'pod', '10.200.1.10', 9000, FOUR, ['L1', 'R2']],
    ['a pod to a cluster IP, UDP', 'udp', 'pod', '10.200.1.10', 9000, FOUR, ['L1', 'R2']],
    ['a pod to a cluster IP, IPv6', 'tcp', 'pod', 'fd00:10:200::10', 9000, SIX, ['L1', 'R2']],
    ['outside to a NodePort, masqueraded', 'tcp', 'outside', '192.0.2.11', 31010, FOUR, ['L1', 'R2']],
    ['outside to a server of the node itself', 'tcp', 'outside', '198.18.1.10', 9000, OWN, ['node']],
    ['the node to a pod', 'tcp', 'node', '10.200.1.10', 9000, FOUR, ['L1', 'R2']],
    ['the node to itself, by lo', 'tcp', 'node', '10.200.1.10', 9000, OWN, ['node']],
  ];
  const COUNT = 20;

  test.each(CASES)(
    '%s: every connection, packet and byte, once',
    async (_name, protocol, from, to, port, backends, at) => {
      const { cells, verify } = await bring({ level: 'traffic', by: 'endpoint' }, [web(10, backends)]);
      for (const place of at) {
        await world.run(place, ['nft', 'delete', 'table', 'inet', 'tptruth']);
        await countAt(world, place, [80, 30000]);
      }
      const { outcomes } = await world.place(from).call(protocol, to, port, { count: COUNT, concurrency: 4 });
      expect(outcomes.ok).toBe(COUNT);
      // The last of a connection's packets may still be under way.
      await expect
        .poll(async () => {
          const counted = sumOf(await cells());
          const truth = { connections: COUNT, ...(await truthOf(world, at)) };
          return same(counted, truth) ? 'the same' : { counted, truth };
        }, WAIT)
        .toBe('the same');
      const found = await cells();
      expect(new Set(found.map((cell) => cell.port))).toEqual(new Set([`test/web-10:${protocol}`]));
      const named = backends.map((one) => one.replace(/^(.*:.*) /, '[$1] ').replace(' ', ':'));
      for (const { endpoint } of found) expect(named).toContain(endpoint);
      // The tables that carry the traffic know nothing of it, and what counts is nobody's difference.
      expect((await verify()).repaired).toEqual([]);
    },
  );

  test('level connections counts no packet; level off leaves nothing in the kernel', async () => {
    const services = [web(10, FOUR)];
    const first = await bring({ level: 'connections', by: 'service' }, services);
    await world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 7 });
    expect((await first.cells()).map(({ cell, ...counts }) => counts)).toEqual([
      {
        ...{ port: 'test/web-10:tcp', endpoint: '', connections: 7 },
        ...{ packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 },
      },
    ]);
    const rules = (await world.run('node', ['nft', 'list', 'table', 'ip', TRAFFIC_TABLE])).stdout;
    expect(rules).not.toContain('type filter');
    await dataplane!.close();
    const off = new NftDataplane({ netns: world.netns });
    dataplane = off;
    await off.start(first.state);
    expect(off.traffic()).toBeNull();
    expect(await isThere()).toBe(false);
  });

  test('what is refused or has no endpoint is no connection; what others translate is not ours', async () => {
    const { cells } = await bring({ level: 'traffic', by: 'service' }, [web(10, FOUR), web(11, [])]);
    const foreign = `table ip tpforeign { chain c { type nat hook prerouting priority -100;
      ip daddr 203.0.113.9 tcp dport 7 dnat to 10.10.1.1:80; }; }`;
    await world.run('node', ['nft', '-f', '-'], foreign);
    const other = await world.place('pod').call('tcp', '203.0.113.9', 7, { count: 3 });
    expect(other.outcomes.ok).toBe(3);
    await world.place('pod').call('tcp', '10.200.1.11', 9000, { count: 3 });
    expect(await cells()).toEqual([]);
    await world.run('node', ['nft', 'delete', 'table', 'ip', 'tpforeign']);
  });

  test('a table that somebody takes is made anew, and only then', async () => {
    const { cells, verify } = await bring({ level: 'connections', by: 'service' }, [web(10, FOUR)]);
    await world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 2 });
    expect((await verify()).repaired).toEqual([]);
    expect(sumOf(await cells()).connections).toBe(2);
    await world.run('node', ['nft', 'delete', 'table', 'ip', TRAFFIC_TABLE]);
    expect((await verify()).repaired).toEqual([expect.stringMatching(/^IPv4: .*counts traffic/)]);
    await world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 3 });
    expect(sumOf(await cells()).connections).toBe(3);
  });

  test('connections that drain go on being counted, and the last of them takes the table along', async () => {
    const { state, cells } = await bring({ level: 'traffic', by: 'service' }, [web(10, FOUR)]);
    const reader = dataplane!.traffic()!;
    await world.place('pod').call('tcp', '10.200.1.10', 9000, { count: 1 });
    const before = sumOf(await cells());
    const remains = await dataplane!.retire(state, 'ebpf');
    expect(remains.traffic!()).toBe(reader);
    expect(await isThere()).toBe(true);
    expect(sumOf(await reader.read(state)).connections).toBe(before.connections);
    await remains.remove();
    expect(await isThere()).toBe(false);
  });
});

function sumOf(cells: readonly TrafficCell[]) {
  const sum = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };
  for (const cell of cells) for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += cell[key];
  return sum;
}
