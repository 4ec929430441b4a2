import { expect, test } from 'vitest';
import { ProblemLog } from '../../src/agent/problem-log.ts';
import type { ErrorCode } from '../../src/model/errors.ts';

test.each<[ErrorCode, string, string]>([
  ['TP_BAD_OBJECT', 'refused: why', 'no longer refused'],
  ['TP_FRONTEND_TAKEN', 'refused: why', 'no longer refused'],
  ['TP_API', 'why', 'in order again'],
  ['TP_NOT_KEPT', 'why', 'in order again'],
])('%s is said once when it comes and once when it goes', (code, comes, goes) => {
  const lines: string[] = [];
  const say = (_fields: object, text: string) => void lines.push(text);
  const problems = new ProblemLog({ error: say, warn: say, info: say, debug: say, trace: say });
  const problem = { code, object: 'X', reason: 'why', origin: '' };
  problems.report('source', problem);
  problems.report('source', problem);
  expect(problems.all()).toEqual([problem]);
  // Each reporter takes back its own alone.
  problems.gone('model', 'X');
  problems.gone('source', 'X');
  problems.gone('source', 'X');
  expect(lines).toEqual([comes, goes]);
});
