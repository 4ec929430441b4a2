// Vitest inside a booted kernel: which tests run there, and how what they found comes back.
import process from 'node:process';
import { root } from '../lib/files.mjs';
import { ensureKernel, KERNELS } from './catalog.mjs';
import { missingTools, runInKernel } from './machine.mjs';

/** Tests that need IPVS, by mode; nft and ebpf also run on the kernel that is there. */
export const TESTS = {
  ipvs: ['test/conformance/ipvs.test.ts', 'test/dataplane/ipvs', 'test/probe'],
  nft: ['test/conformance/nft.test.ts'],
};
/** Those of them that a kernel without IPVS skips whole. */
export const ONLY_THERE = ['test/conformance/ipvs.test.ts', 'test/dataplane/ipvs/**'];
const EVENTS = 'events';

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function scriptFor(tests) {
  const vitest = [
    process.execPath,
    'node_modules/vitest/vitest.mjs',
    'run',
    '--configLoader=runner',
    '--reporter=default',
    '--reporter=./scripts/lib/vitest-reporter.mjs',
    ...tests,
  ];
  return `cd ${quoted(root)} || exit 1
export PATH=${quoted(process.env.PATH ?? '')}:/usr/sbin:/sbin HOME=/tmp NO_COLOR=1 CI=1
export TRIPLANE_TEST_REPORT=/triplane-vm/${EVENTS}
exec ${vitest.map(quoted).join(' ')}
`;
}

/** Why no kernel can be booted here; '' when it can. */
export function whyNot() {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return 'needs an x86-64 machine to boot its kernels';
  const tools = missingTools();
  return tools === '' ? '' : `needs packages to boot another kernel: ${tools}`;
}

/**
 * Runs vitest files in a kernel.
 * @param {string} name a kernel of catalog.mjs
 * @param {readonly string[]} tests paths from the root
 * @returns {Promise<{ skipped: string } | { status: number, output: string, events: string, version: string }>}
 */
export async function runTestsInKernel(name, tests, options) {
  const reason = whyNot();
  if (reason) return { skipped: reason };
  let kernel;
  try {
    kernel = await ensureKernel(KERNELS.find((one) => one.name === name));
  } catch (error) {
    return { skipped: `needs Debian's package of Linux ${name} (${error.message})` };
  }
  const { status, output, files } = await runInKernel(kernel, scriptFor(tests), {
    ...options,
    wanted: [EVENTS],
  });
  return { status, output, events: files[EVENTS], version: kernel.version };
}
