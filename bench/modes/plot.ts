/** Plots as SVG text. Labels are the bench's own words and numbers, escaped all the same. */
import { escapeText } from './escape.ts';
import { domainOf, plotted, type Scale, scaleOf, ticksOf } from './scale.ts';

const WIDTH = 520;
const HEIGHT = 280;
const LEFT = 56;
const BOTTOM = 42;
const TOP = 26;
const RIGHT = 150;
const INK = '#1c2733';
const GRID = '#e3e8ec';

/** How one thing is drawn in every plot of a page. */
export interface Look {
  readonly colour: string;
  /** stroke-dasharray; '': a line without gaps. */
  readonly dash: string;
}

export interface Point {
  readonly x: number;
  readonly y: number;
  /** The interval, where there is one. */
  readonly low?: number;
  readonly high?: number;
}

export interface Series {
  readonly name: string;
  readonly look: Look;
  readonly points: readonly Point[];
}

export interface Axis {
  readonly name: string;
  readonly scale: Scale;
}

export interface Axes {
  readonly x: Axis;
  readonly y: Axis;
}

function text(x: number, y: number, anchor: 'start' | 'middle' | 'end', words: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escapeText(words)}</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, stroke: string, more = ''): string {
  const at = [x1, y1, x2, y2].map((value) => value.toFixed(1));
  return `<line x1="${at[0]}" y1="${at[1]}" x2="${at[2]}" y2="${at[3]}" stroke="${stroke}" ${more}/>`;
}

function svg(height: number, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">${parts.join('')}</svg>`;
}

/** '' for a plot of nothing. */
export function figure(title: string, plot: string): string {
  return plot === '' ? '' : `<figure><figcaption>${escapeText(title)}</figcaption>${plot}</figure>`;
}

/** One line a series, with the intervals of its points; '' where nothing can be drawn. */
export function linePlot(series: readonly Series[], { x, y }: Axes): string {
  const shown = series
    .map((one) => ({
      ...one,
      points: one.points.filter((point) => plotted(point.x, x.scale) && plotted(point.y, y.scale)),
    }))
    .filter(({ points }) => points.length > 0);
  if (shown.length === 0) return '';
  const all = shown.flatMap(({ points }) => points);
  const [right, bottom] = [WIDTH - RIGHT, Math.max(HEIGHT - BOTTOM, TOP + shown.length * 18)];
  const domainX = domainOf(
    all.map((point) => point.x),
    x.scale,
  );
  const intervals = all.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  const domainY = domainOf(
    intervals.filter((value) => plotted(value, y.scale)),
    y.scale,
  );
  const atX = scaleOf(domainX, LEFT, right, x.scale);
  const atY = scaleOf(domainY, bottom, TOP, y.scale);
  const parts: string[] = [];
  for (const { value, label } of ticksOf(domainX, x.scale)) {
    parts.push(
      line(atX(value), TOP, atX(value), bottom, GRID),
      text(atX(value), bottom + 16, 'middle', label),
    );
  }
  for (const { value, label } of ticksOf(domainY, y.scale))
    parts.push(line(LEFT, atY(value), right, atY(value), GRID), text(LEFT - 6, atY(value) + 4, 'end', label));
  shown.forEach(({ name, look, points }, at) => {
    const dash = look.dash === '' ? '' : `stroke-dasharray="${look.dash}"`;
    const path = points.map((point) => `${atX(point.x).toFixed(1)},${atY(point.y).toFixed(1)}`).join(' ');
    parts.push(`<polyline points="${path}" fill="none" stroke="${look.colour}" stroke-width="2" ${dash}/>`);
    for (const point of points.length <= 12 ? points : []) {
      // Beside each other, so that no interval hides another.
      const [cx, cy] = [atX(point.x) + (at - (shown.length - 1) / 2) * 2.5, atY(point.y)];
      parts.push(`<circle cx="${cx.toFixed(1)}" cy="${cy.toFixed(1)}" r="3" fill="${look.colour}"/>`);
      if (point.low !== undefined && point.high !== undefined && plotted(point.low, y.scale))
        parts.push(line(cx, atY(point.low), cx, atY(point.high), look.colour, 'stroke-width="1.5"'));
    }
    const legend = TOP + at * 18 + 5;
    parts.push(line(right + 10, legend, right + 34, legend, look.colour, `stroke-width="3" ${dash}`));
    parts.push(text(right + 40, legend + 4, 'start', name));
  });
  parts.push(text((LEFT + right) / 2, bottom + 34, 'middle', x.name), text(4, 12, 'start', y.name));
  return svg(bottom + BOTTOM, parts);
}

export interface Interval {
  readonly label: string;
  readonly look: Look;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  /** What stands behind the value. */
  readonly mark?: string;
}

const ROW = 20;
const LABELS = 170;
const VALUES = 130;

/** A point with its interval on each line; the band is what says nothing, around the reference. */
export function intervalPlot(
  rows: readonly Interval[],
  reference: number,
  band: readonly [number, number] | null,
  axis: string,
): string {
  const [first, end] = [LABELS, WIDTH - VALUES];
  const bottom = TOP + rows.length * ROW;
  const values = rows.flatMap(({ value, low, high }) => [value, low, high]);
  const domain = domainOf(
    [reference, ...(band ?? []), ...values].filter((value) => plotted(value, 'linear')),
    'linear',
  );
  const at = scaleOf(domain, first, end, 'linear');
  const parts: string[] = [];
  if (band)
    parts.push(
      `<rect x="${at(band[0]).toFixed(1)}" y="${TOP}" width="${(at(band[1]) - at(band[0])).toFixed(1)}" height="${bottom - TOP}" fill="#eceff2"/>`,
    );
  for (const { value, label } of ticksOf(domain, 'linear'))
    parts.push(line(at(value), TOP, at(value), bottom, GRID), text(at(value), bottom + 16, 'middle', label));
  parts.push(line(at(reference), TOP - 4, at(reference), bottom, INK, 'stroke-dasharray="4 3"'));
  rows.forEach(({ label, look, value, low, high, mark = '' }, row) => {
    const y = TOP + row * ROW + ROW / 2;
    parts.push(
      text(first - 8, y + 4, 'end', label),
      line(at(low), y, at(high), y, look.colour, 'stroke-width="3"'),
      `<circle cx="${at(value).toFixed(1)}" cy="${y}" r="4.5" fill="${look.colour}" stroke="#fff"/>`,
      text(end + 8, y + 4, 'start', `${value.toFixed(2)} (${low.toFixed(2)}..${high.toFixed(2)})${mark}`),
    );
  });
  parts.push(text((first + end) / 2, bottom + 34, 'middle', axis));
  return svg(bottom + BOTTOM, parts);
}
