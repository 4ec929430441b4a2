import process from 'node:process';
import { defineConfig } from 'vitest/config';

/** For the bundled tests in a booted kernel: one file after another, and time-outs for an emulated processor. */
export default defineConfig({
  test: {
    server: { deps: { external: [/\.bundle\.mjs$/] } },
    include: ['build/kernel-tests-*/*.test.mjs'],
    pool: 'forks',
    fileParallelism: false,
    maxWorkers: 1,
    ...(process.env.TRIPLANE_TEST_NAME ? { testNamePattern: process.env.TRIPLANE_TEST_NAME } : {}),
    allowOnly: false,
    retry: 0,
    testTimeout: 600_000,
    hookTimeout: 600_000,
    teardownTimeout: 20_000,
  },
});
