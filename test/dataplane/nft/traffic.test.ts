/** Real connections while the rules change under them, and packets that are not polite. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { NftDataplane } from '../../../src/dataplane/nft/nft-dataplane.ts';
import type { CallSummary } from '../../../src/lab/results.ts';
import { parseAddress } from '../../../src/model/address.ts';
import type { DesiredService, DesiredState } from '../../../src/model/desired.ts';
import { deleteFlows } from '../../../src/node/conntrack.ts';
import { changeBetween, stateOf } from '../../support/desired.ts';
import { NodeWorld, serverName } from '../../support/node-world.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { repeated } from '../../support/slowness.ts';
import { NODE, web } from '../../support/web.ts';

const networks = skipUnless(mayChangeNetworks(), 'needs root or an unprivileged user namespace');

/** A dropped SYN comes again after a second, and after three: more than that is a lost connection. */
const LOST_MS = 8_000;
const FLIPS_MIN = 200;
const FOUR = [
  '10.10.1.1 80',
  '10.10.1.1 443',
  '10.10.2.2 80',
  '10.10.2.3 80',
  '10.10.1.4 80',
  '10.10.2.2 443',
];
const SIX = ['fd00:10:10:1::1 80', 'fd00:10:10:1::1 443', 'fd00:10:10:2::2 80', 'fd00:10:10:2::3 80'];
const names = (backends: readonly string[]) => backends.map((one) => serverName(one)!);

