import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import path from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { failureOf } from '../../src/cli/failure.ts';
import { runProgram } from '../../src/cli/program.ts';
import { OPTIONS } from '../../src/config/options.ts';
import { TriplaneError } from '../../src/model/errors.ts';

async function call(...args: string[]) {
  let out = '';
  let err = '';
  const exit = await runProgram(args, { out: (text) => (out += text), err: (text) => (err += text) });
  return { exit, out, err };
}

describe('a wrong call ends with one line and exit code 2', () => {
  it.each([
    [['rnu'], /unknown command 'rnu' \(Did you mean run\?\)/],
    [['get', 'service'], /unknown command 'service' \(Did you mean services\?\)/],
    [['get', 'services', '-o', 'xml'], /Allowed choices are table, wide, json, yaml/],
    [['get', 'services', 'a', 'b'], /too many arguments/],
    [['run', '--kubeconfg=x'], /unknown option '--kubeconfg=x' \(Did you mean --kubeconfig\?\)/],
    [['run', '--sync-period'], /argument missing/],
    [['run', '--sync-period', '5'], /--sync-period: "5" is not a duration/],
    [['run', '--masquerade-all=maybe'], /--masquerade-all: "maybe" is not true or false/],
    [['run', 'extra'], /too many arguments/],
    [['run', '--config', '/nonexistent/x.yaml'], /TP_BAD_CONFIG: \/nonexistent\/x\.yaml: cannot be read/],
    [['switch'], /missing required argument 'mode'/],
    [['switch', 'iptables'], /Allowed choices are auto, nft, ipvs, ebpf/],
    [['explain', '10.0.0.1'], /missing required argument 'destination'/],
    [['explain', 'x', '10.0.0.1:80'], /the source "x" is not an address/],
    [['cleanup', '--kubeproxy'], /Did you mean --kube-proxy\?/],
  ])('%j', async (args, says) => {
    const { exit, out, err } = await call(...args);
    expect(exit).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(/^triplane: TP_BAD_(FLAG|CONFIG): [^\n]+\. [^\n]+\n$/);
    expect(err).toMatch(says);
  });

  it('without a command, help', async () => {
    const { exit, err } = await call();
    expect(exit).toBe(2);
    expect(err).toMatch(/Usage: triplane COMMAND/);
  });
});

describe('what is asked for is shown', () => {
  it.each([
    [['--help'], /explain[^\n]+why/],
    [['help', 'run'], /--kubeconfig <path>/],
    [['run', '--help'], /IPVS:\n[\s\S]*--ipvs-scheduler/],
    [['get', 'services', '--help'], /namespace\/name/],
    [['--version'], /^triplane \d+\.\d+\.\d+\n$/],
    [['run', '--version'], /^triplane \d+\.\d+\.\d+\n$/],
    [['version'], /^triplane \d+\.\d+\.\d+ \(Node v\d/],
  ])('%j', async (args, says) => {
    const { exit, out, err } = await call(...args);
    expect([exit, err]).toEqual([0, '']);
    expect(out).toMatch(says);
  });

  it('help of run names every flag that works', async () => {
    const { out } = await call('run', '--help');
    expect(out).not.toContain('preset');
    for (const { flag, status } of OPTIONS)
      if (flag !== '' && status === 'works') expect(out).toContain(`--${flag} `);
  });
});

describe('flags as pflag takes them', () => {
  it.each([
    [['-v', '4'], /verbosity: 4/],
    [['-v=4'], /verbosity: 4/],
    [['-v4'], /verbosity: 4/],
    [['--v=4'], /verbosity: 4/],
    [['--oom-score-adj', '-5'], /oomScoreAdj: -5/],
    [['--proxy_mode=nft'], /mode: nftables/],
    [['--masquerade-all', '--v=1'], /masqueradeAll: true/],
    [['--masquerade-all=false'], /masqueradeAll: false/],
    [['--kubeconfig='], /kubeconfig: ""/],
    [
      ['--nodeport-addresses', '10.0.0.0/8', '--nodeport-addresses=fd00::/8'],
      /nodePortAddresses:\n {2}- 10\.0\.0\.0\/8\n {2}- fd00::\/8/,
    ],
  ])('%j', async (args, says) => {
    const { exit, out, err } = await call('run', ...args, '--write-config-to', '-');
    expect([exit, err]).toEqual([0, '']);
    expect(out).toMatch(says);
  });

  it('warnings do not mix with the file', async () => {
    const { out, err } = await call('run', '--feature-gates=A=true', '--write-config-to=-');
    expect(err).toBe('warning: accepted without meaning here: --feature-gates\n');
    expect(out).toMatch(/^apiVersion/);
  });
});

describe('failures', () => {
  it.each([
    [
      new TriplaneError('TP_LOCKED', 'pid 3\nhas it.'),
      'triplane: TP_LOCKED: pid 3; has it. Stop the named process first.',
      1,
    ],
    [
      new TriplaneError('TP_API', 'evil \u001b[2J'),
      'triplane: TP_API: evil \\u001b[2J. Check the kubeconfig',
      1,
    ],
    [
      Object.assign(new Error('bind EACCES'), { code: 'EACCES' }),
      'triplane: TP_NO_PRIVILEGE: bind EACCES. Run as root',
      1,
    ],
    [new TriplaneError('TP_BAD_CONFIG', 'x'), 'triplane: TP_BAD_CONFIG: x. ', 2],
    [new RangeError('bug'), 'triplane: unexpected: RangeError: bug', 1],
    ['a string', 'triplane: unexpected: a string', 1],
  ])('%s', (error, line, exit) => {
    const failure = failureOf(error);
    expect(failure.line.startsWith(line)).toBe(true);
    expect(failure.line).not.toContain('\n');
    expect(failure.exit).toBe(exit);
  });
});

describe('as a process', () => {
  const root = path.resolve(import.meta.dirname, '../..');
  const outdir = path.join(root, `dist/cli-test-${process.pid}`);
  beforeAll(async () => {
    await build({
      absWorkingDir: root,
      entryPoints: { triplane: 'src/cli/main.ts' },
      outdir,
      outExtension: { '.js': '.mjs' },
      bundle: true,
      splitting: true,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      external: ['ffi-rs'],
      logLevel: 'error',
      banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
    });
  }, 60_000);
  afterAll(() => rmSync(outdir, { recursive: true, force: true }));
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [path.join(outdir, 'triplane.mjs'), ...args], { encoding: 'utf8' });

  it.each([
    [['frobnicate'], 2, /^$/, /^triplane: TP_BAD_FLAG: unknown command 'frobnicate'\. .+\n$/],
    [
      ['run', '--v=x'],
      2,
      /^$/,
      /^triplane: TP_BAD_FLAG: --v: "x" is not a whole number of 0 or more\. .+\n$/,
    ],
    [
      ['switch', 'nft', '--admin-socket', '/nonexistent/a.sock'],
      1,
      /^$/,
      /^triplane: TP_NO_AGENT: nobody listens on .+\n$/,
    ],
    [['version'], 0, /^triplane \d/, /^$/],
  ])('%j ends with %d', (args, status, out, err) => {
    const result = run(...args);
    expect(result.status).toBe(status);
    expect(result.stdout).toMatch(out);
    expect(result.stderr).toMatch(err);
  });

  it('long output to a pipe arrives whole', () => {
    expect(run('run', '--write-config-to=-').stdout).toMatch(/sourceVip: ""\n$/);
  });
});
