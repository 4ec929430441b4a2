// How what runs is made from its sources, one step for each kind. Each step knows whether its product is older
// than its sources, and answers undefined or the message that says what went wrong.
import { existsSync, mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { inRoot, isStale } from './files.mjs';
import { findNodeHeaders } from './node-headers.mjs';
import { lastLines, runQuietly } from './run.mjs';

const ADDON = 'build/Release/triplane.node';
/** make touches only what changed, so the products themselves do not tell when they were last up to date. */
const NATIVE_STAMP = 'build/.made';
const BPF_OBJECT = 'build/bpf/triplane.o';
const PROGRAM = 'dist/triplane.mjs';

/** Dates a product from the moment its making began: a source that was saved meanwhile counts as newer. */
function dateFrom(began, file) {
  utimesSync(inRoot(file), began, began);
}

export function nativeIsStale() {
  return !existsSync(inRoot(ADDON)) || isStale(NATIVE_STAMP, 'native', 'bpf', 'bench/load', 'binding.gyp');
}

async function buildNative(say) {
  if (!nativeIsStale()) return undefined;
  say('compiling the native addon');
  const began = new Date();
  const headers = findNodeHeaders();
  if (headers === undefined)
    say('this Node has no headers beside it: node-gyp downloads them from nodejs.org');
  const gyp = inRoot('node_modules/node-gyp/bin/node-gyp.js');
  const args = [
    gyp,
    'configure',
    'build',
    '-j',
    '2',
    '--loglevel=warn',
    ...(headers ? [`--nodedir=${headers}`] : []),
  ];
  const env = { ...process.env };
  delete env.npm_config_nodedir;
  const result = await runQuietly(process.execPath, args, { env });
  if (result.status !== 0) {
    const hint = headers
      ? ''
      : '\nIf the headers could not be downloaded: give their folder as npm_config_nodedir, or use a Node that has them (nodejs.org, NodeSource).';
    return `the native addon did not compile:\n${lastLines(result.output, 60)}${hint}`;
  }
  // A compiler's warning is of use only to the person who can see it.
  if (/warning:/.test(result.output)) process.stderr.write(`${result.output.trimEnd()}\n`);
  if (!existsSync(inRoot(ADDON))) return `node-gyp ended well but made no ${ADDON}`;
  writeFileSync(inRoot(NATIVE_STAMP), '');
  dateFrom(began, NATIVE_STAMP);
  return undefined;
}

/** As Debian's multiarch folders name this machine: clang's BPF target has no <asm/types.h> of its own. */
const MACHINES = {
  x64: 'x86_64',
  arm64: 'aarch64',
  riscv64: 'riscv64',
  s390x: 's390x',
  ppc64: 'powerpc64le',
};

async function buildBpf(say) {
  if (!isStale(BPF_OBJECT, 'bpf', 'scripts/lib/build-steps.mjs')) return undefined;
  say('compiling the BPF programs');
  const began = new Date();
  mkdirSync(inRoot('build/bpf'), { recursive: true });
  const args = ['-O2', '-g', '-Wall', '-Wextra', '-Werror', '-Wno-unused-function', '-target', 'bpf'];
  args.push('-mcpu=v3', `-I/usr/include/${MACHINES[process.arch] ?? process.arch}-linux-gnu`);
  args.push('-c', inRoot('bpf/triplane.c'), '-o', inRoot(BPF_OBJECT));
  const result = await runQuietly(process.env.CLANG ?? 'clang', args);
  if (result.status !== 0) return `the BPF programs did not compile:\n${lastLines(result.output, 60)}`;
  dateFrom(began, BPF_OBJECT);
  return undefined;
}

/** The programs that are bundled: name in dist/ and where each starts. */
export const ENTRY_POINTS = {
  triplane: 'src/cli/main.ts',
  'skeleton-child': 'src/dataplane/nft/skeleton-child.ts',
  bench: 'bench/modes.ts',
};

export function bundleIsStale() {
  return isStale(PROGRAM, 'src', 'bench', 'package.json', 'package-lock.json', 'scripts/lib/build-steps.mjs');
}

/** Shared parts are named by their content, so each build leaves those of the last one behind. */
function removeOldChunks(metafile) {
  const made = new Set(Object.keys(metafile.outputs));
  for (const file of readdirSync(inRoot('dist'))) {
    if (!made.has(`dist/${file}`)) rmSync(inRoot('dist', file), { recursive: true });
  }
}

/**
 * Modules of the client library do nothing but declare: what nobody uses of them may go, which esbuild does not take for
 * granted of classes with static members. Its package.json does not say so.
 */
const DECLARES_ONLY = /node_modules[\\/]@kubernetes[\\/]client-node[\\/]dist[\\/]/;
const leaveOutUnused = {
  name: 'leave out what is not used of the client library',
  setup(build) {
    build.onResolve(
      { filter: /^(\.|@kubernetes\/client-node$)/ },
      async ({ path: wanted, pluginData, ...from }) => {
        if (pluginData === leaveOutUnused || !(wanted.startsWith('@') || DECLARES_ONLY.test(from.importer)))
          return undefined;
        const { importer, resolveDir, kind } = from;
        const found = await build.resolve(wanted, { importer, resolveDir, kind, pluginData: leaveOutUnused });
        return found.errors.length > 0 ? { errors: found.errors } : { path: found.path, sideEffects: false };
      },
    );
    // KubeConfig imports it for requests by fetch(); ours are node:https's, and it takes a tenth of a second to read.
    build.onResolve({ filter: /^undici$/ }, () => ({ path: 'undici', namespace: 'left-out' }));
    build.onLoad({ filter: /./, namespace: 'left-out' }, ({ path: name }) => ({
      contents: `function leftOut() { throw new Error('${name} is left out of the bundle'); }
export { leftOut as Agent, leftOut as ProxyAgent, leftOut as fetch };`,
    }));
  },
};

async function buildBundle(say) {
  const entryPoints = Object.fromEntries(
    Object.entries(ENTRY_POINTS).filter(([, file]) => existsSync(inRoot(file))),
  );
  if (entryPoints.triplane === undefined || !bundleIsStale()) return undefined;
  say('bundling the program');
  const began = new Date();
  const { build } = await import('esbuild');
  try {
    const { metafile } = await build({
      absWorkingDir: inRoot(),
      metafile: true,
      entryPoints,
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
      plugins: [leaveOutUnused],
      // Finds its own binary beside itself.
      external: ['ffi-rs'],
      // CommonJS dependencies call require(); an ES module has none of its own.
      banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
      logLevel: 'warning',
    });
    removeOldChunks(metafile);
  } catch (error) {
    return `the program could not be bundled: ${error.message}`;
  }
  dateFrom(began, PROGRAM);
  return undefined;
}

/** In the order in which they are made: a later one may use what an earlier one made. */
export const STEPS = { native: buildNative, bpf: buildBpf, bundle: buildBundle };

export async function buildAll(say) {
  for (const step of Object.values(STEPS)) {
    const problem = await step(say);
    if (problem !== undefined) return problem;
  }
  return undefined;
}
