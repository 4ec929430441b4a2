/** What a person is told whose mode cannot run. */
import { describe, expect, test } from 'vitest';
import { explainMissing, lacking } from '../../src/agent/missing.ts';
import { TriplaneError } from '../../src/model/errors.ts';
import type { ProbeRow } from '../../src/probe/report.ts';

const row = (mode: ProbeRow['mode'], answer: ProbeRow['answer'], remedy = ''): ProbeRow => {
  return { mode, need: `a part of ${mode}`, weight: 'required', answer, remedy };
};
const probe = (...rows: ProbeRow[]) => {
  return async () => ({ kernel: 'k', rows, auto: { mode: '', reason: '' } as const });
};
const lacks = new TriplaneError('TP_NO_FEATURE', 'the first thing that failed');

describe('a mode that cannot run', () => {
  test('is told with all that it lacks and the modes that can', async () => {
    const rows = [
      row('ebpf', 'no', 'get it'),
      row('ebpf', 'no', 'get that'),
      row('nft', 'yes'),
      row('ipvs', 'no', 'x'),
    ];
    const error = await explainMissing(lacks, 'ebpf', probe(...rows));
    expect(error).toMatchObject({
      code: 'TP_NO_FEATURE',
      cause: lacks,
      message:
        'mode ebpf cannot run: it lacks a part of ebpf (get it); a part of ebpf (get that); modes that can: nft',
    });
  });

  test('is told by what failed where the probe finds nothing', async () => {
    const error = await explainMissing(lacks, 'ipvs', probe(row('ipvs', 'yes')));
    expect(error.message).toBe(
      'mode ipvs cannot run: it lacks the first thing that failed; modes that can: none',
    );
  });

  test.each([
    ['privilege is no lack of the kernel', new TriplaneError('TP_NO_PRIVILEGE', 'x'), 'nft'],
    ['auto has named its reasons', lacks, 'auto'],
    ['what is not ours stays as it is', new Error('x'), 'nft'],
  ] as const)('%s', async (_title, error, mode) => {
    expect(await explainMissing(error, mode, probe())).toBe(error);
  });

  test('a first state that was refused is hopeless only where something is missing', async () => {
    expect(await lacking('nft', probe(row('nft', 'yes'), row('nft', 'unknown')))).toBeNull();
    expect((await lacking('nft', probe(row('nft', 'no', 'r'))))?.message).toMatch(
      /^mode nft cannot run: it lacks/,
    );
  });
});
