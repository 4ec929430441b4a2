/** Axes of plots: where values lie on them and which of them are written. */

/** 'tail': shares of calls below 1, each further nine as wide as the one before. */
export type Scale = 'linear' | 'log' | 'tail';
export type Domain = readonly [number, number];

export interface Tick {
  readonly value: number;
  readonly label: string;
}

const SHAPE: Readonly<Record<Scale, (value: number) => number>> = {
  linear: (value) => value,
  log: (value) => Math.log10(value),
  tail: (value) => -Math.log10(1 - value),
};

/** Whether there is a place for it on such an axis. */
export function plotted(value: number, scale: Scale): boolean {
  return Number.isFinite(value) && Number.isFinite(SHAPE[scale](value));
}

/** A little more than the values, so that nothing lies on the edge. */
export function domainOf(values: readonly number[], scale: Scale): Domain {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (scale === 'tail') return [0, high];
  if (scale === 'log') {
    const pad = Math.max((high / low) ** 0.04, 1.1);
    return [low / pad, high * pad];
  }
  const pad = (high - low) * 0.04 || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

export function scaleOf(
  [low, high]: Domain,
  from: number,
  to: number,
  scale: Scale,
): (value: number) => number {
  const shape = SHAPE[scale];
  const span = shape(high) - shape(low) || 1;
  return (value) => from + ((shape(value) - shape(low)) / span) * (to - from);
}

const shortNumber = (value: number): string => {
  const size = Math.abs(value);
  const [by, unit] = size >= 1e6 ? [1e6, 'M'] : size >= 1000 ? [1000, 'k'] : [1, ''];
  return `${Number((value / by).toPrecision(3))}${unit}`;
};

function linearTicks([low, high]: Domain): number[] {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough)!;
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Whole decades where there are many, with 2 and 5 between them where there are few. */
function logTicks([low, high]: Domain): number[] {
  const decades = Math.log10(high / low);
  const factors =
    decades > 4 ? [1] : decades > 2.5 ? [1, 3] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) ticks.push(value);
    }
  return ticks;
}

const TAIL = [0, 0.5, 0.9, 0.99, 0.999, 0.9999];

export function ticksOf(domain: Domain, scale: Scale): Tick[] {
  if (scale === 'tail')
    return TAIL.filter((share) => share <= domain[1]).map((share) => ({
      value: share,
      label: share === 0 ? 'min' : `p${Number((share * 100).toFixed(2))}`,
    }));
  const values = scale === 'log' ? logTicks(domain) : linearTicks(domain);
  return values.map((value) => ({ value, label: shortNumber(value) }));
}
