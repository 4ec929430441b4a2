// Tests for a booted kernel, one file each. An emulated processor takes a minute to read and transform what this
// machine bundles in a second.
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { inRoot } from '../lib/files.mjs';

/** As deep below the root as test/support is: its checkout.ts finds the root from where it stands. One for each run. */
const FOLDER = `build/kernel-tests-${process.pid}`;

function bundleName(test) {
  return path.basename(test, '.ts').replace(/^/, `${path.dirname(test).replaceAll('/', '-')}-`);
}

/**
 * Bundles test files. Resolves to { files, rename, remove }: their paths from the root, a function that gives the
 * files in a text their own names back, and one that removes them.
 * @param {readonly string[]} tests paths of test files, from the root
 */
export async function bundleTests(tests) {
  const { build, stop } = await import('esbuild');
  const remove = () => rmSync(inRoot(FOLDER), { recursive: true, force: true });
  remove();
  await build({
    absWorkingDir: inRoot(),
    entryPoints: Object.fromEntries(tests.map((test) => [`${bundleName(test)}.bundle`, test])),
    outdir: FOLDER,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    sourcemap: 'linked',
    // vitest is the one that runs them; ffi-rs finds its own binary beside itself.
    external: ['vitest', 'ffi-rs'],
    banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
    logLevel: 'warning',
  });
  // Its helper process would outlive this.
  await stop();
  // vitest takes what it runs itself through its own compiler; what that imports goes straight to Node
  // (vitest.config.mjs says so).
  for (const test of tests)
    writeFileSync(inRoot(FOLDER, `${bundleName(test)}.mjs`), `import './${bundleName(test)}.bundle.mjs';\n`);
  const files = tests.map((test) => path.join(FOLDER, `${bundleName(test)}.mjs`));
  const rename = (text) => tests.reduce((done, test, at) => done.replaceAll(files[at], test), text);
  return { files, rename, remove };
}
