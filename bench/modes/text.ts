/** What a person reads of a run in the terminal. */
import { headline } from '../support/quiet.ts';
import { type Ratio, ratioOfMedians } from '../support/ratio.ts';
import { formatTable } from '../support/table.ts';
import { isUneven } from './evenness.ts';
import { isKubeProxy } from './kube-proxy.ts';
import { isPlain, type LaneMode, titleOf } from './lane-mode.ts';
import { type ControlRow, type DataKind, type DataRow, dataName, type Result } from './result.ts';

const TITLES: Readonly<Record<DataKind, string>> = {
  tcp: 'TCP: connect, request, answer, close (percentiles: connect)',
  udp: 'UDP: new socket, request, answer',
  'tcp-rr': 'TCP: request and answer on an open connection',
  'udp-rr': 'UDP: request and answer on one socket',
  stream: 'TCP: a stream of 64 MiB (us for each MiB)',
};

export const number = (value: number) =>
  Number.isNaN(value) ? '-' : value >= 1000 ? value.toFixed(0) : value.toPrecision(3);

/** Whether a ratio says anything: its interval and the noise's interval do not meet. */
export function isWithinNoise(row: Ratio, noise: Ratio): boolean {
  return row.low <= noise.high && row.high >= noise.low;
}

function dataTable(kind: DataKind, rows: readonly DataRow[], noise: Ratio): string {
  const percentiles = kind !== 'stream';
  const head = [
    'mode',
    'services',
    'to',
    '',
    'IPv',
    'us',
    kind === 'stream' ? 'MiB/s' : '/s',
    'ratio',
    '95%',
  ];
  const table = [[TITLES[kind], ...head.slice(1), ...(percentiles ? ['p50', 'p99', 'p99.9 us'] : [])]];
  for (const row of rows) {
    const interval = `${row.low.toFixed(3)}..${row.high.toFixed(3)}`;
    const plain = isPlain(row.mode);
    const ratio = plain
      ? row.ratio.toFixed(3)
      : `${row.ratio.toFixed(3)}${isWithinNoise(row, noise) ? ' ~' : ''}`;
    table.push([
      titleOf(row.mode),
      plain ? '' : String(row.services),
      row.target,
      row.which,
      String(row.family),
      number(row.us),
      (1e6 / row.us).toFixed(0),
      ratio,
      interval,
      ...(percentiles ? [row.p50!, row.p99!, row.p999!].map(number) : []),
    ]);
  }
  return formatTable(table);
}

/** Nothing of it is in the figures: a call without an answer is waited for. */
function failures({ data }: Result): string {
  const rows = data.filter(({ failed = 0 }) => failed > 0);
  return rows.map((row) => `WITHOUT AN ANSWER, and made again: ${row.failed} of ${dataName(row)}\n`).join('');
}

function evennessTable({ evenness }: Result): string {
  if (evenness.length === 0) return '';
  const table = [['spread over backends', 'connections', 'each', 'chi-square', 'p', '']];
  for (const { mode, calls, counts, chiSquare, probability } of evenness) {
    const verdict = isUneven({ probability }) ? 'UNEVEN' : 'even';
    table.push([
      mode,
      String(calls),
      counts.join(' '),
      chiSquare.toFixed(2),
      probability.toFixed(3),
      verdict,
    ]);
  }
  return formatTable(table);
}

export function packetTable({ perPacket }: Pick<Result, 'perPacket'>): string {
  if (perPacket.length === 0) return '';
  const table = [
    ['per packet in the BPF programs', 'IPv', 'flows', '', 'ns', 'ratio to a bare program', '95%'],
  ];
  for (const { hook, family, flows, what, ns, ratio, low, high } of perPacket) {
    const interval = `${low.toFixed(2)}..${high.toFixed(2)}`;
    table.push([hook, String(family), String(flows), what, number(ns), ratio.toFixed(2), interval]);
  }
  return `${formatTable(table)}xdp, tc: by test run over packets that are written anew; wire: live frames over a veth\n`;
}

