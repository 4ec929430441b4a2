/** One self-contained page of a run: tables and plots, nothing loaded from anywhere. */
import { headline } from '../support/quiet.ts';
import { escapeText } from './escape.ts';
import { controlGrowthFigures, dataGrowthFigure } from './growth-plots.ts';
import { isPlain, isTranslated, titleOf } from './lane-mode.ts';
import { lookOf } from './look.ts';
import { figure, type Interval, intervalPlot, linePlot, type Series } from './plot.ts';
import type { DataKind, DataRow, Result } from './result.ts';
import { bandOf, isItself, isWithinNoise, resultText } from './text.ts';

const STYLE = `
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1,h2{line-height:1.2}figure{margin:0}figcaption{font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,500px),1fr));gap:1.5rem 1rem}
pre{overflow-x:auto;background:#f4f6f8;padding:1rem;font-size:12px}pre.head{background:none;padding:0;white-space:pre-wrap}
svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#45525f}.note{color:#5b6875}`;
/** Nothing is loaded, whatever a name of something should hold. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'";

const KINDS: Readonly<Record<DataKind, string>> = {
  tcp: 'New TCP connection',
  udp: 'UDP request from a new socket',
  'tcp-rr': 'Request on an open TCP connection',
  'udp-rr': 'Request on one UDP socket',
  stream: 'TCP stream of 64 MiB',
};
const TARGETS: Readonly<Partial<Record<DataRow['target'], string>>> = {
  ClusterIP: 'to a ClusterIP',
  NodePort: 'to a NodePort, from outside',
  LoadBalancer: 'to a load-balancer address, from outside',
};

function section(title: string, note: string, figures: readonly string[]): string {
  const all = figures.filter((one) => one !== '').join('\n');
  if (all === '') return '';
  return `<h2>${escapeText(title)}</h2>\n<p class="note">${escapeText(note)}</p>\n<div class="plots">\n${all}\n</div>`;
}

const largestOf = ({ data }: Result) => Math.max(0, ...data.map(({ services }) => services));

/** Of the largest size, and the last of its services; lanes of plain routing are called at their pod instead. */
function rowsFor(result: Result, kind: DataKind, target: DataRow['target']): DataRow[] {
  const largest = largestOf(result);
  const plain = target === 'ClusterIP' ? 'pod' : 'pod from outside';
  return result.data.filter(
    (row) =>
      row.kind === kind &&
      row.target === (isTranslated(row.mode) ? target : plain) &&
      (row.services === largest || isPlain(row.mode)) &&
      (row.which === 'last' || row.which === ''),
  );
}

const eachFigure = (draw: (kind: DataKind, target: DataRow['target'], title: string) => string) =>
  (Object.keys(KINDS) as DataKind[]).flatMap((kind) =>
    (Object.keys(TARGETS) as DataRow['target'][]).map((target) =>
      draw(kind, target, `${KINDS[kind]} ${TARGETS[target]}`),
    ),
  );

/** Mode against mode at the largest size. */
function ratioFigures(result: Result): string[] {
  const band = bandOf(result.noise);
  return eachFigure((kind, target, title) => {
    const rows = rowsFor(result, kind, target).filter((row) => !isItself(row));
    if (!rows.some(({ mode }) => isTranslated(mode))) return '';
    const intervals = rows.map(
      (row): Interval => ({
        label: `${titleOf(row.mode)}${row.mode === 'none' ? ' again' : ''} IPv${row.family}`,
        look: lookOf(row.mode),
        value: row.ratio,
        low: row.low,
        high: row.high,
        mark: !isPlain(row.mode) && isWithinNoise(row, result.noise) ? ' ~' : '',
      }),
    );
    return figure(title, intervalPlot(intervals, 1, band, 'times plain routing'));
  });
}

/** Latencies of every mode at the largest size. */
function latencyFigures(result: Result): string[] {
  const family = result.data[0]?.family;
  return eachFigure((kind, target, title) => {
    const series: Series[] = [];
    for (const { mode, curve, ...row } of rowsFor(result, kind, target)) {
      const name = titleOf(mode);
      if (row.family !== family || curve.length === 0 || series.some((one) => one.name === name)) continue;
      series.push({ name, look: lookOf(mode), points: curve.map(([us, share]) => ({ x: share, y: us })) });
    }
    const axes = {
      x: { name: 'percentile of calls', scale: 'tail' },
      y: { name: 'latency, us', scale: 'log' },
    } as const;
    const what = kind === 'tcp' ? `${title}: connect` : title;
    return figure(`${what}, IPv${family}`, linePlot(series, axes));
  });
}

/** What the BPF programs add to a packet, against the connections that are open. */
function packetFigures({ perPacket }: Result): string[] {
  const ways = [
    ['to the backend', 'A packet of an open connection, to the backend'],
    ['back', 'A packet of an open connection, back'],
  ] as const;
  return ways.map(([way, title]) => {
    const series = new Map<string, Series>();
    for (const { hook, family, flows, what, ratio, low, high } of perPacket) {
      if (what !== way) continue;
      const name = `${hook}, IPv${family}`;
      const colour = { xdp: '#0072b2', tc: '#d55e00', wire: '#009e73' }[hook];
      const before = series.get(name) ?? {
        name,
        look: { colour, dash: family === 6 ? '6 3' : '' },
        points: [],
      };
      series.set(name, { ...before, points: [...before.points, { x: flows, y: ratio, low, high }] });
    }
    const axes = {
      x: { name: 'open connections', scale: 'log' },
      y: { name: 'times a program that only writes the packet', scale: 'log' },
    } as const;
    return figure(title, linePlot([...series.values()], axes));
  });
}

function notMeasured({ skipped }: Result): string {
  if (skipped.length === 0) return '';
  const items = skipped.map(({ mode, reason }) => `<li>${escapeText(`${mode}: ${reason}`)}</li>`);
  return `<p>Not measured:</p><ul>${items.join('')}</ul>`;
}

export function resultHtml(result: Result): string {
  const { machine, quietness, noise } = result;
  const band = bandOf(noise);
  const noiseNote = band
    ? ` The grey band is how far plain routing was from itself (${band[0].toFixed(3)} to ${band[1].toFixed(3)}): what meets it carries a ~ and is within noise.`
    : '';
  const size = `At ${largestOf(result)} services, the last of which is called.`;
  const plots = [
    section(
      'Mode against mode',
      `${size} Ratio to the same call through plain routing in the same rounds, with its 95% interval; less is better.${noiseNote}`,
      ratioFigures(result),
    ),
    section(
      'Latency distributions',
      `${size} Each step to the right has a tenth of the calls of the one before: p99 is what 99% of the calls are not slower than.`,
      latencyFigures(result),
    ),
    section('Growth', 'Axes are logarithmic but for ratios.', [
      dataGrowthFigure(result),
      ...controlGrowthFigures(result),
    ]),
    section(
      'Per packet in the BPF programs',
      'xdp, tc: by test run; wire: live frames over a veth. With 95% intervals.',
      packetFigures(result),
    ),
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>triplane bench</title>
<meta name="viewport" content="width=device-width"><style>${STYLE}</style></head><body>
<h1>triplane bench</h1>
<p>triplane ${escapeText(result.program)}, ${escapeText(result.startedAt)}, ${result.seconds} s.</p>
<pre class="head">${escapeText(headline(machine, quietness))}</pre>
${notMeasured(result)}
${plots.join('\n')}
<h2>All figures</h2>
<pre>${escapeText(resultText(result))}</pre>
</body></html>
`;
}
