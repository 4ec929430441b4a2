// `npm run conformance`: the conformance table through every mode that this machine can run, and what came out into
// docs/conformance.md. Arguments go to vitest.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const vitest = path.join(root, 'node_modules/vitest/vitest.mjs');
const files = ['nft', 'ipvs', 'ebpf'].map((mode) => `test/conformance/${mode}.test.ts`);
const { status } = spawnSync(process.execPath, [vitest, 'run', ...files, ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, TRIPLANE_CONFORMANCE: 'write' },
});
process.exit(status ?? 1);
