/** What stands above a comparison: which runs these are, and what of them is not compared. */
import { CONTROL_SHARE_MIN, namesOf, noiseOf, SHARE_MIN, yardstickOf } from './compare.ts';
import type { Result } from './result.ts';

export interface Run {
  readonly file: string;
  readonly result: Result;
}

function runLine(when: string, { file, result }: Run): string {
  const { machine, quietness, startedAt } = result;
  const where = `${machine.cpus} x ${machine.cpu}, Linux ${machine.kernel.split('-', 1)[0]}`;
  return `${when} ${file}: ${startedAt}, ${where}: ${quietness.quiet ? 'quiet' : 'NOT QUIET'}`;
}

function sameMachine(a: Result, b: Result): boolean {
  const of = ({ machine }: Result) => `${machine.cpus} ${machine.cpu} ${machine.kernel} ${machine.node}`;
  return of(a) === of(b);
}

function controlNote(a: Result, b: Result): string[] {
  if (a.control.length === 0 || b.control.length === 0) return [];
  if (a.source !== b.source)
    return [`Control path: not compared, fed from ${a.source} before and from ${b.source} after`];
  if (yardstickOf(a, b) === null)
    return ['Control path: not compared, which takes a kube-proxy in both runs (--kube-proxy)'];
  return [];
}

function aloneNote(a: Result, b: Result): string[] {
  const [before, after] = [new Set(namesOf(a)), new Set(namesOf(b))];
  const alone = (names: ReadonlySet<string>, others: ReadonlySet<string>) =>
    [...names].filter((name) => !others.has(name)).length;
  const [onlyA, onlyB] = [alone(before, after), alone(after, before)];
  return onlyA + onlyB === 0 ? [] : [`Rows in one run alone, not compared: ${onlyA} before, ${onlyB} after`];
}

const percent = (share: number) => `${Number((100 * share).toFixed(1))}%`;

/** Lines, each with its end. */
export function comparisonHead(a: Run, b: Run): string {
  const [before, after] = [a.result, b.result];
  const share = Math.max(SHARE_MIN, noiseOf(before), noiseOf(after));
  const lines = [
    runLine('before', a),
    runLine('after ', b),
    ...(sameMachine(before, after)
      ? []
      : ['DIFFERENT MACHINES, kernels or versions of Node: ratios carry over, but not wholly']),
    `Beyond noise: intervals that do not meet, and more than ${percent(share)} apart (data path) or ${percent(CONTROL_SHARE_MIN)} (packets, control path)`,
    ...controlNote(before, after),
    ...aloneNote(before, after),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
