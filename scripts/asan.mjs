// Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer into build-asan/ and runs tests that touch it.
// `node scripts/asan.mjs [build|run] [vitest arguments ...]`; without either word both, without arguments test/native
// and test/node. What the sanitizers find ends the process that did it, so a finding is a failed test with a report above it.
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

const root = path.resolve(import.meta.dirname, '..');
const tree = path.join(root, 'build-asan/tree');
const [first, ...others] = process.argv.slice(2);
const step = ['build', 'run'].includes(first) ? first : undefined;
const given = step || first === undefined ? others : [first, ...others];
const tests = given.length > 0 ? given : ['test/native', 'test/node'];

function run(command, args, options) {
  const result = spawnSync(command, args, { stdio: 'inherit', ...options });
  if (result.error) throw result.error;
  if (result.status !== 0) process.exit(result.status ?? 1);
}

/** The path of a compiler's own library. */
function libraryOf(name) {
  const result = spawnSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' });
  return result.stdout.trim();
}

/** Headers of the running Node, where a distribution installs them; node-gyp would download them otherwise. */
function nodeDirFlag() {
  const prefix = path.resolve(process.execPath, '../..');
  const dir = [process.env.npm_config_nodedir, prefix, '/usr'].find(
    (each) => each && existsSync(path.join(each, 'include/node/node_api.h')),
  );
  return dir ? [`--nodedir=${dir}`] : [];
}

function build() {
  // node-gyp always builds into build/ of the folder that holds binding.gyp: so it gets a folder of its own.
  rmSync(path.join(tree, 'native'), { recursive: true, force: true });
  mkdirSync(tree, { recursive: true });
  cpSync(path.join(root, 'native'), path.join(tree, 'native'), { recursive: true });
  // binding.gyp names sources in these as well.
  for (const folder of ['bpf', 'bench'])
    if (existsSync(path.join(root, folder)))
      cpSync(path.join(root, folder), path.join(tree, folder), { recursive: true });
  for (const file of ['binding.gyp', 'package.json'])
    copyFileSync(path.join(root, file), path.join(tree, file));
  if (!existsSync(path.join(tree, 'node_modules')))
    symlinkSync(path.join(root, 'node_modules'), path.join(tree, 'node_modules'));
  const sanitize = '-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer';
  run(
    process.execPath,
    [
      path.join(root, 'node_modules/node-gyp/bin/node-gyp.js'),
      'configure',
      'build',
      '-j',
      '2',
      '--silent',
      ...nodeDirFlag(),
    ],
    {
      cwd: tree,
      // Node builds addons without RTTI, which the check of virtual tables needs.
      env: {
        ...process.env,
        npm_config_nodedir: undefined,
        CFLAGS: sanitize,
        CXXFLAGS: `${sanitize} -fno-sanitize=vptr`,
        LDFLAGS: sanitize,
      },
    },
  );
  mkdirSync(path.join(root, 'build-asan/Release'), { recursive: true });
  copyFileSync(
    path.join(tree, 'build/Release/triplane.node'),
    path.join(root, 'build-asan/Release/triplane.node'),
  );
}

function runTests() {
  run(
    process.execPath,
    [
      path.join(root, 'node_modules/vitest/vitest.mjs'),
      'run',
      '--configLoader=runner',
      '--testTimeout=120000',
      ...tests,
    ],
    {
      cwd: root,
      env: {
        ...process.env,
        TRIPLANE_BUILD: 'build-asan',
        LD_PRELOAD: [libraryOf('libasan.so'), libraryOf('libubsan.so'), libraryOf('libstdc++.so')].join(':'),
        // V8 keeps what it never frees; and its own code must not be stopped by what we preload.
        ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:handle_segv=0',
        UBSAN_OPTIONS: 'print_stacktrace=1',
      },
    },
  );
}

if (step !== 'run') build();
if (step !== 'build') runTests();
