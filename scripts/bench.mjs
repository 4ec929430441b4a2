// `node scripts/bench.mjs NAME [arguments]`: bundles bench/NAME.ts as the program itself is bundled, and runs it.
import './lib/node-version.mjs';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { ENTRY_POINTS, STEPS } from './lib/build-steps.mjs';
import { inRoot } from './lib/files.mjs';

const OUT = 'build/bench';

function fail(message) {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(1);
}

/** Benches are the files of bench/; what they need stands in folders of the same name. */
function benches() {
  return readdirSync(inRoot('bench'))
    .filter((file) => file.endsWith('.ts'))
    .map((file) => path.basename(file, '.ts'));
}

async function bundle(name) {
  const { build } = await import('esbuild');
  const worker = `bench/${name}/worker.ts`;
  const common = {
    absWorkingDir: inRoot(),
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    outExtension: { '.js': '.mjs' },
    external: ['ffi-rs', 'esbuild'],
    banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
    logLevel: 'warning',
  };
  const entryPoints = { [name]: `bench/${name}.ts` };
  if (existsSync(inRoot(worker))) entryPoints[`${name}-worker`] = worker;
  await build({ ...common, entryPoints, outdir: OUT, sourcemap: 'linked' });
  // The dataplane starts it from dist/, where the whole program's build puts it too.
  const child = 'skeleton-child';
  await build({ ...common, entryPoints: { [child]: ENTRY_POINTS[child] }, outdir: 'dist' });
}

const [name, ...args] = process.argv.slice(2);
if (!benches().includes(name)) fail(`give the name of a bench: ${benches().join(', ')}`);
const problem = await STEPS.native((line) => process.stderr.write(`bench: ${line}\n`));
if (problem !== undefined) fail(problem);
await bundle(name);
const child = spawn(process.execPath, [inRoot(OUT, `${name}.mjs`), ...args], { stdio: 'inherit' });
// Ctrl-C reaches the whole group; the bench cleans up and ends, and this with it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code) => {
  process.exitCode = code ?? 1;
});
