import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { adoptTables } from '../../src/dataplane/ebpf/adopt.ts';
import { guardFamilies } from '../../src/dataplane/ebpf/image.ts';
import { Indexes } from '../../src/dataplane/ebpf/indexes.ts';
import { Ranges } from '../../src/dataplane/ebpf/ranges.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { Family } from '../../src/model/records.ts';
import { arbitraryChange, arbitraryConfig, arbitraryFacts } from '../model/arbitrary.ts';
import { CONFIG, FACTS, ip, net, service } from '../model/world.ts';
import { type Bench, meaning, openBench, Subject, wipe } from '../support/ebpf-tables.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const root = skipUnless(privilege() === 'root', 'needs root');

describe('allocators', () => {
  test('ranges never overlap, grow together again, and are told from one another', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 40 })), { maxLength: 60 }),
        (limit, steps) => {
          const ranges = new Ranges(limit);
          const held: [number, number][] = [];
          for (const [take, count] of steps) {
            if (take) {
              const base = ranges.take(count);
              if (base >= 0) held.push([base, count]);
            } else {
              const one = held.splice(count % Math.max(held.length, 1), 1)[0];
              if (one) ranges.release(...one);
            }
            const slots = held.flatMap(([base, n]) => Array.from({ length: n }, (_, i) => base + i));
            expect(new Set(slots).size).toBe(slots.length);
            expect(slots.every((slot) => slot < limit)).toBe(true);
          }
          const again = new Ranges(limit);
          for (const one of held) expect(again.reserve(...one)).toBe(true);
          for (const one of held) expect(again.reserve(...one)).toBe(false);
          expect(again.used).toBe(ranges.used);
          for (const one of held) ranges.release(...one);
          for (const one of held) again.release(...one);
          expect(ranges.used).toBe(0);
          const largest = 2 ** Math.floor(Math.log2(limit));
          expect(ranges.take(largest)).toBeGreaterThanOrEqual(0);
          expect(again.take(largest)).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });

  test('indexes are given out once each, and again after they came back', () => {
    const indexes = new Indexes(4, 1);
    expect(indexes.reserve(2)).toBe(true);
    expect([indexes.take(), indexes.take(), indexes.take()]).toEqual([1, 3, -1]);
    indexes.release(2);
    expect(indexes.take()).toBe(2);
    expect(() => {
      indexes.release(1);
      indexes.release(1);
    }).toThrow(RangeError);
  });
});

