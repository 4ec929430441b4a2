/** The parts of the bench that compute; what it measures is no matter for a test. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { missingApiServer } from '../../bench/modes/api-server.ts';
import { parseArguments } from '../../bench/modes/arguments.ts';
import { calledAmong, clusterIp, clusterObjects, fakeBackends } from '../../bench/modes/cluster.ts';
import { compareResults, comparisonText, judge, parseResult } from '../../bench/modes/compare.ts';
import { type DataLane, measureData } from '../../bench/modes/data-path.ts';
import { escapeText } from '../../bench/modes/escape.ts';
import { chiSquareTail } from '../../bench/modes/evenness.ts';
import { exponentOf, fitLine, growthOf } from '../../bench/modes/growth.ts';
import { resultHtml } from '../../bench/modes/html.ts';
import { KUBE_PROXY_MODES, missingTools } from '../../bench/modes/kube-proxy.ts';
import type { Lane } from '../../bench/modes/lane.ts';
import { lastLine } from '../../bench/modes/last-words.ts';
import { lookOf } from '../../bench/modes/look.ts';
import { intervalPlot, linePlot } from '../../bench/modes/plot.ts';
import type { DataRow, Result } from '../../bench/modes/result.ts';
import { resultText } from '../../bench/modes/text.ts';
import { histogramQuantile, middleOf, parseHistogram } from '../../bench/support/histogram.ts';
import { pairedRatioOf, ratioOf } from '../../bench/support/ratio.ts';
import { DECODERS } from '../../src/source/decode/object.ts';

const OWN = ['nft', 'ipvs', 'ebpf', 'ebpf-tc', 'ebpf-untracked'] as const;

describe('arguments', () => {
  test.each([
    [['--sizes', '0'], '--sizes: "0" is no whole number from 1 to 100000'],
    [['--sizes', '1,x'], '--sizes: "x" is no whole number from 1 to 100000'],
    [['--modes', 'iptables'], '--modes: "iptables" is none of nft, ipvs, ebpf, ebpf-tc, ebpf-untracked'],
    [['--only', 'all'], '--only: "all" is none of packet, data, control, rolling'],
    [['--family', '5'], '--family: "5" is none of 4, 6'],
    [['--compare', 'a.json'], '--compare takes two JSON files'],
    [['what'], '"what" is not understood'],
  ])('%j is refused by name', (args, message) => {
    expect(() => parseArguments(args)).toThrow(new RangeError(message));
  });

  test('an unknown option is named in one line', () => {
    expect(() => parseArguments(['--frobnicate'])).toThrow(/^[^\n]*--frobnicate[^\n]*$/);
  });

  test('kube-proxy is measured where it is given, and only there', () => {
    expect(() => parseArguments(['--modes', 'kube-proxy-nftables'])).toThrow(/is none of nft/);
    const modes = [...OWN, 'kube-proxy-nftables', 'kube-proxy-iptables'];
    expect(parseArguments(['--kube-proxy', 'kp'])).toMatchObject({ with: { kubeProxy: 'kp', modes } });
    expect(missingTools('kube-proxy-iptables', { PATH: '' })).toBe(
      'needs iptables, iptables-save, iptables-restore on PATH',
    );
    expect(missingApiServer({})).toMatch(/^needs KUBEBUILDER_ASSETS/);
  });

  test('the last words of a program stand without the frame of its log', () => {
    expect(lastLine('a\nE1126 09:00:00.000001    12 server.go:1] "No nft"\n')).toBe('"No nft"');
    expect(lastLine('{"level":50,"msg":"no \\"nft\\""}\n')).toBe('no \\"nft\\"');
  });

  test('--large adds 50,000 services, --quick takes fewer', () => {
    expect(parseArguments(['--large'])).toMatchObject({ with: { sizes: [1, 100, 1000, 10_000, 50_000] } });
    expect(parseArguments(['--quick'])).toMatchObject({ with: { sizes: [10, 1000] } });
    expect(parseArguments(['--help'])).toEqual({ run: 'help' });
  });
});

describe('latencies', () => {
  test('buckets cover everything and are known to 3%', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (ns) => {
        // As bench/load/load.c counts it.
        const power = ns < 32 ? 0 : Math.floor(Math.log2(ns));
        const bucket = ns < 32 ? ns : (power - 4) * 32 + (Math.floor(ns / 2 ** (power - 5)) & 31);
        expect(Math.abs(middleOf(bucket) - ns)).toBeLessThanOrEqual(Math.max(0.5, ns * 0.03));
      }),
    );
  });

  test('quantiles', () => {
    const histogram = parseHistogram('10:90,20:9,30:1');
    expect([0.5, 0.9, 0.98, 0.99, 1].map((share) => histogramQuantile(histogram, share))).toEqual([
      10, 20, 20, 30, 30,
    ]);
    expect(histogramQuantile(parseHistogram('-'), 0.5)).toBeNaN();
  });
});

describe('ratios', () => {
  test('what hits both alike in a round does not widen the interval', () => {
    const base = Array.from({ length: 20 }, (_, i) => 100 + 10 * (i % 5));
    const { ratio, low, high } = ratioOf(
      base,
      base.map((us) => us * 1.2),
    );
    for (const value of [ratio, low, high]) expect(value).toBeCloseTo(1.2, 10);
  });

  test('of samples taken at one time, a machine that changes its speed from round to round does not either', () => {
    const speeds = [1, 2.2, 1.1, 1.9, 1, 1, 2, 2.1, 1.4, 1.3, 1, 2];
    const base = speeds.map((speed) => 100 * speed);
    const took = speeds.map((speed, at) => 120 * speed + (at === 3 ? 400 : 0));
    const { ratio, low, high } = pairedRatioOf(base, took);
    for (const value of [ratio, low, high]) expect(value).toBeCloseTo(1.2, 10);
  });

  test.each([
    [{ ratio: 1.1, low: 1.05, high: 1.15 }, { ratio: 1.12, low: 1.08, high: 1.2 }, 'noise'],
    [{ ratio: 1.1, low: 1.09, high: 1.11 }, { ratio: 1.14, low: 1.13, high: 1.15 }, 'noise'],
    [{ ratio: 1.1, low: 1.05, high: 1.15 }, { ratio: 1.3, low: 1.25, high: 1.35 }, 'slower'],
    [{ ratio: 1.3, low: 1.25, high: 1.35 }, { ratio: 1.1, low: 1.05, high: 1.15 }, 'faster'],
  ] as const)('%j against %j is %s', (a, b, judgement) => {
    expect(judge(a, b)).toBe(judgement);
  });

  test('the tail of chi-square, by its tables', () => {
    for (const [value, degrees, tail] of [
      [5.991, 2, 0.05],
      [9.21, 2, 0.01],
      [16.919, 9, 0.05],
    ] as const)
      expect(chiSquareTail(value, degrees)).toBeCloseTo(tail, 2);
  });

  test('how a cost grows, and not by sizes that hide it', () => {
    const squares = [1, 100, 1000, 10_000].map((x) => [x, x * x] as const);
    expect(exponentOf(squares)).toBeCloseTo(2, 8);
    expect(exponentOf(squares.slice(0, 2))).toBeNull();
  });

  test('a line through points that lie on one', () => {
    const line = fitLine([1, 100, 1000].map((x) => [x, 5 + 0.25 * x] as const))!;
    expect(line.base).toBeCloseTo(5, 8);
    expect(line.slope).toBeCloseTo(0.25, 10);
    expect(fitLine([[1, 2]])).toBeNull();
  });
});

describe('clusters', () => {
  test('every object is one that the program takes, and no address is used twice', () => {
    const families = [4, 6] as const;
    const backends = fakeBackends(0, 3);
    for (const services of [1, 2, 70]) {
      const objects = clusterObjects({ services, families, backends });
      const decoded = objects.map((object) =>
        DECODERS[(object as { kind: 'Service' | 'EndpointSlice' }).kind](object),
      );
      expect(decoded.filter(({ outcome }) => outcome !== 'record')).toEqual([]);
      expect(objects.length).toBe(services * 3);
    }
    const ips = Array.from({ length: 70_000 }, (_, i) => [clusterIp(4, i), clusterIp(6, i)]).flat();
    expect(new Set(ips).size).toBe(ips.length);
    expect(calledAmong(1)).toEqual([0]);
    expect(calledAmong(1000)).toEqual([0, 500, 999]);
  });
});

const row = (over: Partial<DataRow>): DataRow => ({
  ...{ mode: 'nft', services: 10, target: 'ClusterIP', which: 'last', family: 4, kind: 'tcp' },
  ...{ ratio: 1.2, low: 1.1, high: 1.3, us: 36, p50: 20, p99: 30, p999: 40, curve: [[20, 0.5]] },
  ...over,
});

const RESULT: Result = {
  ...{ format: 1, program: '0.1.0', startedAt: '2026-01-01T00:00:00Z', seconds: 1 },
  machine: { kernel: '6.18.0', cpus: 2, cpu: 'A <CPU> & "more"', memoryMiB: 1024, node: 'v20' },
  quietness: { busy: 0, load1: 0, quiet: true },
  skipped: [{ mode: 'ipvs', reason: 'no <ip_vs>' }],
  noise: { ratio: 1, low: 0.98, high: 1.02 },
  data: [
    row({ mode: 'none', services: 0, target: 'pod', which: '', ratio: 1, low: 1, high: 1 }),
    row({}),
    row({ services: 1000, ratio: 1.01, low: 0.99, high: 1.03 }),
    row({ kind: 'stream', p50: null, p99: null, p999: null }),
  ],
  evenness: [{ mode: 'nft', calls: 30, counts: [10, 10, 10], chiSquare: 0, probability: 1 }],
  control: [10, 1000].map((services) => ({
    ...{ mode: 'nft' as const, services, endpoints: 10, coldMs: services, residentMiB: 70, idleCpu: 0 },
    changeMs: { p50: 1, p99: 2, max: 3, count: 4 },
    stream: services === 10 ? null : { seconds: 1, lagMs: 1, cpu: 0.1 },
  })),
  perPacket: [{ hook: 'xdp', family: 4, flows: 1, what: 'back', ns: 26, ratio: 1.4, low: 1.3, high: 1.5 }],
  source: 'manifests',
  rolling: [{ mode: 'nft', endpoints: 100, requests: 1000, failed: 0, seconds: 5 }],
  growth: growthOf([], [row({}), row({ services: 1000 })]),
};

describe('a call that fails', () => {
  /** A lane whose calls of this kind fail, so many of them or all. */
  function lane(mode: 'none' | 'nft', failing: string, times = Number.POSITIVE_INFINITY): DataLane {
    let left = times;
    const call = (kind: string) => {
      const failed = kind === failing && left-- > 0 ? 1 : 0;
      return Promise.resolve({ nanoseconds: 1000, failed, histogram: new Map([[20, 1]]) });
    };
    const fake = { families: [4], call } as unknown as Lane;
    return { lane: fake, mode, services: mode === 'none' ? 0 : 1 };
  }
  const plain = () => [lane('none', ''), lane('none', '')];
  const options = { rounds: 2, calls: 4, onRound: () => {} };

  test('is made again, and counted', async () => {
    const { rows, broken } = await measureData([...plain(), lane('nft', 'udp', 2)], options);
    expect(broken).toEqual([]);
    expect(rows.reduce((sum, { failed = 0 }) => sum + failed, 0)).toBe(2);
    expect(rows.filter(({ kind }) => kind === 'udp').every(({ ratio }) => ratio === 1)).toBe(true);
  });

  test('again and again, leaves out its row and no other', async () => {
    const { rows, broken } = await measureData([...plain(), lane('nft', 'udp')], options);
    expect(broken.length).toBeGreaterThan(0);
    expect(broken[0]).toMatch(/^nft: udp calls to a \w+ of IPv4 fail: 3$/);
    expect(rows.filter(({ mode, kind }) => mode === 'nft' && kind === 'udp')).toEqual([]);
    expect(rows.some(({ mode, kind }) => mode === 'nft' && kind === 'tcp')).toBe(true);
  });
});

