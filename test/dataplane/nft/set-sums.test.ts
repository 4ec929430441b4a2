/** The sums that sets are compared by, and what a dump gives of them. */
import { expect, test } from 'vitest';
import { SetSums, SHARES, sameShares } from '../../../src/dataplane/nft/set-sums.ts';
import { readText } from '../../support/checkout.ts';

test('there are as many shares as the addon makes', () => {
  const [, shares] = /kShares = (\d+)/.exec(readText('native/nft.h'))!;
  const [, shift] = /hash >> (\d+)/.exec(readText('native/nft.h'))!;
  expect([Number(shares), 2 ** (64 - Number(shift))]).toEqual([SHARES, SHARES]);
});

test('what is added and taken away again leaves nothing, and other sets are not touched', () => {
  const sums = new SetSums(3);
  const places = Uint32Array.of(SHARES, SHARES + 7, 2 * SHARES - 1);
  const big = 2n ** 64n - 5n;
  sums.add({ places, sums: BigUint64Array.of(1n, big, 3n) });
  sums.add({ places, sums: BigUint64Array.of(1n, 9n, 3n) });
  expect([sums.of(1)[0], sums.of(1)[7], sums.of(1)[SHARES - 1]]).toEqual([2n, 4n, 6n]);
  expect(sums.of(0).every((sum) => sum === 0n) && sums.of(2).every((sum) => sum === 0n)).toBe(true);
  sums.add({ places, sums: BigUint64Array.of(2n ** 64n - 2n, 2n ** 64n - 4n, 2n ** 64n - 6n) });
  expect(sameShares(sums.of(1), sums.of(0))).toBe(true);
});

test('a set that is replaced is what it was replaced by', () => {
  const sums = new SetSums(2);
  const shares = new BigUint64Array(SHARES).map((_, share) => BigInt(share));
  sums.replace(1, shares);
  expect(sameShares(sums.of(1), shares)).toBe(true);
  sums.replace(1, sums.of(0));
  expect(sums.of(1).every((sum) => sum === 0n)).toBe(true);
});
