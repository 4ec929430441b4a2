/** Sums of hashes over the elements of one family's sets, in shares: what two looks at a set are compared by. */

/** Elements go to shares by the upper bits of their hash; native/nft.h has the same number. */
export const SHARES = 1024;

/** Sums to be added, as the addon gives them. */
export interface SumChanges {
  /** set * SHARES + share. */
  readonly places: Uint32Array;
  readonly sums: BigUint64Array;
}

export class SetSums {
  readonly #sums: BigUint64Array;

  constructor(sets: number) {
    this.#sums = new BigUint64Array(sets * SHARES);
  }

  /** The shares of a set, as they are from now on. */
  of(set: number): BigUint64Array {
    return this.#sums.subarray(set * SHARES, (set + 1) * SHARES);
  }

  add({ places, sums }: SumChanges): void {
    for (const [i, place] of places.entries()) this.#sums[place]! += sums[i]!;
  }

  replace(set: number, shares: BigUint64Array): void {
    this.#sums.set(shares, set * SHARES);
  }
}

export function sameShares(a: BigUint64Array, b: BigUint64Array): boolean {
  return a.every((sum, share) => sum === b[share]);
}
