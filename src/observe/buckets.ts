/** Upper bounds of the histograms, in seconds: those that dashboards of kube-proxy and client-go reckon with. */

/** 1 ms to 16.4 s (metrics.ExponentialBuckets(0.001, 2, 15)). */
export const SYNC_BUCKETS = Array.from({ length: 15 }, (_, i) => 0.001 * 2 ** i);
/** kube-proxy's for the network programming latency. */
export const PROGRAMMING_BUCKETS = [
  ...series(0.25, 0.25, 2),
  ...series(1, 1, 59),
  ...series(60, 5, 12),
  ...series(120, 30, 7),
];

/** client-go's (component-base/metrics/prometheus/restclient). */
export const REQUEST_BUCKETS = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60];

function series(start: number, step: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => start + i * step);
}
