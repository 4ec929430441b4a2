import { describe, expect, test } from 'vitest';
import { Results, reasonOfSkip } from '../../scripts/lib/results.mjs';

describe('the reason of a skip', () => {
  test.each([
    [{ name: 'a > b [skipped: needs a moon] > c', mode: 'skip' }, 'needs a moon'],
    [{ name: 'a (needs root)', mode: 'skip' }, 'needs root'],
    [{ name: 'a', mode: 'run', reason: 'no IPv6 here' }, 'no IPv6 here'],
    [{ name: 'a', mode: 'run' }, 'not reached: its beforeAll failed'],
    [{ name: 'a', mode: 'skip' }, undefined],
    [{ name: 'a (IPv6)', mode: 'todo' }, undefined],
  ])('%o', (event, reason) => {
    expect(reasonOfSkip(event)).toBe(reason);
  });
});

describe('the account of a run', () => {
  const lastLine = (results: Results) => results.report().split('\n').at(-1);

  test('ends with the counts', () => {
    const results = new Results();
    results.passed = 3;
    expect(lastLine(results)).toBe('3 passed, 0 failed');
  });

  test('names what was skipped and why', () => {
    const results = new Results();
    results.skip({ name: 'pods [skipped: needs root] > run', mode: 'skip' });
    expect(lastLine(results)).toBe('0 passed, 0 failed, 1 skipped');
    expect(results.report()).toContain('  pods > run: needs root\n');
  });

  test('counts a skip without a reason as a failure', () => {
    const results = new Results();
    results.skip({ name: 'pods', mode: 'skip' });
    expect(lastLine(results)).toBe('0 passed, 1 failed');
    expect(results.report()).toContain('  pods: skipped without a reason');
  });
});
