/** Plots as SVG text. Labels are the bench's own words and numbers, escaped all the same. */
import { escapeText } from './escape.ts';

const WIDTH = 520;
const HEIGHT = 260;
const LEFT = 64;
const BOTTOM = 40;
const TOP = 12;
const RIGHT = 150;
/** Told apart without seeing red and green, too (Okabe and Ito). */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#000000'];

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [number, number])[];
}

export interface Axes {
  readonly x: string;
  readonly y: string;
  readonly scale: 'log' | 'log-x';
}

type Scale = (value: number) => number;

function scaleOf(values: readonly number[], from: number, to: number, kind: 'log' | 'linear'): Scale {
  const f = kind === 'log' ? (value: number) => Math.log10(Math.max(value, 1e-6)) : (value: number) => value;
  const low = Math.min(...values.map(f));
  const high = Math.max(...values.map(f));
  const span = high - low || 1;
  return (value) => from + ((f(value) - low) / span) * (to - from);
}

function text(x: number, y: number, anchor: 'start' | 'middle' | 'end', words: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escapeText(words)}</text>`;
}

const short = (value: number) =>
  value >= 1000 ? `${Number((value / 1000).toPrecision(3))}k` : String(Number(value.toPrecision(3)));

/** At most six of the values, the ends among them. */
function ticks(values: readonly number[]): number[] {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  if (sorted.length <= 6) return sorted;
  return Array.from({ length: 5 }, (_, i) => sorted[Math.round((i / 4) * (sorted.length - 1))]!);
}

/** One line a series. */
export function linePlot(series: readonly Series[], axes: Axes): string {
  const all = series.flatMap(({ points }) => points);
  if (all.length === 0) return '';
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => y);
  const right = WIDTH - RIGHT;
  const scaleX = scaleOf(xs, LEFT, right, 'log');
  const scaleY = scaleOf(ys, HEIGHT - BOTTOM, TOP, axes.scale === 'log' ? 'log' : 'linear');
  const parts: string[] = [];
  for (const value of ticks(xs))
    parts.push(text(scaleX(value), HEIGHT - BOTTOM + 16, 'middle', short(value)));
  for (const value of ticks(ys)) {
    const y = scaleY(value);
    parts.push(
      `<line x1="${LEFT}" x2="${right}" y1="${y.toFixed(1)}" y2="${y.toFixed(1)}" stroke="#e3e8ec"/>`,
    );
    parts.push(text(LEFT - 6, y + 4, 'end', short(value)));
  }
  series.forEach(({ name, points }, at) => {
    const colour = COLOURS[at % COLOURS.length]!;
    const path = points.map(([x, y]) => `${scaleX(x).toFixed(1)},${scaleY(y).toFixed(1)}`).join(' ');
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    if (points.length <= 12)
      for (const [x, y] of points)
        parts.push(
          `<circle cx="${scaleX(x).toFixed(1)}" cy="${scaleY(y).toFixed(1)}" r="3" fill="${colour}"/>`,
        );
    parts.push(`<rect x="${right + 10}" y="${TOP + at * 18}" width="10" height="10" fill="${colour}"/>`);
    parts.push(text(right + 24, TOP + at * 18 + 9, 'start', name));
  });
  parts.push(text((LEFT + right) / 2, HEIGHT - 6, 'middle', axes.x), text(4, TOP - 2 + 4, 'start', axes.y));
  return `<svg width="${WIDTH}" height="${HEIGHT}" role="img">${parts.join('')}</svg>`;
}

export interface Bar {
  readonly label: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Horizontal bars with their intervals; `reference` is drawn as a line. */
export function barPlot(bars: readonly Bar[], reference: number): string {
  const rowHeight = 24;
  const height = bars.length * rowHeight + 30;
  const labels = 160;
  const most = Math.max(reference, ...bars.map(({ high }) => high)) * 1.05;
  const scale = (value: number) => labels + (value / most) * (WIDTH - labels - 60);
  const parts = bars.map(({ label, value, low, high }, at) => {
    const y = at * rowHeight + 4;
    const middle = y + 8;
    return [
      text(labels - 8, y + 12, 'end', label),
      `<rect x="${labels}" y="${y}" width="${(scale(value) - labels).toFixed(1)}" height="16" fill="${COLOURS[at % COLOURS.length]}" opacity="0.75"/>`,
      `<line x1="${scale(low).toFixed(1)}" x2="${scale(high).toFixed(1)}" y1="${middle}" y2="${middle}" stroke="#1c2733" stroke-width="2"/>`,
      text(scale(high) + 6, y + 12, 'start', value.toFixed(2)),
    ].join('');
  });
  const x = scale(reference).toFixed(1);
  parts.push(
    `<line x1="${x}" x2="${x}" y1="0" y2="${height - 26}" stroke="#1c2733" stroke-dasharray="4 3"/>`,
  );
  parts.push(text(scale(reference), height - 10, 'middle', String(reference)));
  return `<svg width="${WIDTH}" height="${height}" role="img">${parts.join('')}</svg>`;
}
