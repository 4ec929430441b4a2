/**
 * Durations as Go writes them (`time.ParseDuration` and `Duration.String`), because that is what kube-proxy's
 * flags and file hold: `1h2m3.5s`, `300ms`, `0`.
 */

const NANOSECONDS: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  μs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};
/** Go's Duration is a signed 64-bit count of nanoseconds: about 292 years. */
const LIMIT_NS = 2 ** 63;
const PART = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/y;

/** Milliseconds, possibly with a fraction (exact to the nanosecond up to 104 days); null when the text is no duration. */
export function parseDurationMs(text: string): number | null {
  const sign = text.startsWith('-') ? -1 : 1;
  const body = text.replace(/^[+-]/, '');
  if (body === '0') return 0;
  if (body === '') return null;
  let nanoseconds = 0;
  PART.lastIndex = 0;
  while (PART.lastIndex < body.length) {
    const part = PART.exec(body);
    if (part === null) return null;
    nanoseconds += Number(part[1]) * NANOSECONDS[part[2]!]!;
  }
  if (nanoseconds >= LIMIT_NS) return null;
  return nanoseconds === 0 ? 0 : (sign * Math.round(nanoseconds)) / 1e6;
}

/** As Go prints it: `1h0m0s`, `2m3.5s`, `1.5ms`, `0s`. */
export function formatDuration(durationMs: number): string {
  if (durationMs === 0) return '0s';
  if (durationMs < 0) return `-${formatDuration(-durationMs)}`;
  const nanoseconds = Math.round(durationMs * 1e6);
  if (nanoseconds < 1e3) return `${nanoseconds}ns`;
  if (nanoseconds < 1e6) return `${decimal(nanoseconds, 3)}µs`;
  if (nanoseconds < 1e9) return `${decimal(nanoseconds, 6)}ms`;
  const minutesWhole = Math.floor(nanoseconds / 60e9);
  const seconds = decimal(nanoseconds - minutesWhole * 60e9, 9);
  if (minutesWhole === 0) return `${seconds}s`;
  const hours = Math.floor(minutesWhole / 60);
  return hours === 0 ? `${minutesWhole}m${seconds}s` : `${hours}h${minutesWhole % 60}m${seconds}s`;
}

/** `value / 10^places` without the noise of binary fractions. */
function decimal(value: number, places: number): string {
  const scale = 10 ** places;
  const whole = Math.floor(value / scale);
  const fraction = String(value % scale)
    .padStart(places, '0')
    .replace(/0+$/, '');
  return fraction === '' ? String(whole) : `${whole}.${fraction}`;
}