/** The mode whose changes others are set beside: kube-proxy's, where it was measured, or the first one. */
function yardstickOf({ control }: Result): LaneMode | null {
  const modes = [...new Set(control.map(({ mode }) => mode))];
  return modes.length > 1 ? (modes.find(isKubeProxy) ?? modes[0]!) : null;
}

function changeRatio({ control }: Result, row: ControlRow, yardstick: LaneMode): string {
  const base = control.find(
    (one) => one.mode === yardstick && one.services === row.services && one.endpoints === row.endpoints,
  );
  if (!base || base === row) return '';
  const { ratio, low, high } = ratioOfMedians(row.changeMs, base.changeMs);
  return `${ratio.toPrecision(2)} (${low.toPrecision(2)}..${high.toPrecision(2)})`;
}

function controlTable(result: Result): string {
  const { control, source } = result;
  if (control.length === 0) return '';
  const yardstick = yardstickOf(result);
  const head = [
    'control path',
    'services',
    'endpoints',
    'cold, ms',
    'change p50',
    'p99',
    'max, ms',
    'resident, MiB',
  ];
  const beside = yardstick ? [`p50 to ${yardstick}`] : [];
  const table = [[...head, 'idle CPU', '100/s: lag, ms', 'CPU', ...beside]];
  for (const row of control) {
    table.push([
      row.mode,
      String(row.services),
      String(row.endpoints),
      number(row.coldMs),
      ...[row.changeMs.p50, row.changeMs.p99, row.changeMs.max].map(number),
      row.residentMiB.toFixed(0),
      `${(100 * row.idleCpu).toFixed(1)}%`,
      row.stream ? number(row.stream.lagMs) : '',
      row.stream ? `${(100 * row.stream.cpu).toFixed(0)}%` : '',
      ...(yardstick ? [changeRatio(result, row, yardstick)] : []),
    ]);
  }
  return `${formatTable(table)}cold: from starting the program to the first answer; change: from before ${source === 'manifests' ? 'the file is' : 'the API server is'} written to the new answer\n`;
}

function rollingTable({ rolling }: Result): string {
  if (rolling.length === 0) return '';
  const table = [['rolling update', 'endpoints', 'a second', 'requests', 'failed', 'seconds']];
  for (const { mode, endpoints, rate = 400, requests, failed, seconds } of rolling)
    table.push([mode, ...[endpoints, rate, requests, failed].map(String), seconds.toFixed(1)]);
  return formatTable(table);
}

function growthTable({ growth }: Result): string {
  if (growth.length === 0) return '';
  const table = [['growth', '', 'at none', 'for each 1,000 services', '', 'as services to the power of']];
  for (const { mode, cost, unit, base, slope, exponent } of growth)
    table.push([mode, cost, number(base), slope.toPrecision(2), unit, exponent?.toFixed(2) ?? '-']);
  return formatTable(table);
}

export function resultText(result: Result): string {
  const { noise } = result;
  const parts = [
    headline(result.machine, result.quietness),
    result.skipped.map(({ mode, reason }) => `not measured: ${mode}: ${reason}\n`).join(''),
  ];
  if (result.data.length > 0) {
    const band = Number.isFinite(noise.low)
      ? `${noise.low.toFixed(3)}..${noise.high.toFixed(3)}`
      : 'not known';
    parts.push(
      `Ratios are to the same call through plain routing in the same rounds. Plain routing against itself: ${band};\n~ marks what is within that noise. Both ends and the node share one processor, so time is work.\n`,
    );
    for (const kind of Object.keys(TITLES) as DataKind[]) {
      const rows = result.data.filter((row) => row.kind === kind);
      if (rows.length > 0) parts.push(dataTable(kind, rows, noise));
    }
  }
  parts.push(
    failures(result),
    evennessTable(result),
    packetTable(result),
    controlTable(result),
    rollingTable(result),
    growthTable(result),
  );
  return parts.filter((part) => part !== '').join('\n');
}
