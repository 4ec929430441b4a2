// `npm run fuzz -- [--minutes N] [--seed S] [--mode nft|ebpf]... [--socket-lb all|host|off] [--path P]`: random clusters, changes and
// flows through real kernels (test/conformance/fuzz.test.ts). With --path, the one case that a run has named.
import { spawn } from 'node:child_process';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const MODES = ['nft', 'ebpf'];
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
const modes = args.mode ?? MODES;
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

const vitest = path.join(root, 'node_modules/vitest/vitest.mjs');
const child = spawn(
  process.execPath,
  [vitest, 'run', 'test/conformance/fuzz.test.ts', '--disable-console-intercept'],
  {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, TRIPLANE_FUZZ: JSON.stringify(wish) },
  },
);
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('exit', (status) => process.exit(status ?? 1));
