/** The fixed set of the bench: no change may ask more of the kernel than it did, nor more in a larger cluster. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Counted, countWork, FIXED_SIZES, regressions } from '../../bench/fixed/count.ts';
import { removeNamespaces } from '../../bench/support/namespace.ts';
import { readText } from '../support/checkout.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';

const RECORDED: readonly Counted[] = JSON.parse(readText('bench/results/fixed.json'));
const COUNT_MS_MAX = 120_000;
const root = skipUnless(privilege() === 'root', 'needs root');

root.describe('work that is counted', () => {
  let now: Counted[] = [];
  beforeAll(async () => {
    now = await countWork(['nft', 'ebpf']);
  }, COUNT_MS_MAX);
  afterAll(removeNamespaces);

  test('is not more than it was: node scripts/bench.mjs fixed --record takes on what is meant to be so', () => {
    expect(regressions(RECORDED, now)).toBe('');
    expect(now).toHaveLength(RECORDED.length);
  });

  test('does not grow with the number of services', () => {
    const [small, large] = FIXED_SIZES.map((services) =>
      now.filter((row) => row.services === services).map((row) => ({ ...row, services: 0 })),
    );
    expect(regressions(small!, large!, 0.02)).toBe('');
  });
});

describe('what the fixed set finds', () => {
  const more = (row: Counted, by: number): Counted => ({
    ...row,
    typical: { ...row.typical, calls: row.most.calls + by },
  });

  test('one more call for a change is a regression, and is named', () => {
    const [first, ...rest] = RECORDED as readonly [Counted, ...Counted[]];
    expect(regressions(RECORDED, RECORDED)).toBe('');
    expect(regressions(RECORDED, [more(first, 0), ...rest])).toBe('');
    expect(regressions(RECORDED, [more(first, 1), ...rest])).toMatch(
      /^nft, \d+ services, start.*: calls \d+/,
    );
    expect(regressions([], [first])).toMatch(/not counted before$/);
  });
});
