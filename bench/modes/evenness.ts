/** Whether new connections are spread evenly over the backends. */

import { clusterIp, SERVICE_PORTS } from './cluster.ts';
import { BACKEND_PODS, type Lane } from './lane.ts';
import type { EvennessRow } from './result.ts';

/** Upper tail of the chi-square distribution, by Wilson and Hilferty's approximation (1931): good to a percent. */
export function chiSquareTail(value: number, degrees: number): number {
  if (value <= 0) return 1;
  const spread = 2 / (9 * degrees);
  const z = ((value / degrees) ** (1 / 3) - (1 - spread)) / Math.sqrt(spread);
  return normalTail(z);
}

/** Upper tail of the normal distribution; Abramowitz and Stegun 26.2.17, to 7.5e-8. */
function normalTail(z: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const series =
    t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const tail = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * series;
  return z >= 0 ? tail : 1 - tail;
}

export async function measureEvenness(lane: Lane, service: number, calls: number): Promise<EvennessRow> {
  const family = lane.families[0]!;
  const { pods } = await lane.lab
    .pod('caller')
    .call('tcp', clusterIp(family, service), SERVICE_PORTS.name, { count: calls, concurrency: 16 });
  const counts = BACKEND_PODS.map((name) => pods[name] ?? 0);
  const answered = counts.reduce((sum, n) => sum + n, 0);
  const expected = answered / counts.length;
  const chiSquare = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
  const probability = chiSquareTail(chiSquare, counts.length - 1);
  return { mode: lane.mode, calls: answered, counts, chiSquare, probability };
}

/** No chance: once in a thousand runs of a mode that is even. */
export function isUneven({ probability }: Pick<EvennessRow, 'probability'>): boolean {
  return probability < 0.001;
}
