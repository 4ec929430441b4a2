import { defineConfig } from 'vitest/config';

/**
 * Folders whose tests make namespaces, rules and processes. They run one file at a time, so that none disturbs
 * another one's counters and time-outs; the rest runs beside each other, before them.
 */
const KERNEL_FOLDERS = [
  'agent',
  'bpf',
  'conformance',
  'dataplane',
  'kernel',
  'lab',
  'native',
  'node',
  'probe',
];
const kernelTests = KERNEL_FOLDERS.map((folder) => `test/${folder}/**/*.test.ts`);

export default defineConfig({
  test: {
    pool: 'forks',
    // A folder whose tests were not selected is no failure; that not a single test ran is (scripts/lib/test-run.mjs).
    passWithNoTests: true,
    allowOnly: false,
    retry: 0,
    // Generous: they end what hangs, and are no statement about speed.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'plain',
          include: ['test/**/*.test.ts'],
          exclude: kernelTests,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'kernel',
          include: kernelTests,
          fileParallelism: false,
          maxWorkers: 1,
          testTimeout: 180_000,
          hookTimeout: 180_000,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
