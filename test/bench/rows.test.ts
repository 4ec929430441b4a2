/** Which clusters and changes a run of the bench is made of, and that a run which lost some of its rows is told. */
import { describe, expect, test } from 'vitest';
import { controlSizes, parseArguments } from '../../bench/modes/arguments.ts';
import { comparisonText, missingRows, newlyUneven } from '../../bench/modes/compare.ts';
import { streamOf } from '../../bench/modes/control-path.ts';
import { oneRuleTable } from '../../bench/modes/one-rule.ts';
import type { Asked, ControlRow, DataRow, Result, RollingRow } from '../../bench/modes/result.ts';
import { bearableRate } from '../../bench/modes/rolling.ts';
import type { CallSummary } from '../../src/lab/results.ts';

describe('clusters of the control path', () => {
  test('each size with each number of endpoints, but for what is no cluster any more', () => {
    const command = parseArguments(['--large']);
    if (command.run !== 'measure') throw new Error('not a measurement');
    const sizes = controlSizes(command.with).map(({ services, endpoints }) => `${services} x ${endpoints}`);
    expect(sizes).toEqual([
      ...['1 x 10', '100 x 10', '1000 x 10', '10000 x 10', '50000 x 10'],
      ...['1 x 1', '100 x 1', '1000 x 1', '10000 x 1', '50000 x 1'],
      ...['1 x 100', '100 x 100', '1000 x 100'],
    ]);
  });

  test('numbers of endpoints can be chosen', () => {
    const chosen = parseArguments(['--endpoints', '3,20']);
    expect(chosen).toMatchObject({ with: { endpoints: [3, 20] } });
    expect(() => parseArguments(['--endpoints', '0'])).toThrow(/^--endpoints: "0" is no whole number/);
  });
});

describe('a stream of changes', () => {
  test.each([1, 2, 3])(
    'from backend %d: each is a change, and the last one stood at no time before',
    (current) => {
      const { ids, last } = streamOf(current, 3, 6);
      const all = [current, ...ids, last];
      expect(all.slice(1).every((id, at) => id !== all[at])).toBe(true);
      expect(all.slice(0, -1)).not.toContain(last);
      expect(ids.length).toBe(6);
    },
  );
});

test('the rules of the lane with one NAT rule bracket IPv6 addresses', () => {
  const rules = oneRuleTable({
    family: 6,
    backend: 'fd00::5',
    nodeAddress: 'fd00::1',
    outside: 'fd00:c::/64',
  });
  expect(rules).toContain('dnat to [fd00::5]:8080');
});

describe('a comparison with a run that has fewer rows', () => {
  const asked: Asked = {
    ...{ sizes: [10], modes: ['nft', 'ebpf'], families: [4], parts: ['data', 'control', 'rolling'] },
    ...{ endpoints: [10], packetFlows: [1], rounds: 1, calls: 1, kubeProxy: null },
  };
  const data = (mode: DataRow['mode'], services: number) =>
    ({ mode, services, target: 'ClusterIP', which: '', family: 4, kind: 'tcp' }) as DataRow;
  const control = (mode: DataRow['mode']) => ({ mode, services: 10, endpoints: 10 }) as ControlRow;
  const rolling = (mode: DataRow['mode']) => ({ mode, endpoints: 10, requests: 1, failed: 0 }) as RollingRow;
  const all = {
    ...{ asked, perPacket: [], data: [data('nft', 10), data('ebpf', 10), data('nft', 1000)] },
    ...{ control: [control('nft'), control('ebpf')], rolling: [rolling('nft'), rolling('ebpf')] },
  } as unknown as Result;
  const less: Result = {
    ...all,
    data: [data('nft', 10)],
    control: [control('nft')],
    rolling: [rolling('nft')],
  };

  test('names what it was asked for and has not, and nothing that it was not asked for', () => {
    const missing = missingRows(all, less);
    expect(missing).toEqual([
      'tcp IPv4 ClusterIP, ebpf 10',
      'requests and failures, rolling update of 10, ebpf',
      'control path, ebpf 10 x 10',
    ]);
    expect(comparisonText([], ['NOT MEASURED any more: one'])).toMatch(
      /^NOT MEASURED any more: one\n0 compared/,
    );
    expect(missingRows(all, all)).toEqual([]);
  });

  test('names a mode that has become uneven', () => {
    const spread = (probability: number) =>
      ({ ...all, evenness: [{ mode: 'nft', probability }] }) as unknown as Result;
    expect(newlyUneven(spread(0.5), spread(1e-6))).toEqual(['nft']);
    expect(newlyUneven(spread(1e-6), spread(1e-6))).toEqual([]);
  });

  test('says nothing of a run that did not keep what it was asked for', () => {
    const { asked: _, ...old } = less;
    expect(missingRows(all, old as Result)).toEqual([]);
  });
});

describe('requests a second of a rolling update', () => {
  /** A machine that answers so many a second. `otherwise`: what becomes of the rest. */
  function machine(bears: number, otherwise: { skipped?: number; failed?: number; p99?: number }) {
    return async (rate: number) => {
      const { skipped = 0, failed = 0, p99 = 0 } = rate > bears ? otherwise : {};
      const latencyUs = { min: 1, p50: 1, p90: 1, p99, p999: p99, max: p99 };
      const outcomes = { ok: rate - failed, timeout: failed } as CallSummary['outcomes'];
      return { total: rate, outcomes, skipped, latencyUs };
    };
  }

  test.each([{ skipped: 1 }, { failed: 1 }, { p99: 900_000 }])(
    '%j is too much for a machine',
    async (way) => {
      expect(await bearableRate(machine(800, way))).toBe(400);
      expect(await bearableRate(machine(300, way))).toBe(100);
      await expect(bearableRate(machine(10, way))).rejects.toThrow(/^100 requests a second are too many/);
    },
  );
});
