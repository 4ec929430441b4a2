// Vitest inside a booted kernel: which tests run there, and how what they found comes back.
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { inRoot, root } from '../lib/files.mjs';
import { ensureBootPackages } from '../lib/packages.mjs';
import { bundleTests } from './bundle.mjs';
import { ensureKernel, KERNELS } from './catalog.mjs';
import { runInKernel } from './machine.mjs';

/** What runs in a booted kernel, by mode or subject; the first of them within `npm test`. */
export const TESTS = {
  ipvs: [
    'test/conformance/ipvs.test.ts',
    'test/conformance/fuzz.test.ts',
    'test/dataplane/ipvs',
    'test/agent/ipvs.test.ts',
  ],
  nft: ['test/conformance/nft.test.ts', 'test/dataplane/nft/traffic.test.ts'],
  ebpf: ['test/bpf/live.test.ts', 'test/dataplane/ebpf-forward.test.ts'],
  probe: ['test/probe'],
  counting: [
    'test/dataplane/counting/ipvs.test.ts',
    'test/dataplane/counting/nft.test.ts',
    'test/agent/counting.test.ts',
  ],
  takeover: ['test/agent/ipvs-takeover.test.ts'],
  faults: ['test/agent/ipvs-faults.test.ts'],
  switching: ['test/agent/ipvs-switching.test.ts'],
  starts: ['test/agent/starts.test.ts'],
  bench: ['test/bench/ipvs.test.ts'],
};
/** Whoever runs one of these by name has the time for them (test/support/long.ts). */
const LONG = ['takeover', 'faults', 'switching', 'starts', 'bench'];
/** Those that a kernel without IPVS skips whole, of what `npm test` boots one for. */
export const ONLY_THERE = [
  'test/conformance/ipvs.test.ts',
  'test/dataplane/ipvs/**',
  'test/agent/ipvs.test.ts',
];

/** What the tests of a mode or subject are to find in their environment. */
export function environmentOf(mode) {
  return LONG.includes(mode) ? { TRIPLANE_TEST_LONG: '1' } : {};
}

const EVENTS = 'events';

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Test files below the given paths. */
function filesOf(tests) {
  return tests.flatMap((test) => {
    if (statSync(inRoot(test)).isFile()) return [test];
    const names = readdirSync(inRoot(test), { recursive: true }).sort();
    return names.filter((name) => name.endsWith('.test.ts')).map((name) => path.join(test, name));
  });
}

function scriptFor(files, environment) {
  const vitest = [
    process.execPath,
    'node_modules/vitest/vitest.mjs',
    'run',
    '--config=scripts/kernels/vitest.config.mjs',
    '--configLoader=runner',
    '--reporter=default',
    '--reporter=./scripts/lib/vitest-reporter.mjs',
    ...files,
  ];
  return `cd ${quoted(root)} || exit 1
export PATH=${quoted(process.env.PATH ?? '')}:/usr/sbin:/sbin HOME=/tmp NO_COLOR=1 CI=1
export TRIPLANE_TEST_REPORT=/triplane-vm/${EVENTS} TRIPLANE_TEST_SLOWNESS=5 TRIPLANE_TEST_BUILT=1
${Object.entries(environment)
  .map(([name, value]) => `export ${name}=${quoted(value)}`)
  .join('\n')}
exec ${vitest.map(quoted).join(' ')}
`;
}

/**
 * Sees that a kernel can be booted: packages and the kernel itself, which a fresh machine downloads.
 * Resolves to { kernel }, or to { skipped } with the reason in one line.
 * @param {string} name a kernel of catalog.mjs
 * @param {(line: string) => void} say
 */
export async function prepareKernel(name, say) {
  const reason = await ensureBootPackages(say);
  if (reason) return { skipped: reason };
  try {
    return {
      kernel: await ensureKernel(
        KERNELS.find((one) => one.name === name),
        say,
      ),
    };
  } catch (error) {
    return { skipped: `needs Debian's package of Linux ${name} (${error.message})` };
  }
}

/**
 * Runs vitest files in a kernel.
 * @param kernel what prepareKernel() found
 * @param {readonly string[]} tests paths from the root, of files or folders
 * @param {{ timeoutMs: number, signal?: AbortSignal, environment?: Record<string, string> }} options
 * @returns {Promise<{ status: number, output: string, events: string }>}
 */
export async function runTestsInKernel(kernel, tests, { environment = {}, ...options }) {
  const { files, rename, remove } = await bundleTests(filesOf(tests));
  try {
    const result = await runInKernel(kernel, scriptFor(files, environment), { ...options, wanted: [EVENTS] });
    return {
      status: result.status,
      output: rename(result.output),
      events: rename(result.files[EVENTS]),
    };
  } finally {
    remove();
  }
}
