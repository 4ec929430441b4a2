// Builds what runs: the native addon (node-gyp) and the bundled program (esbuild). `node scripts/build.mjs
// [native|bundle]`, without an argument both. Only what is older than its sources is built again.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

const root = path.resolve(import.meta.dirname, '..');
const what = process.argv[2] ?? 'all';

function filesUnder(dir) {
  const found = [];
  for (const entry of readdirSync(path.join(root, dir), { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) found.push(path.join(entry.parentPath ?? entry.path, entry.name));
  }
  return found;
}

function newest(files) {
  return Math.max(0, ...files.filter((f) => existsSync(f)).map((f) => statSync(f).mtimeMs));
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) throw result.error;
  if (result.status !== 0) {
    process.stderr.write(`build: ${command} ${args.join(' ')} failed (${result.status ?? result.signal})\n`);
    process.exit(1);
  }
}

/** Headers of the running Node, where a distribution installs them; node-gyp would download them otherwise. */
function nodeDir() {
  const prefix = path.resolve(process.execPath, '../..');
  for (const dir of [process.env.npm_config_nodedir, prefix, '/usr']) {
    if (dir && existsSync(path.join(dir, 'include/node/node_api.h'))) return dir;
  }
  return undefined;
}

function buildNative() {
  const out = path.join(root, 'build/Release/triplane.node');
  const sources = [...filesUnder('native'), path.join(root, 'binding.gyp')];
  if (existsSync(out) && statSync(out).mtimeMs > newest(sources)) return;
  const gyp = path.join(root, 'node_modules/node-gyp/bin/node-gyp.js');
  const dir = nodeDir();
  const nodedir = dir ? [`--nodedir=${dir}`] : [];
  const verb = existsSync(path.join(root, 'build/Makefile')) && statSync(path.join(root, 'build/Makefile')).mtimeMs > statSync(path.join(root, 'binding.gyp')).mtimeMs
    ? ['build'] : ['configure', 'build'];
  run(process.execPath, [gyp, ...verb, '-j', '2', '--silent', ...nodedir], {
    env: { ...process.env, npm_config_nodedir: undefined },
  });
}

async function buildBundle() {
  const { build } = await import('esbuild');
  mkdirSync(path.join(root, 'dist'), { recursive: true });
  await build({
    absWorkingDir: root,
    entryPoints: { triplane: 'src/cli/main.ts', 'skeleton-child': 'src/dataplane/nft/skeleton-child.ts' },
    outdir: 'dist',
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    minifyWhitespace: true,
    minifySyntax: true,
    sourcemap: 'linked',
    external: ['ffi-rs'],
    // CommonJS dependencies call require(); an ES module has none of its own.
    banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
    logLevel: 'warning',
  });
}

if (what === 'all' || what === 'native') buildNative();
if (what === 'all' || what === 'bundle') await buildBundle();
