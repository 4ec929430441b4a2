import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { explainLoadError, loadNative, packageRoot } from '../../src/node/native.ts';
import { runChild } from './support/child.ts';

it('is loaded once, with all that the interface names', () => {
  const native = loadNative();
  expect(loadNative()).toBe(native);
  for (const name of [
    'netnsEnter',
    'rtDump',
    'rtDumpSync',
    'RtMonitor',
    'conntrackDelete',
    'conntrackCount',
    'ConntrackDump',
    'lockTake',
    'lockHolder',
  ] as const) {
    expect(native[name], name).toBeTypeOf('function');
  }
});

it.each([
  [
    'libmnl.so.0: cannot open shared object file: No such file or directory',
    /^the shared library libmnl\.so\.0 is missing \(on Debian and Ubuntu: the package libmnl0\): run npm run setup$/,
  ],
  [
    'libnftnl.so.11: cannot open shared object file: No such file or directory\nmore',
    /libnftnl\.so\.11 is missing .*libnftnl11/,
  ],
  [
    'libodd.so.1: cannot open shared object file: No such file or directory',
    /^the shared library libodd\.so\.1 is missing: run npm run setup$/,
  ],
  [
    '/x/triplane.node: invalid ELF header',
    /^the native addon cannot be loaded \(.*invalid ELF header\): run npm run setup$/,
  ],
])('explains %s', (message, expected) => {
  expect(explainLoadError(new Error(message))).toMatch(expected);
});

describe('from a bundle', () => {
  let dir: string;
  beforeAll(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'tpnative-'));
    writeFileSync(path.join(dir, 'package.json'), '{"type":"module"}');
    const entry = path.join(packageRoot(), 'src/node/native.ts');
    await build({
      entryPoints: [entry],
      outfile: path.join(dir, 'dist/native.mjs'),
      bundle: true,
      format: 'esm',
      platform: 'node',
    });
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const load = () =>
    runChild(`import(${JSON.stringify(pathToFileURL(path.join(dir, 'dist/native.mjs')).href)})
      .then((module) => console.log(typeof module.loadNative().rtDump))
      .catch((error) => console.log(error.code + ' ' + error.message));`);

  it('says what to do when it is not built, and when it is broken', async () => {
    expect((await load()).stdout).toMatch(/^TP_NO_LIBRARY .*not built: run npm run setup\n$/);
    const release = path.join(dir, process.env.TRIPLANE_BUILD ?? 'build', 'Release');
    mkdirSync(release, { recursive: true });
    writeFileSync(path.join(release, 'triplane.node'), 'no addon');
    expect((await load()).stdout).toMatch(
      /^TP_NO_LIBRARY the native addon cannot be loaded \(.*\): run npm run setup\n$/,
    );
    copyFileSync(
      path.join(packageRoot(), process.env.TRIPLANE_BUILD ?? 'build', 'Release/triplane.node'),
      path.join(release, 'triplane.node'),
    );
    expect((await load()).stdout).toBe('function\n');
  });
});
