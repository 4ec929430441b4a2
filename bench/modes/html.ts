/** One self-contained page of a run: tables and plots, nothing loaded from anywhere. */
import { escapeText } from './escape.ts';
import { isPlain, isTranslated, titleOf } from './lane-mode.ts';
import { barPlot, linePlot, type Series } from './plot.ts';
import type { DataKind, DataRow, Result } from './result.ts';
import { isWithinNoise, number, resultText } from './text.ts';

const STYLE = `
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
h1,h2{line-height:1.2}figure{margin:1rem 0;display:inline-block;vertical-align:top}
figcaption{font-weight:600;margin-bottom:.3rem}pre{overflow-x:auto;background:#f4f6f8;padding:1rem;font-size:12px}
svg text{font:11px system-ui,sans-serif;fill:#45525f}.note{color:#5b6875}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #dde3e8}
td:first-child,th:first-child{text-align:left}`;

function figure(title: string, svg: string): string {
  return `<figure><figcaption>${escapeText(title)}</figcaption>${svg}</figure>`;
}

/** Mode against mode at the largest size. */
function ratioFigure(result: Result, kind: DataKind, target: DataRow['target'], title: string): string {
  const largest = Math.max(...result.data.map(({ services }) => services));
  const rows = result.data.filter(
    (row) =>
      row.kind === kind &&
      row.target === target &&
      (row.services === largest || isPlain(row.mode)) &&
      (row.which === 'last' || row.which === ''),
  );
  if (rows.length === 0) return '';
  const bars = rows.map((row) => ({
    label: `${titleOf(row.mode)} IPv${row.family}${isWithinNoise(row, result.noise) ? ' ~' : ''}`,
    value: row.ratio,
    low: row.low,
    high: row.high,
  }));
  return figure(`${title}, ${largest} services: ratio to plain routing`, barPlot(bars, 1));
}

/** Cost against the number of services, for every mode. */
function growthFigures(result: Result): string {
  const modes = [...new Set(result.control.map(({ mode }) => mode))];
  const endpoints = result.control[0]?.endpoints;
  const plot = (title: string, unit: string, of: (row: Result['control'][number]) => number) => {
    const series: Series[] = modes.map((mode) => ({
      name: mode,
      points: result.control
        .filter((row) => row.mode === mode && row.endpoints === endpoints)
        .map((row) => [row.services, of(row)] as const),
    }));
    return figure(title, linePlot(series, { x: 'services', y: unit, scale: 'log' }));
  };
  if (modes.length === 0) return '';
  return [
    plot('Cold start', 'ms', (row) => row.coldMs),
    plot('One change, until a client meets it (p50)', 'ms', (row) => row.changeMs.p50),
    plot('Resident memory', 'MiB', (row) => row.residentMiB),
  ].join('');
}

/** Latencies of connect, of every mode at the largest size. */
function latencyFigure(result: Result, kind: DataKind, title: string): string {
  const largest = Math.max(...result.data.map(({ services }) => services));
  const family = result.data[0]?.family;
  const rows = result.data.filter(
    (row) =>
      row.kind === kind &&
      row.family === family &&
      (isTranslated(row.mode)
        ? row.target === 'ClusterIP' &&
          (row.services === largest || isPlain(row.mode)) &&
          (row.which === 'last' || row.which === '')
        : row.target === 'pod'),
  );
  const series: Series[] = [];
  for (const row of rows) {
    const name = titleOf(row.mode);
    if (!series.some((one) => one.name === name)) series.push({ name, points: row.curve });
  }
  if (series.length === 0) return '';
  return figure(title, linePlot(series, { x: 'us', y: 'share of calls', scale: 'log-x' }));
}

/** What the BPF programs add to a packet, against the connections that are open. */
function packetFigure({ perPacket }: Result): string {
  const series: Series[] = [];
  for (const { hook, family, flows, what, ns } of perPacket) {
    if (hook === 'wire' || (what !== 'to the backend' && what !== 'back')) continue;
    const name = `${hook} v${family} ${what === 'back' ? 'back' : 'there'}`;
    const at = series.findIndex((one) => one.name === name);
    const points = [...(series[at]?.points ?? []), [flows, Math.max(ns, 1)] as const];
    series.splice(at < 0 ? series.length : at, 1, { name, points });
  }
  if (series.length === 0) return '';
  const axes = { x: 'open connections', y: 'ns', scale: 'log' } as const;
  return figure('A packet of an open connection in the BPF programs', linePlot(series, axes));
}

export function resultHtml(result: Result): string {
  const { machine, noise } = result;
  const quiet = result.quietness.quiet ? 'quiet' : 'NOT quiet';
  const where = `${machine.cpus} x ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}; ${quiet} at the start`;
  const plots = [
    ratioFigure(result, 'tcp', 'ClusterIP', 'New TCP connection to a ClusterIP'),
    ratioFigure(result, 'tcp', 'NodePort', 'New TCP connection to a NodePort from outside'),
    ratioFigure(result, 'tcp-rr', 'ClusterIP', 'Request on an open connection'),
    ratioFigure(result, 'udp', 'ClusterIP', 'UDP request from a new socket'),
    latencyFigure(result, 'tcp', 'Latency of connect'),
    latencyFigure(result, 'tcp-rr', 'Latency of a request on an open connection'),
    growthFigures(result),
    packetFigure(result),
  ].join('\n');
  const band =
    result.data.length > 0
      ? `<p class="note">Plain routing against itself: ${number(noise.low)} to ${number(noise.high)}; ~ marks what is within that.</p>`
      : '';
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>triplane bench</title>
<meta name="viewport" content="width=device-width"><style>${STYLE}</style></head><body>
<h1>triplane bench</h1>
<p>triplane ${escapeText(result.program)}, ${escapeText(result.startedAt)}, ${result.seconds} s. ${escapeText(where)}.</p>
${band}
${plots}
<h2>All figures</h2>
<pre>${escapeText(resultText(result))}</pre>
</body></html>
`;
}