networks.describe('nft, traffic', () => {
  let world: NodeWorld;
  let dataplane: NftDataplane;
  let state: DesiredState;

  beforeAll(async () => {
    world = await NodeWorld.create({ names: ['pod', 'L1', 'L4', 'R2', 'R3', 'outside', 'nobody'] });
    dataplane = new NftDataplane({ netns: world.netns });
    state = stateOf([], NODE);
    await dataplane.start(state);
  });
  afterAll(async () => {
    await dataplane?.close();
    await world?.remove();
  });
  beforeEach(() => bring([]));

  async function bring(services: readonly DesiredService[]): Promise<void> {
    const next = stateOf(services, NODE);
    const { refusals } = await dataplane.apply(changeBetween(state, next), next);
    state = next;
    expect(refusals).toEqual([]);
  }

  function expectAllAnswered(summary: CallSummary, allowed: readonly string[]): void {
    const { ok, ...bad } = summary.outcomes;
    expect(
      Object.values(bad).reduce((a, b) => a + b, 0),
      JSON.stringify(summary.outcomes),
    ).toBe(0);
    expect(ok).toBeGreaterThan(0);
    expect(Object.keys(summary.pods).filter((name) => !allowed.includes(name))).toEqual([]);
  }

  const lists = [
    FOUR.slice(0, 1),
    FOUR.slice(1, 3),
    FOUR.slice(3, 6),
    FOUR.slice(0, 5),
    FOUR.slice(4, 6),
    FOUR.slice(0, 4),
  ];

  test('no connection is lost while a pool flips between disjoint sets and sizes', async () => {
    const six = [SIX.slice(0, 1), SIX.slice(1, 4), SIX.slice(0, 2), SIX.slice(2, 4)];
    await bring([web(10, FOUR.slice(0, 3)), web(16, SIX)]);
    const load = { concurrency: 8, timeoutMs: LOST_MS, durationMs: 60_000 };
    const loads = await Promise.all([
      world.place('pod').load('tcp', '10.200.1.10', 9000, load),
      world.place('outside').load('tcp', '198.18.1.10', 9000, load),
      world.place('node').load('tcp', '10.200.1.10', 9000, { ...load, concurrency: 2 }),
      world.place('pod').load('tcp', 'fd00:10:200::16', 9000, { ...load, concurrency: 4 }),
    ]);
    // On a busy machine a flip takes its time, and the number of flips is what counts.
    const end = Date.now() + 12_000;
    let flips = 0;
    for (; Date.now() < end || flips < repeated(FLIPS_MIN); flips++) {
      const others =
        flips % 3 === 0 ? [web(20, FOUR.slice(0, 2)), web(21, [], 30)] : [web(20 + (flips % 7), FOUR)];
      await bring([web(10, lists[flips % lists.length]!), web(16, six[flips % six.length]!), ...others]);
    }
    const summaries = await Promise.all(loads.map((one) => one.stop()));
    for (const [index, summary] of summaries.entries())
      expectAllAnswered(summary, names(index < 3 ? FOUR : SIX));
    const total = summaries.reduce((sum, one) => sum + one.total, 0);
    console.log(`${flips} flips, ${total} connections`);
    expect(total).toBeGreaterThan(repeated(2_000));
    expect((await dataplane.verify(state)).repaired).toEqual([]);
  });

  test('no TCP connection is lost while the rules are replaced by other rules', async () => {
    await bring([web(10, FOUR)]);
    const load = await world
      .place('pod')
      .load('tcp', '10.200.1.10', 9000, { concurrency: 4, timeoutMs: LOST_MS, durationMs: 60_000 });
    for (let round = 0; round < 10; round++) {
      const node = round % 2 ? NODE : { ...NODE, detector: { by: 'bridge' as const, name: 'cni0' } };
      await dataplane.apply({ set: [], remove: [], node }, { ...state, node });
    }
    expectAllAnswered(await load.stop(), names(FOUR));
    await dataplane.apply({ set: [], remove: [], node: NODE }, state);
    expect((await dataplane.verify(state)).repaired).toEqual([]);
  });

  test('nobody is refused while the tables go and another proxy takes over', async () => {
    const other = `table ip other-proxy {
  map services { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 10.200.1.10 . 9000 : 10.10.1.1 . 80 }; }
  chain prerouting { type nat hook prerouting priority -90; meta l4proto tcp dnat ip to ip daddr . tcp dport map @services; }
  chain output { type nat hook output priority -90; meta l4proto tcp dnat ip to ip daddr . tcp dport map @services; }
}
`;
    expect((await world.run('node', ['nft', '-f', '-'], other)).stderr).toBe('');
    await bring([web(10, FOUR.slice(0, 1)), ...Array.from({ length: 200 }, (_, n) => web(20 + n, FOUR))]);
    const load = { concurrency: 8, timeoutMs: LOST_MS, durationMs: 60_000 };
    const loads = await Promise.all(
      (['pod', 'node'] as const).map((from) => world.place(from).load('tcp', '10.200.1.10', 9000, load)),
    );
    for (let round = 0; round < repeated(20); round++) {
      const remains = await dataplane.retire(state, 'ebpf');
      await remains.close();
      dataplane = new NftDataplane({ netns: world.netns });
      await dataplane.start(state);
    }
    for (const one of loads) expectAllAnswered(await one.stop(), names(FOUR));
    await world.run('node', ['nft', 'delete', 'table', 'ip', 'other-proxy']);
  });

  test.each([2, 3, 6])('spreads evenly over %i backends', async (size) => {
    const backends = FOUR.slice(0, size);
    await bring([web(10, backends)]);
    const count = repeated(10_000);
    const { pods, outcomes } = await world
      .place('pod')
      .call('tcp', '10.200.1.10', 9000, { count, concurrency: 16, timeoutMs: LOST_MS });
    expect(outcomes.ok).toBe(count);
    const expected = count / size;
    const chi = names(backends).reduce(
      (sum, name) => sum + ((pods[name] ?? 0) - expected) ** 2 / expected,
      0,
    );
    // Above this with a chance of 1e-7 for 5 degrees of freedom, and less for fewer.
    expect(chi).toBeLessThan(42);
  });

  test.each([
    ['TCP, IPv4', 'tcp', 'outside', '198.18.1.10', '192.0.2.11', '10.200.1.10', FOUR],
    ['UDP, IPv4', 'udp', 'outside', '198.18.1.10', '192.0.2.11', '10.200.1.10', FOUR],
    ['TCP, IPv6', 'tcp', 'outside', '2001:db8:18:1::10', '2001:db8::11', 'fd00:10:200::10', SIX],
  ] as const)(
    'affinity holds across all addresses: %s',
    async (_name, protocol, from, external, node, cluster, all) => {
      await bring([web(10, all, 600)]);
      const place = world.place(from);
      const first = (await place.ask(protocol, cluster, 9000)).name!;
      const together = await Promise.all([
        place.call(protocol, cluster, 9000, { count: 60, concurrency: 20, timeoutMs: LOST_MS }),
        place.call(protocol, external, 9000, { count: 60, concurrency: 20, timeoutMs: LOST_MS }),
        place.call(protocol, node, 31010, { count: 60, concurrency: 20, timeoutMs: LOST_MS }),
      ]);
      for (const { pods } of together) expect(pods).toEqual({ [first]: 60 });
      const rest = all.filter((one) => serverName(one) !== first);
      await bring([web(10, rest, 600)]);
      // The agent clears the flows of a backend that is gone; a source port that is used again must not meet one.
      const frontends = [`${cluster} 9000`, `${external} 9000`, `${node} 31010`].map((text) =>
        text.split(' '),
      );
      await deleteFlows(
        frontends.map(([address, port]) => ({
          protocol: 'UDP' as const,
          destination: { address: parseAddress(address!)!, port: Number(port) },
          answeredBy: 'any' as const,
        })),
        world.netns,
      );
      const second = await place.call(protocol, cluster, 9000, {
        count: 40,
        concurrency: 8,
        timeoutMs: LOST_MS,
      });
      expect(Object.keys(second.pods)).toHaveLength(1);
      expect(second.outcomes.ok).toBe(40);
      expect(Object.keys(second.pods)[0]).not.toBe(first);
      await bring([web(10, all, 600)]);
      const third = await place.call(protocol, external, 9000, {
        count: 40,
        concurrency: 8,
        timeoutMs: LOST_MS,
      });
      expect(third.pods).toEqual({ [Object.keys(second.pods)[0]!]: 40 });
      const again = new NftDataplane({ netns: world.netns });
      expect((await again.start(state)).operations).toBe(0);
      await again.close();
      const fourth = await place.call(protocol, node, 31010, {
        count: 40,
        concurrency: 8,
        timeoutMs: LOST_MS,
      });
      expect(fourth.pods).toEqual(third.pods);
    },
  );

  test('concurrent first connections of one client agree on a backend', async () => {
    for (let round = 0; round < 20; round++) {
      await bring([web(10, FOUR, 600)]);
      const { pods } = await world
        .place('pod')
        .call('tcp', '10.200.1.10', 9000, { count: 30, concurrency: 30, timeoutMs: LOST_MS });
      expect(Object.keys(pods)).toHaveLength(1);
      await bring([]);
    }
  });

  test('UDP without a checksum arrives', async () => {
    await bring([web(10, FOUR)]);
    const program = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 11, 1)
s.settimeout(2)
s.sendto(b"WHO\\n", ("10.200.1.10", 9000))
print(s.recv(200).decode())`;
    const { stdout, stderr } = await world.run('pod', ['/usr/bin/python3', '-'], program);
    expect(stdout + stderr).toMatch(/^[LR]\d-/);
  });

  test('UDP in fragments arrives', async () => {
    await bring([web(10, FOUR)]);
    const program = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(b"W" * 1900, ("10.200.1.10", 9000))
print(s.recv(200).decode())`;
    const { stdout, stderr } = await world.run('pod', ['/usr/bin/python3', '-'], program);
    expect(stdout + stderr).toMatch(/^[LR]\d-/);
  });

  test.each([
    ['0.0.0.1', 0],
    ['0.0.0.2', 80],
    ['100::1', 0],
    ['100::2', 1],
  ])('a pool address is no way in: %s port %i', async (address, port) => {
    await bring([web(10, FOUR), web(16, SIX)]);
    if (address.includes(':')) {
      const { outcome } = await world.place('outside').ask('tcp', address, port || 1, { timeoutMs: 300 });
      expect(outcome).not.toBe('ok');
    }
    const { outcome } = await world.place('outside').ask('udp', address, port || 1, { timeoutMs: 300 });
    expect(outcome).not.toBe('ok');
  });
});