describe('what people see', () => {
  test('the terminal shows every part, and marks what is noise', () => {
    const text = resultText(RESULT);
    expect(text).toContain('not measured: ipvs: no <ip_vs>');
    expect(text).toMatch(/nft +1000 +ClusterIP +last +4 +1.010 +~ +0.990..1.030 +36 +27778/);
    expect(text).toMatch(/nft +10 +ClusterIP +last +4 +1.200 +1.100..1.300 +36 +27778/);
    for (const title of ['spread over backends', 'control path', 'rolling update', 'growth', 'per packet'])
      expect(text).toContain(title);
  });

  test('calls without an answer are named', () => {
    const [first, ...rest] = RESULT.data;
    const text = resultText({ ...RESULT, data: [{ ...first!, failed: 3 }, ...rest] });
    expect(text).toMatch(/^WITHOUT AN ANSWER, and made again: 3 of .*$/m);
    expect(resultText(RESULT)).not.toContain('WITHOUT');
  });

  test('the page loads nothing and escapes every word', () => {
    const html = resultHtml(RESULT);
    expect(html).not.toMatch(/(src|href)=|url\(|@import/);
    expect(html).not.toContain('<CPU>');
    expect(html).not.toContain('<ip_vs>');
    expect(html).toContain('A &lt;CPU&gt; &amp; &quot;more&quot;');
    expect(escapeText(`<a b="c">'&`)).toBe('&lt;a b=&quot;c&quot;&gt;&#39;&amp;');
    expect(html).toContain('<polyline');
    for (const title of ['Mode against mode', 'Latency distributions', 'Growth', 'Per packet'])
      expect(html).toMatch(new RegExp(`<h2>${title}[^<]*</h2>\\n<p[^\\n]*\\n<div class="plots">\\n<figure>`));
  });

  test('the terminal ends with a screen of all modes, of which no line is folded', () => {
    const text = resultText(RESULT);
    const end = text.slice(text.indexOf('In short, at 1000 services'));
    expect(end).toMatch(/\nnft v4 +1.01 \(0.99..1.03\)~/);
    expect(end).not.toContain('NOT QUIET');
    const reason = 'of this kernel nothing is known '.repeat(20);
    const loud = {
      ...RESULT,
      quietness: { busy: 1, load1: 9, quiet: false },
      skipped: [{ mode: 'ipvs', reason }],
    };
    expect(resultText(loud)).toContain('THE MACHINE WAS NOT QUIET');
    expect(
      Math.max(
        ...resultText(loud)
          .split('\n')
          .map((line) => line.length),
      ),
    ).toBeLessThanOrEqual(120);
  });

  test('growth is told with its interval, and as none where that has 1 in it', () => {
    expect(growthOf([], RESULT.data).map(({ mode, factor }) => [mode, factor?.low, factor?.high])).toEqual([
      ['nft', 0.99 / 1.3, 1.03 / 1.1],
    ]);
    const grown = { ...RESULT, growth: growthOf([], RESULT.data) };
    expect(resultText(grown)).toMatch(/nft +new connection, ClusterIP .* 0.84 \(0.76..0.94\)\n/);
    const even = { ...RESULT, growth: growthOf([], [row({}), row({ services: 1000 })]) };
    expect(resultText(even)).toMatch(/1.00 \(0.85..1.18\) +~\n/);
  });

  test('plots hold numbers only, also of values that have no place on an axis', () => {
    const look = lookOf('nft');
    const series = [1, 10, 0, Number.NaN].map((value) => ({
      x: value,
      y: value + 1,
      low: 0,
      high: value + 2,
    }));
    const shares = [0.5, 0.99, 1].map((share) => ({ x: share, y: 20 }));
    const log = { name: 'x', scale: 'log' } as const;
    for (const svg of [
      linePlot([{ name: 'nft', look, points: series }], { x: log, y: log }),
      linePlot([{ name: 'nft', look, points: shares }], { x: { name: 'x', scale: 'tail' }, y: log }),
      intervalPlot([{ label: 'nft', look, value: 1.2, low: 1.1, high: 1.3 }], 1, null, 'times'),
    ]) {
      expect(svg).toContain('<svg');
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    }
    expect(linePlot([{ name: 'nft', look, points: [{ x: 0, y: 0 }] }], { x: log, y: log })).toBe('');
  });

  test('every lane has a look of its own', () => {
    const modes = [...OWN, ...KUBE_PROXY_MODES, 'none', 'none-nat', 'none-untracked'] as const;
    const looks = modes.map((mode) => JSON.stringify(lookOf(mode)));
    expect(new Set(looks).size).toBe(modes.length);
  });

  test('two runs are compared row by row', () => {
    const slower = {
      ...RESULT,
      data: RESULT.data.map((one) =>
        one.services === 10 ? row({ ...one, ratio: 1.6, low: 1.5, high: 1.7 }) : one,
      ),
    };
    const all = compareResults(RESULT, slower);
    expect(all.map(({ judgement }) => judgement)).toEqual([
      ...['slower', 'noise', 'slower', 'noise', 'noise'],
    ]);
    expect(comparisonText(all)).toContain('5 compared: 2 slower, 0 faster, 3 within noise');
  });

  test('failures of a rolling update are told from chance', () => {
    const failing = (failed: number) => ({ ...RESULT, rolling: [{ ...RESULT.rolling[0]!, failed }] });
    const judged = (a: number, b: number) => compareResults(failing(a), failing(b)).at(-1)!.judgement;
    expect([judged(0, 0), judged(0, 2), judged(0, 30), judged(30, 0)]).toEqual([
      ...['noise', 'noise', 'slower', 'faster'],
    ]);
  });

  test('the control path is compared by way of kube-proxy, whatever the speed of the machine', () => {
    const run = (speed: number, ours: number): Result => ({
      ...RESULT,
      control: (['nft', 'kube-proxy-nftables'] as const).map((mode) => {
        const ms = speed * (mode === 'nft' ? ours : 1000);
        const changeMs = { p50: ms, p99: ms * 1.2, max: ms * 2, count: 30 };
        return { ...RESULT.control[0]!, mode, coldMs: ms, residentMiB: mode === 'nft' ? 80 : 100, changeMs };
      }),
    });
    const slower = (a: Result, b: Result) =>
      compareResults(a, b)
        .filter(({ judgement }) => judgement === 'slower')
        .map(({ name }) => name);
    expect(slower(run(1, 10), run(3, 10))).toEqual([]);
    expect(slower(run(1, 10), run(3, 20))).toEqual(['one change, nft 10 x 10', 'cold start, nft 10 x 10']);
  });

  test('what differs less than plain routing from itself is noise', () => {
    const loud = { ...RESULT, noise: { ratio: 1, low: 0.7, high: 1.4 } };
    const slower = {
      ...loud,
      data: RESULT.data.map((one) => ({ ...one, ratio: one.ratio * 1.3, low: 1.5, high: 1.7 })),
    };
    expect(compareResults(RESULT, slower).filter(({ judgement }) => judgement === 'slower')).toEqual([]);
  });

  test.each(['', '[]', 'null', '{"format":2,"data":[]}'])('%j is no result', (text) => {
    expect(() => parseResult(text, 'file')).toThrow(/^file is no /);
  });
});
