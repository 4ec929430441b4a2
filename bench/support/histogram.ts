/** Latencies in the log-linear buckets of bench/load/load.c: each is known to 3%. Values in nanoseconds. */

/** Bucket to count. */
export type Histogram = ReadonlyMap<number, number>;

const SUB_BITS = 5;
const SUB = 1 << SUB_BITS;

/** "bucket:count,..." or "-". */
export function parseHistogram(text: string): Histogram {
  if (text === '-') return new Map();
  return new Map(
    text.split(',').map((pair) => {
      const [bucket, count] = pair.split(':');
      return [Number(bucket), Number(count)];
    }),
  );
}

/** The middle of a bucket. */
export function middleOf(bucket: number): number {
  if (bucket < SUB) return bucket;
  const power = (bucket >> SUB_BITS) - 1;
  return (SUB + (bucket & (SUB - 1)) + 0.5) * 2 ** power;
}

export function merge(into: Map<number, number>, from: Histogram): void {
  for (const [bucket, count] of from) into.set(bucket, (into.get(bucket) ?? 0) + count);
}

/** The value below which `share` (0 to 1) of what was counted lies; NaN of nothing. */
export function histogramQuantile(histogram: Histogram, share: number): number {
  const buckets = [...histogram].sort(([a], [b]) => a - b);
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  let seen = 0;
  for (const [bucket, count] of buckets) {
    seen += count;
    if (seen > share * total || seen === total) return middleOf(bucket);
  }
  return Number.NaN;
}
