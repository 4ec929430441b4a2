/** How much more one thing takes than another, from samples that were taken in turns. */
import { median, quantile, repeatableRandom } from './stats.ts';

export interface Ratio {
  readonly ratio: number;
  /** 95% of what the same rounds, drawn anew, would have given. */
  readonly low: number;
  readonly high: number;
}

/** Of something that was not measured. */
export const UNKNOWN: Ratio = { ratio: Number.NaN, low: Number.NaN, high: Number.NaN };

const RESAMPLES = 400;

/** Lower quartile: what others on the machine take away can only make a call slower. */
export function typical(samples: readonly number[]): number {
  return quantile(
    samples.toSorted((a, b) => a - b),
    0.25,
  );
}

/**
 * `took` over `base`, sample i of both being of the same round. The interval is a bootstrap over rounds, so that
 * what hit both alike in a round does not widen it.
 */
export function ratioOf(base: readonly number[], took: readonly number[]): Ratio {
  const rounds = Math.min(base.length, took.length);
  const ratio = typical(took) / typical(base);
  const random = repeatableRandom(rounds + 1);
  const drawn = Array.from({ length: RESAMPLES }, () => {
    const picks = Array.from({ length: rounds }, () => Math.floor(random() * rounds));
    return typical(picks.map((at) => took[at]!)) / typical(picks.map((at) => base[at]!));
  }).sort((a, b) => a - b);
  return { ratio, low: quantile(drawn, 0.025), high: quantile(drawn, 0.975) };
}

/** As ratioOf(), where sample i of both was taken at the same time: the middle of the rounds' own ratios. */
export function pairedRatioOf(base: readonly number[], took: readonly number[]): Ratio {
  const ratios = took.map((one, at) => one / base[at]!);
  const random = repeatableRandom(ratios.length + 1);
  const drawn = Array.from({ length: RESAMPLES }, () =>
    median(ratios.map(() => ratios[Math.floor(random() * ratios.length)]!)),
  ).sort((a, b) => a - b);
  return { ratio: median(ratios), low: quantile(drawn, 0.025), high: quantile(drawn, 0.975) };
}

/** What is known of a sample whose single values are not kept. */
interface Median {
  readonly p50: number;
  readonly p99: number;
  readonly count: number;
}

/** The ratio of two medians with the interval that both spreads allow: that of a median is some 1.25 s / sqrt(n). */
export function ratioOfMedians(row: Median, base: Median): Ratio {
  const spread = ({ p50, p99, count }: Median) => (p99 - p50) / p50 / Math.sqrt(count);
  const ratio = row.p50 / base.p50;
  const wide = 1 + spread(row) + spread(base);
  return { ratio, low: ratio / wide, high: ratio * wide };
}