root.describe('the tables', () => {
  let bench: Bench;
  let fresh: Bench;
  beforeAll(async () => {
    bench = await openBench();
    fresh = await openBench();
  });
  afterAll(() => {
    bench?.close();
    fresh?.close();
  });
  beforeEach(() => {
    wipe(bench);
    wipe(fresh);
  });

  const changes = fc.array(fc.array(arbitraryChange, { minLength: 1, maxLength: 6 }), { maxLength: 12 });

  test('any sequence of changes ends in what a fresh start makes', () => {
    fc.assert(
      fc.property(arbitraryConfig, arbitraryFacts, changes, (config, facts, batches) => {
        wipe(bench);
        wipe(fresh);
        const model = new ClusterModel(config, facts);
        const subject = new Subject(bench.maps);
        for (const batch of batches) {
          model.apply(batch);
          const change = model.produce();
          const result = subject.compiler.apply([
            ...change.remove.map((service) => ({ service, next: null })),
            ...change.set.map((next) => ({ service: next.key, next })),
          ]);
          expect(result.refusals).toEqual([]);
          subject.nowMs += 700;
        }
        expect(subject.compiler.repair()).toEqual([]);
        subject.settle();
        const other = new Subject(fresh.maps);
        other.bring(model.state);
        expect(meaning(bench.maps)).toEqual(meaning(fresh.maps));
        expect(subject.compiler.repair()).toEqual([]);
        const { frontends, backends, pools, guards, ids } = subject.compiler;
        expect(frontends.records.used).toBe(other.compiler.frontends.records.used);
        expect(backends.records.used).toBe(other.compiler.backends.records.used);
        expect(pools.used).toBe(other.compiler.pools.used);
        expect(guards.used).toBe(other.compiler.guards.used);
        expect(ids.used).toBe(other.compiler.ids.used);
        // Nothing is left of what went.
        subject.bring({ services: new Map(), node: model.state.node });
        subject.settle();
        expect(bench.maps.index.words.every((word) => word === 0)).toBe(true);
        expect([frontends.records.used, backends.records.used, pools.used, ids.used]).toEqual([0, 0, 0, 0]);
        expect(bench.maps.names.keys()).toEqual([]);
        expect(bench.maps.ranges.keys()).toEqual([]);
        subject.clock.close();
        other.clock.close();
      }),
      { numRuns: 300 },
    );
  });

  test('a start over what another agent left writes only what differs, and ends like a fresh one', () => {
    fc.assert(
      fc.property(arbitraryConfig, arbitraryFacts, changes, changes, (config, facts, before, after) => {
        wipe(bench);
        wipe(fresh);
        const model = new ClusterModel(config, facts);
        const first = new Subject(bench.maps);
        // It ends in the middle of what it was doing: some of what went is not away yet.
        for (const batch of before) {
          model.apply(batch);
          model.produce();
          first.bring(model.state);
          first.nowMs += 700;
        }
        const second = new Subject(bench.maps);
        const nobody = { frontend: () => false, backend: () => false };
        adoptTables(second.compiler, nobody);
        expect(second.bring(model.state).operations).toBe(0);
        expect(second.compiler.repair()).toEqual([]);
        const third = new Subject(bench.maps);
        adoptTables(third.compiler, nobody);
        for (const batch of after) model.apply(batch);
        model.produce();
        third.bring(model.state);
        third.settle();
        const other = new Subject(fresh.maps);
        other.bring(model.state);
        expect(meaning(bench.maps)).toEqual(meaning(fresh.maps));
        expect(third.compiler.frontends.records.used).toBe(other.compiler.frontends.records.used);
        expect(third.compiler.backends.records.used).toBe(other.compiler.backends.records.used);
        expect(third.compiler.pools.used).toBe(other.compiler.pools.used);
        for (const subject of [first, second, third, other]) subject.clock.close();
      }),
      { numRuns: 300 },
    );
  });

  test('a guard is of the family of who has its number now, not of who had it and is withdrawn', () => {
    const pools = (answer: number) => ({ base: 0, count: 0, answer, masquerade: false });
    const image = (family: Family, guard: number, answer: number) =>
      ({ family, guard, flags: ABI.F_GUARDED, inside: pools(answer), outside: pools(answer) }) as never;
    const now = image(6, 3, ABI.REJECT);
    const withdrawn = image(4, 3, ABI.GONE);
    for (const images of [
      [now, withdrawn],
      [withdrawn, now],
    ])
      expect(guardFamilies([...images, image(4, 5, ABI.GONE)])).toEqual(new Map([[3, 6]]));
  });

  test('source ranges that went and came back before the agent ended are the same ones at the next start', () => {
    const model = new ClusterModel(CONFIG, FACTS);
    const guarded = (port: number, addresses: readonly string[]) =>
      service({
        type: 'LoadBalancer',
        ports: [{ name: '', protocol: 'TCP', port, nodePort: 0 }],
        loadBalancerIPs: addresses.map(ip),
        sourceRanges: [net('198.51.100.0/24')],
      });
    const first = new Subject(bench.maps);
    for (const [port, addresses] of [
      [80, ['192.0.2.7']],
      [80, []],
      [81, ['192.0.2.7']],
    ] as const) {
      model.apply([{ op: 'set', record: guarded(port, addresses) }]);
      model.produce();
      first.bring(model.state);
      first.nowMs += 700;
    }
    const second = new Subject(bench.maps);
    adoptTables(second.compiler, { frontend: () => false, backend: () => false });
    expect(second.bring(model.state).operations).toBe(0);
    second.settle();
    expect(meaning(bench.maps).ranges).toBe(1);
    for (const subject of [first, second]) subject.clock.close();
  });

  test('what somebody else wrote is found and put right', () => {
    const model = new ClusterModel(fc.sample(arbitraryConfig, 1)[0]!, fc.sample(arbitraryFacts, 1)[0]!);
    model.apply(
      fc.sample(fc.array(arbitraryChange, { minLength: 60, maxLength: 60 }), { numRuns: 1, seed: 7 })[0]!,
    );
    model.produce();
    const subject = new Subject(bench.maps);
    subject.bring(model.state);
    const right = meaning(bench.maps);
    expect(right.rows.length).toBeGreaterThan(2);
    const { frontends, index, poolSlots, backends, names } = bench.maps;
    for (const damage of [
      () => frontends.longs.fill(0n, 0, 8),
      () => index.longs.fill(0n),
      () => poolSlots.words.fill(7, 0, 8),
      () => backends.bytes.fill(1, 0, 20),
      () => names.removeAll(names.keys()),
      () => bench.maps.nodePorts.longs.fill(3n, 100, 102),
    ]) {
      damage();
      subject.compiler.repair();
      expect(meaning(bench.maps)).toEqual(right);
      expect(subject.compiler.repair()).toEqual([]);
    }
    subject.clock.close();
  });
});
