// `npm run fuzz -- [--minutes N] [--seed S] [--mode nft|ebpf|ipvs]... [--socket-lb all|host|off] [--path P]`: random clusters,
// changes and flows through real kernels (test/conformance/fuzz.test.ts). With --path, the one case that a run has named. Where
// this kernel has no IPVS, `--mode ipvs` boots one that has, as `npm run test:kernels` does.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { DEFAULT_KERNEL } from './kernels/catalog.mjs';
import { prepareKernel, runTestsInKernel } from './kernels/suite.mjs';
import { say } from './lib/setup.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const MODES = ['nft', 'ebpf', 'ipvs'];
const TEST = 'test/conformance/fuzz.test.ts';
const MINUTE_MS = 60_000;
const USAGE = `usage: npm run fuzz -- [--minutes N] [--seed S] [--mode ${MODES.join('|')}]... [--socket-lb all|host|off] [--path P]`;

function refuse(reason) {
  process.stderr.write(`${reason}\n${USAGE}\n`);
  process.exit(2);
}

function readArgs() {
  try {
    return parseArgs({
      options: {
        minutes: { type: 'string' },
        seed: { type: 'string' },
        mode: { type: 'string', multiple: true },
        path: { type: 'string' },
        'socket-lb': { type: 'string' },
      },
    }).values;
  } catch (error) {
    return refuse(error.message);
  }
}

function number(name, text) {
  if (text === undefined) return undefined;
  const value = Number(text);
  return value > 0 && Number.isFinite(value)
    ? value
    : refuse(`--${name} is ${JSON.stringify(text)}, not a number above 0`);
}

const args = readArgs();
const modes = args.mode ?? ['nft', 'ebpf'];
for (const mode of modes)
  if (!MODES.includes(mode)) refuse(`--mode is ${JSON.stringify(mode)}, not ${MODES.join(' or ')}`);
const socketLb = args['socket-lb'] ?? 'all';
if (!['all', 'host', 'off'].includes(socketLb))
  refuse(`--socket-lb is ${JSON.stringify(socketLb)}, not all, host or off`);
const seed = number('seed', args.seed);
if (args.path !== undefined && seed === undefined)
  refuse('--path goes with the --seed that it was found with');
const wish = {
  modes,
  socketLb,
  seed,
  path: args.path,
  minutes: args.path === undefined ? (number('minutes', args.minutes) ?? 10) : 0,
};

function playHere() {
  const vitest = path.join(root, 'node_modules/vitest/vitest.mjs');
  const child = spawn(process.execPath, [vitest, 'run', TEST, '--disable-console-intercept'], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, TRIPLANE_FUZZ: JSON.stringify(wish) },
  });
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  child.on('exit', (status) => process.exit(status ?? 1));
}

/** Of an emulated machine: booting, a case that is made smaller, and what began before the minutes were over. */
const BOOTED_MS = 15 * MINUTE_MS;

async function playBooted() {
  const { kernel, skipped } = await prepareKernel(DEFAULT_KERNEL, say);
  if (skipped) return refuse(`--mode ipvs needs a kernel with IPVS: ${skipped}`);
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stop.abort(signal));
  say(`Linux ${kernel.version} is booted for ipvs; what it finds is told at its end`);
  const result = await runTestsInKernel(kernel, [TEST], {
    timeoutMs: wish.minutes * MINUTE_MS + BOOTED_MS,
    signal: stop.signal,
    environment: { TRIPLANE_FUZZ: JSON.stringify(wish) },
  });
  process.stdout.write(result.output);
  process.exitCode = result.status === 0 ? 0 : 1;
}

function hasIpvs() {
  spawnSync('modprobe', ['--quiet', 'ip_vs'], { stdio: 'ignore' });
  return existsSync('/proc/net/ip_vs');
}

const here = !modes.includes('ipvs') || hasIpvs();
if (!here && modes.length > 1)
  refuse('--mode ipvs goes alone on a machine without IPVS: it boots another kernel');
await (here ? playHere() : playBooted());
