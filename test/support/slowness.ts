/** How many times slower than a real one the processor is that these tests run on: an emulated one says so. */
export const SLOWNESS = Number(process.env.TRIPLANE_TEST_SLOWNESS ?? 1);

/** So many repetitions as a slow processor does in a like time: load and what it meets are both slower there. */
export function repeated(count: number): number {
  return Math.ceil(count / SLOWNESS ** 2);
}
