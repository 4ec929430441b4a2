import { describe, test } from 'vitest';

/**
 * Declares tests that can run only where `condition` holds. Where it does not, they are skipped under a name that
 * says why, and the end of `npm test` lists them; a test that is skipped in any other way (`test.skip`,
 * `test.todo`) fails the run. Inside a test, `context.skip(reason)` does the same.
 *
 * The reason is a short phrase that says what is missing: 'needs root', 'no IPv6 in this kernel'.
 *
 *     const root = skipUnless(hasRoot(), 'needs root');
 *     root.describe('the agent', () => { ... });
 *     root.test('takes its lock', async () => { ... });
 */
export function skipUnless(condition: unknown, reason: string) {
  const name = (own: string) => (condition ? own : `${own} [skipped: ${reason}]`);
  return {
    describe: (own: string, body: () => void) => describe.skipIf(!condition)(name(own), body),
    test: (own: string, body: () => unknown, timeoutMs?: number) =>
      test.skipIf(!condition)(
        name(own),
        async () => {
          await body();
        },
        timeoutMs,
      ),
  };
}
