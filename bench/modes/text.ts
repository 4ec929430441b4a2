/** What a person reads of a run in the terminal. */
import { headline } from '../support/quiet.ts';
import { type Ratio, ratioOfMedians } from '../support/ratio.ts';
import { formatTable } from '../support/table.ts';
import { isUneven } from './evenness.ts';
import { isKubeProxy } from './kube-proxy.ts';
import { isPlain, type LaneMode, titleOf } from './lane-mode.ts';
import { type ControlRow, type DataKind, type DataRow, dataName, type Result } from './result.ts';

/** What a terminal shows without folding. */
const COLUMNS = 120;

const TITLES: Readonly<Record<DataKind, string>> = {
  tcp: 'TCP: connect, request, answer, close (percentiles of connect alone)',
  udp: 'UDP: new socket, request, answer',
  'tcp-rr': 'TCP: request and answer on an open connection',
  'udp-rr': 'UDP: request and answer on one socket',
  stream: 'TCP: a stream of 64 MiB (time of each MiB)',
};

export const number = (value: number | null) =>
  value === null || !Number.isFinite(value)
    ? '-'
    : Math.abs(value) >= 1000
      ? value.toFixed(0)
      : Number(value.toPrecision(3)).toString();

/** With as many digits for each, so that they stand in columns. */
const spread = ({ low, high }: Ratio, digits: number) => `${low.toFixed(digits)}..${high.toFixed(digits)}`;

/** Of small ratios the first digits count. */
function ratioWords({ ratio, low, high }: Ratio): string {
  const digits = ratio >= 0.1 ? 2 : 4;
  return `${ratio.toFixed(digits)} (${low.toFixed(digits)}..${high.toFixed(digits)})`;
}

/** Ends of the noise; null where it is not known (null in a file, too). */
export function bandOf({ low, high }: Ratio): readonly [number, number] | null {
  return Number.isFinite(low) && Number.isFinite(high) ? [low, high] : null;
}

/** Whether a ratio says nothing: its interval and the noise's interval meet. */
export function isWithinNoise(row: Ratio, noise: Ratio): boolean {
  const band = bandOf(noise);
  return band !== null && row.low <= band[1] && row.high >= band[0];
}

/** The lane to which all ratios are. */
export function isItself({ mode, ratio, low, high }: Pick<DataRow, 'mode' | keyof Ratio>): boolean {
  return mode === 'none' && ratio === 1 && low === 1 && high === 1;
}

function dataTable(kind: DataKind, rows: readonly DataRow[], noise: Ratio): string {
  const stream = kind === 'stream';
  const head = ['mode', 'services', 'to', 'service', 'IPv', 'ratio', '', '95% interval'];
  const times = stream ? ['us', 'MiB/s'] : ['us', 'calls/s', 'p50', 'p99', 'p99.9'];
  const table = [[...head, ...times]];
  for (const row of rows) {
    const plain = isPlain(row.mode);
    const itself = isItself(row);
    table.push([
      `${titleOf(row.mode)}${row.mode === 'none' && !itself ? ' again' : ''}`,
      plain ? '' : String(row.services),
      row.target,
      row.which,
      String(row.family),
      itself ? '1' : row.ratio.toFixed(3),
      !plain && isWithinNoise(row, noise) ? '~' : '',
      itself ? 'base' : spread(row, 3),
      number(row.us),
      (1e6 / row.us).toFixed(0),
      ...(stream ? [] : [row.p50, row.p99, row.p999].map(number)),
    ]);
  }
  return `${TITLES[kind]}\n${formatTable(table)}`;
}

const SHORT: readonly { kind: DataKind; target: DataRow['target']; head: string }[] = [
  { kind: 'tcp', target: 'ClusterIP', head: 'new TCP, ClusterIP' },
  { kind: 'tcp', target: 'NodePort', head: 'new TCP, NodePort' },
  { kind: 'udp', target: 'ClusterIP', head: 'new UDP, ClusterIP' },
  { kind: 'tcp-rr', target: 'ClusterIP', head: 'open TCP, ClusterIP' },
  { kind: 'stream', target: 'ClusterIP', head: 'stream, ClusterIP' },
];

/** A screen's worth of hundreds of rows: every mode at the largest size. */
function shortTable({ data, noise, quietness }: Result): string {
  const largest = Math.max(0, ...data.map(({ services }) => services));
  const rows = data.filter(
    (row) =>
      row.services === largest && !isPlain(row.mode) && row.which !== 'first' && row.which !== 'middle',
  );
  if (rows.length === 0) return '';
  const lanes = new Map(rows.map(({ mode, family }) => [`${mode} v${family}`, { mode, family }]));
  const table = [['', ...SHORT.map(({ head }) => head)]];
  for (const [name, { mode, family }] of lanes) {
    const cells = SHORT.map(({ kind, target }) => {
      const row = rows.find(
        (one) => one.mode === mode && one.family === family && one.kind === kind && one.target === target,
      );
      return row ? `${ratioWords(row)}${isWithinNoise(row, noise) ? '~' : ' '}` : '- ';
    });
    table.push([name, ...cells]);
  }
  const band = bandOf(noise);
  const within = band
    ? `~: within noise, which is how far plain routing was from itself: ${spread(noise, 3)}\n`
    : '';
  const quiet = quietness.quiet ? '' : 'THE MACHINE WAS NOT QUIET: do not trust single figures\n';
  return `In short, at ${largest} services: how many times plain routing each call takes, with 95% intervals\n${within}${formatTable(table)}${quiet}`;
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
    [
      ...['per packet', 'IPv', 'open flows', 'packet', 'ratio to a bare program', '95% interval'],
      'ns beyond it',
    ],
  ];
  for (const { hook, family, flows, what, ns, ratio, low, high } of perPacket) {
    const interval = spread({ ratio, low, high }, 2);
    table.push([hook, String(family), String(flows), what, ratio.toFixed(2), interval, number(ns)]);
  }
  return `${formatTable(table)}In the BPF programs; xdp, tc: by test run over packets that are written anew; wire: live frames over a veth.\nA bare program only writes the packet.\n`;
}

