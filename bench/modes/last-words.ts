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
