/**
 * The log: one line a record on standard error, written before the call returns so that nothing is lost at a
 * crash. Names from the cluster are escaped by the format (JSON) or by escapeText (text).
 */
import { isatty } from 'node:tty';
import { type DestinationStream, type Level, type Logger, pino, stdSerializers } from 'pino';
import { escapeText } from './escape.ts';

export type { Logger };
export type LogFormat = 'auto' | 'text' | 'json';

export interface LogOptions {
  /** kube-proxy's -v: 0-2 info, 3-4 debug, 5 and more trace. */
  readonly verbosity: number;
  readonly format: LogFormat;
  /** Default: standard error. */
  readonly stream?: DestinationStream;
}

const STDERR = 2;
const WAITING_BYTES_MAX = 1 << 20;
/** Of 100 ms each, for a reader of a pipe that somebody has set not to block. */
const WAITS_MAX = 10;

/** A logger. Its `level` may be set at any time (levelOf). */
export function createLogger(options: LogOptions): Logger {
  const text = options.format === 'text' || (options.format === 'auto' && isatty(STDERR));
  const stream =
    options.stream ??
    standardError((lines) => log.warn({ lines }, 'lines of the log are lost: there was no room for them'));
  const log = pino(
    {
      base: null,
      level: levelOf(options.verbosity),
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: errorFields },
    },
    text ? { write: (line: string) => stream.write(textLine(line)) } : stream,
  );
  return log;
}

/** The level that goes with kube-proxy's -v. */
export function levelOf(verbosity: number): Level {
  if (verbosity >= 5) return 'trace';
  return verbosity >= 3 ? 'debug' : 'info';
}

/** A JSON record as a line for people: time, level, message, then fields as name=value. */
export function textLine(json: string): string {
  const { time, level, msg, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const rest = Object.entries(fields).map(([name, value]) => ` ${escapeText(name)}=${fieldText(value)}`);
  const head = `${String(time)} ${String(level).toUpperCase().padEnd(5)}`;
  return `${head} ${escapeText(String(msg ?? ''))}${rest.join('')}\n`;
}

function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  const plain = escapeText(text);
  return typeof value === 'string' && /[\s"=\\]|^$/.test(plain) ? JSON.stringify(plain) : plain;
}

/** An error that was raised on purpose says all in its message; of others the place is wanted. */
function errorFields(error: Error): Record<string, unknown> {
  const { type, message, stack } = stdSerializers.err(error);
  const code = (error as { code?: unknown }).code;
  if (typeof code === 'string' && code.startsWith('TP_')) return { code, message };
  return { type, message, ...(code === undefined ? {} : { code }), stack };
}

/**
 * Standard error, whatever becomes of it: going on without a log beats ending the proxy. What cannot be written (a full
 * disk) waits up to WAITING_BYTES_MAX and is written before what comes next; a reader that stalls is waited for once.
 *
 * @param onLost called when there is room again, with the number of lines that there was none for
 */
function standardError(onLost: (lines: number) => void): DestinationStream {
  let lost = 0;
  let waits = 0;
  const retryEAGAIN = () => ++waits <= WAITS_MAX;
  const stream = pino.destination({ fd: STDERR, sync: true, maxLength: WAITING_BYTES_MAX, retryEAGAIN });
  stream.on('error', () => {});
  stream.on('drop', () => lost++);
  stream.on('write', (bytes: number) => {
    if (bytes > 0) waits = 0;
  });
  stream.on('drain', () => {
    const lines = lost;
    lost = 0;
    if (lines > 0) onLost(lines);
  });
  return stream;
}
