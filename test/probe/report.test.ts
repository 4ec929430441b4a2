/** What auto takes from what was found, as a table. */
import { describe, expect, test } from 'vitest';
import type { Mode } from '../../src/dataplane/dataplane.ts';
import { autoOf, missingOf, PREFERENCE, type ProbeRow } from '../../src/probe/report.ts';

function row(mode: Mode, answer: ProbeRow['answer'], weight: ProbeRow['weight'] = 'required'): ProbeRow {
  return { mode, need: `a ${mode} thing`, weight, answer, remedy: answer === 'yes' ? '' : `get ${mode}` };
}

test('auto takes the first of its preference that can run', () => {
  const rows = PREFERENCE.map((mode) => row(mode, 'yes'));
  expect(autoOf(rows)).toEqual({ mode: PREFERENCE[0], reason: 'the best mode that can run' });
});

describe('auto', () => {
  const cases: readonly [name: string, rows: readonly ProbeRow[], mode: Mode | '', reason: RegExp][] = [
    ['everything', [row('ebpf', 'yes'), row('nft', 'yes'), row('ipvs', 'yes')], 'ebpf', /^the best mode/],
    [
      'no ebpf',
      [row('ebpf', 'no'), row('nft', 'yes'), row('ipvs', 'yes')],
      'nft',
      /ebpf lacks a ebpf thing \(get ebpf\)/,
    ],
    ['ipvs alone', [row('ebpf', 'no'), row('nft', 'no'), row('ipvs', 'yes')], 'ipvs', /nft lacks/],
    ['a lesser degree counts', [row('nft', 'yes'), row('nft', 'no', 'better')], 'nft', /best/],
    ['one of two is missing', [row('nft', 'yes'), row('nft', 'no'), row('ipvs', 'yes')], 'ipvs', /nft lacks/],
    ['what was not tried is not taken', [row('nft', 'unknown')], '', /nft could not be tried/],
    ['nothing', [], '', /could not be tried/],
  ];
  for (const [name, rows, mode, reason] of cases) {
    test(name, () => {
      const auto = autoOf(rows, ['ebpf', 'nft', 'ipvs']);
      expect(auto.mode).toBe(mode);
      expect(auto.reason).toMatch(reason);
    });
  }

  test('where nothing could be tried to its end, the first that may be used and lacks nothing is taken', () => {
    const rows = [row('ebpf', 'unknown'), row('nft', 'yes'), row('nft', 'unknown'), row('ipvs', 'no')];
    const auto = autoOf(rows, ['ebpf', 'ipvs', 'nft']);
    expect(auto.mode).toBe('nft');
    expect(auto.reason).toMatch(
      /^nothing speaks against it, and not all of it could be tried \(.*\); ebpf could not be .*; ipvs lacks/,
    );
  });

  test('what a mode lacks is said with what to do about it', () => {
    expect(missingOf([row('ipvs', 'no'), row('ipvs', 'no', 'better')], 'ipvs')).toEqual([
      'a ipvs thing (get ipvs)',
    ]);
  });
});
