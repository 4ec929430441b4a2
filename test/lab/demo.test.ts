import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { stateFile, triplaneProgram } from '../../src/lab/paths.ts';
import { downLab } from '../../src/lab/teardown.ts';
import { leftovers } from './fixtures/leftovers.ts';

const name = `demo-${process.pid}`;

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  downLab(name);
});

interface Demo {
  readonly child: ChildProcess;
  readonly ended: Promise<{ status: number | NodeJS.Signals | null; text: string }>;
}

const NOBODY = 65534;

function startDemo(...args: string[]): Demo {
  return startDemoAs({}, ...args);
}

function startDemoAs(user: { uid?: number; gid?: number }, ...args: string[]): Demo {
  const command = [triplaneProgram(), 'lab', 'demo', '--name', name, '--seconds-per-chapter', '1', ...args];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'], ...user });
  children.push(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (part) => (text += part));
  const ended = new Promise<{ status: number | NodeJS.Signals | null; text: string }>((resolve) =>
    child.once('close', (status, signal) => resolve({ status: signal ?? status, text })),
  );
  return { child, ended };
}

test('the demo shows everything as promised, in plain text of at most 100 columns, and leaves nothing', async () => {
  const { status, text } = await startDemo().ended;
  expect(text).not.toMatch(/NOT as promised|FAILED/);
  expect(status).toBe(0);
  expect(text.match(/ as promised$/gm)).toHaveLength(8);
  expect(text).not.toContain('\x1b');
  expect(text.split('\n').filter((line) => [...line].length > 100)).toEqual([]);
  expect(leftovers(name)).toEqual([]);
});

test('--keep leaves a working lab and says how to use and remove it', async () => {
  const { status, text } = await startDemo('--keep').ended;
  const wrong = text.split('\n').filter((one) => /NOT as promised|FAILED/.test(one));
  expect({ status, wrong }).toEqual({ status: 0, wrong: [] });
  const line = text
    .split('\n')
    .find((one) => one.includes(`lab call --name ${name} net-pod tcp 10.200.1.10 9000`))!;
  const words = line.split('#')[0]!.trim().split(/\s+/).slice(1);
  const run = (args: string[]) =>
    new Promise((resolve) => spawn(process.execPath, [triplaneProgram(), ...args]).once('exit', resolve));
  expect(await run(words)).toBe(0);
  expect(await run(['lab', 'down', '--name', name])).toBe(0);
  expect(leftovers(name)).toEqual([]);
});

test('without root the demo does the same in a user namespace and says so', async (context) => {
  if (process.getuid?.() !== 0) context.skip('the other tests run so already');
  const user = { uid: NOBODY, gid: NOBODY };
  const unshared = spawnSync('unshare', ['--user', '--map-root-user', '--net', 'true'], user);
  if (unshared.status !== 0) context.skip('no unprivileged user namespaces on this machine');
  const readable = spawnSync(process.execPath, [triplaneProgram(), '--version'], user);
  if (readable.status !== 0) context.skip('this checkout cannot be read by other users');
  const { status, text } = await startDemoAs(user).ended;
  expect(text).toMatch(/^Not root: /);
  expect(text).not.toMatch(/NOT as promised|FAILED/);
  expect(status).toBe(0);
});

describe('Ctrl-C at any moment leaves nothing', () => {
  // Over the whole length of a demo of one second a chapter; chance moves each.
  const moments = Array.from({ length: 6 }, (_, i) => Math.round(100 + i * 1500 + Math.random() * 1000));
  test.each(moments)('%s ms after its first file', async (ms) => {
    const { child, ended } = startDemo();
    while (!existsSync(stateFile(name)) && child.exitCode === null) await sleep(2);
    await sleep(ms);
    child.kill('SIGINT');
    expect([0, 130]).toContain((await ended).status);
    expect(leftovers(name)).toEqual([]);
  });
});
