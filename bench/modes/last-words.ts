/** What a program said last, in one line for people. */
import { readFileSync } from 'node:fs';

const LENGTH_MAX = 300;

/** klog's head: severity, date, time, thread, place. */
const KLOG = /^[IWEF]\d{4} [\d:.]+ +\d+ [\w.-]+:\d+\] /;

/** The text without the frame of a log line: pino's JSON, or klog's. */
export function lastLine(text: string): string {
  const line = text.trimEnd().split('\n').at(-1)!;
  const message = /"msg":"((?:[^"\\]|\\.)*)"/.exec(line)?.[1] ?? line.replace(KLOG, '');
  return message.slice(0, LENGTH_MAX);
}

export function lastWords(logFile: string): string {
  try {
    return lastLine(readFileSync(logFile, 'utf8'));
  } catch {
    return 'it wrote nothing';
  }
}

interface LogLine {
  readonly code?: string;
  readonly object?: string;
  readonly msg?: string;
}

function parseLine(line: string): LogLine {
  try {
    return (JSON.parse(line) ?? {}) as LogLine;
  } catch {
    // Not pino's, or not yet written whole.
    return {};
  }
}

/** What an API server makes by itself is none of the bench's objects. */
const NOT_OURS = / default\//;

/** The last object in an agent's log that is refused and has not been taken since, with its reason; null: there is none. */
export function standingRefusal(log: string): string | null {
  const refused = new Map<string, string>();
  for (const line of log.split('\n')) {
    if (!line.includes('"TP_') || NOT_OURS.test(line)) continue;
    const { code, object = '', msg = '' } = parseLine(line);
    if (msg === 'no longer refused') refused.delete(object);
    else if (msg.startsWith('refused: ') || code === 'TP_KERNEL_REFUSED')
      refused.set(object, `the agent refuses ${object}: ${msg.replace('refused: ', '')} (${code})`);
  }
  return [...refused.values()].at(-1) ?? null;
}
