/** Which clusters and changes a run of the bench is made of, and that a run which lost some of its rows is told. */
import { describe, expect, test } from 'vitest';
import { controlSizes, parseArguments } from '../../bench/modes/arguments.ts';
import { comparisonText, missingRows, newlyUneven, parseResult } from '../../bench/modes/compare.ts';
import { comparisonHead } from '../../bench/modes/compare-head.ts';
import { streamOf } from '../../bench/modes/control-path.ts';
import { curveOf } from '../../bench/modes/data-path.ts';
import { standingRefusal } from '../../bench/modes/last-words.ts';
import { oneRuleTable } from '../../bench/modes/one-rule.ts';
import {
  type Asked,
  type ControlRow,
  type DataRow,
  type Result,
  type RollingRow,
  resultJson,
} from '../../bench/modes/result.ts';
import { bearableRate } from '../../bench/modes/rolling.ts';
import { Progress } from '../../bench/support/progress.ts';
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

  test('sizes are in order and each there once, however they are given', () => {
    expect(parseArguments(['--sizes', '1000,10,1000', '--modes', 'nft,nft'])).toMatchObject({
      with: { sizes: [10, 1000], modes: ['nft'] },
    });
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

describe('the file of a run', () => {
  /** As many buckets as a real row of many calls has. */
  const histogram = new Map(
    Array.from({ length: 160 }, (_, i) => [320 + i, Math.ceil(3000 * Math.exp(-i / 20))]),
  );
  const curve = curveOf(histogram);
  const one = {
    ...{ mode: 'kube-proxy-nftables', services: 10_000, target: 'pod from outside', which: 'middle' },
    ...{ family: 4, kind: 'tcp', ratio: 1 / 0.93, low: 1 / 0.94, high: 1 / 0.92, us: 100 / 0.93 },
    ...{ p50: 39.42, p99: 103.4, p999: 247.8, curve },
  };
  const data = Array.from({ length: 700 }, () => one);
  const text = resultJson({ format: 1, data, perPacket: [{ flows: 1_048_576 }] } as unknown as Result);

  test('holds the curves of 700 rows in less than 500 KB, a line for each row', () => {
    expect(text.length).toBeLessThan(500_000);
    expect(text.split('\n').length).toBeLessThan(720);
    const back = parseResult(text, 'file');
    expect(back.data[0]).toEqual({ ...one, ratio: 1.07527, low: 1.06383, high: 1.08696, us: 107.527 });
    expect(back.perPacket[0]?.flows).toBe(1_048_576);
  });

  test('a curve rises from its first calls to all of them, and has the far end', () => {
    const shares = curve.map(([, share]) => share);
    expect(shares).toEqual(shares.toSorted((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
    expect(shares.filter((share) => share >= 0.99).length).toBeGreaterThan(2);
    expect(curve.length).toBeGreaterThan(12);
  });

  test('of before is read as well, with curves or without', () => {
    const old = (points: readonly unknown[]) =>
      JSON.stringify({ format: 1, data: [{ ...one, curve: points }] }, null, 1);
    for (const points of [[], [[29.44, 0.0033333]]])
      expect(parseResult(old(points), 'file').data[0]?.curve).toEqual(points);
  });
});

describe('what an agent refuses', () => {
  const line = (object: string, msg: string, code = 'TP_BAD_OBJECT') =>
    JSON.stringify({ level: 40, code, object, msg });
  const REFUSED = line('Service team-0/a', 'refused: port is 0');

  test('is named with its reason and code, whatever else is logged', () => {
    const log = ['{"level":30,"msg":"ready"}', REFUSED, 'no JSON "TP_', '{"code":"TP_'].join('\n');
    expect(standingRefusal(log)).toBe('the agent refuses Service team-0/a: port is 0 (TP_BAD_OBJECT)');
    expect(standingRefusal(line('Service team-0/a', 'no space', 'TP_KERNEL_REFUSED'))).toMatch(/no space/);
  });

  test('and takes later, is no reason; nor is what the API server made or what did not arrive', () => {
    expect(standingRefusal(`${REFUSED}\n${line('Service team-0/a', 'no longer refused')}`)).toBeNull();
    expect(standingRefusal(line('Service default/kubernetes', 'refused: why'))).toBeNull();
    expect(standingRefusal(line('the API server', 'no answer', 'TP_API'))).toBeNull();
  });
});

test('progress tells the time that went by, and what remains where steps are alike', () => {
  const lines: string[] = [];
  let now = 0;
  const progress = new Progress(
    (line) => lines.push(line),
    () => now,
  );
  progress.begin(3, true);
  for (const at of [0, 120_000, 240_000]) {
    now = at;
    progress.step('round');
  }
  now = 3_661_000;
  progress.begin(2);
  progress.step('size');
  now += 1000;
  progress.step('size');
  expect(lines).toEqual([
    ...['[0:00] round (1 of 3)', '[2:00] round (2 of 3, some 4 min left of this part)'],
    ...['[4:00] round (3 of 3, some 2 min left of this part)'],
    ...['[1:01:01] size (1 of 2)', '[1:01:02] size (2 of 2)'],
  ]);
});

test('a comparison names its runs, what counts as a change, and what is not compared', () => {
  const machine = { kernel: '6.18.0-x', cpus: 2, cpu: 'CPU', memoryMiB: 1, node: 'v20' };
  const data = [{ mode: 'nft', services: 10, target: 'ClusterIP', which: '', family: 4, kind: 'tcp' }];
  const control = [{ mode: 'nft', services: 10, endpoints: 10 }];
  const run = {
    ...{ machine, quietness: { quiet: true }, startedAt: 'then', noise: { ratio: 1, low: 0.9, high: 1.1 } },
    ...{ source: 'manifests', data, control, perPacket: [], rolling: [] },
  } as unknown as Result;
  const head = (other: object) =>
    comparisonHead({ file: 'a', result: run }, { file: 'b', result: { ...run, ...other } as Result });
  expect(head({ control: [] })).toBe(
    [
      'before a: then, 2 x CPU, Linux 6.18.0: quiet',
      'after  b: then, 2 x CPU, Linux 6.18.0: quiet',
      'Beyond noise: intervals that do not meet, and more than 11.1% apart (data path) or 25% (packets, control path)',
      'Rows in one run alone, not compared: 1 before, 0 after\n',
    ].join('\n'),
  );
  expect(head({})).toContain('takes a kube-proxy in both runs');
  expect(head({ source: 'API server' })).toContain('fed from manifests before and from API server after');
  const other = head({ machine: { ...machine, cpus: 4 }, quietness: { quiet: false } });
  expect(other).toMatch(/Linux 6.18.0: NOT QUIET\nDIFFERENT MACHINES/);
});