/** The mode whose changes others are set beside: kube-proxy's, where it was measured, or the first one. */
function yardstickOf({ control }: Result): LaneMode | null {
  const modes = [...new Set(control.map(({ mode }) => mode))];
  return modes.length > 1 ? (modes.find(isKubeProxy) ?? modes[0]!) : null;
}

/** `base`: the yardstick's own row. A `~` where the interval has 1 in it. */
function changeRatio({ control }: Result, row: ControlRow, yardstick: LaneMode): string[] {
  const base = control.find(
    (one) => one.mode === yardstick && one.services === row.services && one.endpoints === row.endpoints,
  );
  if (!base || base === row) return [base ? 'base' : '', ''];
  const ratio = ratioOfMedians(row.changeMs, base.changeMs);
  return [ratioWords(ratio), ratio.low <= 1 && ratio.high >= 1 ? '~' : ''];
}

function controlTable(result: Result): string {
  const { control, source } = result;
  if (control.length === 0) return '';
  const yardstick = yardstickOf(result);
  const beside = yardstick ? ['p50 ratio', ''] : [];
  const head = ['control path', 'services', 'x each', 'p50', 'p99', 'max', ...beside];
  const table = [[...head, 'cold', 'lag', 'CPU', 'idle CPU', 'MiB']];
  for (const row of control) {
    table.push([
      row.mode,
      String(row.services),
      String(row.endpoints),
      ...[row.changeMs.p50, row.changeMs.p99, row.changeMs.max].map(number),
      ...(yardstick ? changeRatio(result, row, yardstick) : []),
      number(row.coldMs),
      row.stream ? number(row.stream.lagMs) : '',
      row.stream ? `${(100 * row.stream.cpu).toFixed(0)}%` : '',
      `${(100 * row.idleCpu).toFixed(1)}%`,
      row.residentMiB.toFixed(0),
    ]);
  }
  const from = source === 'manifests' ? 'the file is' : 'the API server is';
  const notes = [
    `Times in ms. p50, p99, max: of changes, from before ${from} written to the new answer; x each: endpoints of a service.`,
    ...(yardstick
      ? [
          `p50 ratio: to that of ${yardstick} at the same size, with the interval that both spreads allow; ~: 1 is in it.`,
        ]
      : []),
    'cold: from starting the program to the first answer, once. lag, CPU: of 100 changes a second. MiB: resident memory.',
  ];
  return `${formatTable(table)}${notes.map((note) => `${wrapped(note)}\n`).join('')}`;
}

function wrapped(words: string): string {
  const lines = [''];
  for (const word of words.split(' ')) {
    const longer = `${lines.at(-1)}${lines.at(-1) === '' ? '' : ' '}${word}`;
    if (longer.length <= COLUMNS) lines[lines.length - 1] = longer;
    else lines.push(`  ${word}`);
  }
  return lines.join('\n');
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
  const table = [['growth', 'cost', 'unit', 'at none', 'per 1,000 services', 'power', 'factor', '']];
  for (const { mode, cost, unit, base, slope, exponent, factor } of growth) {
    table.push([
      ...[mode, cost, unit, number(base), number(slope), exponent?.toFixed(2) ?? '-'],
      factor ? ratioWords(factor) : '',
      factor && factor.low <= 1 && factor.high >= 1 ? '~' : '',
    ]);
  }
  return `${formatTable(table)}power: of the number of services, from 100 on. factor: largest size to smallest (interval); ~: 1 is in it, no growth.\n`;
}

export function resultText(result: Result): string {
  const { noise } = result;
  const parts = [
    headline(result.machine, result.quietness),
    result.skipped.map(({ mode, reason }) => `${wrapped(`not measured: ${mode}: ${reason}`)}\n`).join(''),
  ];
  if (result.data.length > 0) {
    const band = bandOf(noise) ? spread(noise, 3) : 'not known';
    parts.push(
      `Ratios are to the same call through plain routing (base) in the same rounds: 1.1 takes a tenth more. Plain routing
against itself: ${band}; ~ marks what is within that noise.
Times in us. Both ends and the node share one processor, so time is work.\n`,
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
    shortTable(result),
  );
  return parts.filter((part) => part !== '').join('\n');
}
