import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from 'esbuild';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createLab, openLab } from '../../src/lab/lab.ts';
import { stateFile } from '../../src/lab/paths.ts';
import { defaultNodes } from '../../src/lab/plan.ts';
import { downLab } from '../../src/lab/teardown.ts';
import { leftovers } from './fixtures/leftovers.ts';

const name = `life-${process.pid}`;
const small = { name, nodes: defaultNodes(1) };
const root = path.resolve(import.meta.dirname, '../..');
const outdir = path.join(root, `build/test-${name}`);
const program = path.join(outdir, 'hold-lab.mjs');

beforeAll(async () => {
  await build({
    entryPoints: [path.join(import.meta.dirname, 'fixtures/hold-lab.ts')],
    outfile: program,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
  });
});
afterAll(() => rmSync(outdir, { recursive: true, force: true }));

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  downLab(name);
  downLab(`${name}-b`);
});

function start(...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [program, name, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

const up = (child: ChildProcess) => new Promise((resolve) => child.stdout?.once('data', resolve));
const ended = (child: ChildProcess) =>
  new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once('exit', (status, signal) => resolve(signal ?? status)),
  );

test('down leaves nothing, and a second down finds nothing to do', async () => {
  const lab = await createLab(small);
  expect(leftovers(name)).not.toEqual([]);
  await lab.client.ask('tcp', lab.pod('webpod1').addresses[4]!, 80);
  lab.down();
  expect(leftovers(name)).toEqual([]);
  lab.down();
  expect(downLab(name)).toBeNull();
});

test('the network of the machine itself is not touched', async () => {
  const before = readFileSync('/proc/net/dev', 'utf8').match(/^\s*[\w@.-]+:/gm);
  const lab = await createLab(small);
  expect(readFileSync('/proc/net/dev', 'utf8').match(/^\s*[\w@.-]+:/gm)).toEqual(before);
  lab.down();
});

test('two labs stand side by side with the same addresses', async () => {
  const one = await createLab(small);
  const two = await createLab({ ...small, name: `${name}-b` });
  const address = one.pod('webpod1').addresses[4]!;
  expect(two.pod('webpod1').addresses[4]).toBe(address);
  one.pod('webpod1').kill();
  await expect.poll(async () => (await one.client.ask('tcp', address, 80)).outcome).toBe('refused');
  expect((await two.client.ask('tcp', address, 80)).outcome).toBe('ok');
  one.down();
  expect((await two.client.ask('tcp', address, 80)).outcome).toBe('ok');
  two.down();
  expect([...leftovers(name), ...leftovers(`${name}-b`)]).toEqual([]);
});

test('a name that is in use is refused, and what uses it is not harmed', async () => {
  const lab = await createLab(small);
  await expect(createLab(small)).rejects.toThrow(/exists: triplane lab down/);
  expect((await lab.client.ask('tcp', lab.pod('webpod1').addresses[4]!, 80)).outcome).toBe('ok');
});

test('what cannot be built leaves nothing', async () => {
  await expect(createLab({ ...small, localPortRange: [5, 1] })).rejects.toThrow(/ip_local_port_range/);
  expect(leftovers(name)).toEqual([]);
});

test('processes, one per pod, are in cgroups of their own when asked for, and those go too', async (context) => {
  const made = await createLab({ ...small, cgroups: 'per-pod' }).catch((error: Error) => error);
  if (made instanceof Error) return context.skip(`no cgroup v2 to write to: ${made.message}`);
  const cgroup = made.pod('webpod1').cgroup!;
  expect(readFileSync(path.join(cgroup, 'cgroup.procs'), 'utf8').trim().split('\n')).toHaveLength(1);
  expect(path.dirname(cgroup)).toBe(made.nodeCgroup('worker1'));
  made.down();
  expect(existsSync(cgroup)).toBe(false);
  expect(leftovers(name)).toEqual([]);
});

describe('a lab in another process', () => {
  test('that is killed: down by name removes everything, and its processes have ended with it', async () => {
    const child = start();
    await up(child);
    child.kill('SIGKILL');
    await ended(child);
    await expect.poll(() => leftovers(name).filter((left) => /^\d+ /.test(left))).toEqual([]);
    expect(leftovers(name)).not.toEqual([]);
    downLab(name);
    expect(leftovers(name)).toEqual([]);
  });

  test('that is killed: the next lab of that name takes its place', async () => {
    const child = start();
    await up(child);
    child.kill('SIGKILL');
    await ended(child);
    const lab = await createLab(small);
    expect((await lab.client.ask('tcp', lab.pod('webpod1').addresses[4]!, 80)).outcome).toBe('ok');
  });

  // From before the first namespace to a running load; where it strikes is left to chance.
  const moments = Array.from({ length: 12 }, (_, i) => i * 8);
  test.each(moments.flatMap((ms) => [['SIGINT', ms] as const, ['SIGTERM', ms] as const]))(
    'that gets %s %s ms after its first file leaves nothing',
    async (signal, ms) => {
      const child = start();
      const end = ended(child);
      while (!existsSync(stateFile(name))) await sleep(1);
      await sleep(ms);
      child.kill(signal);
      const status = await end;
      expect([signal === 'SIGINT' ? 130 : 143, signal]).toContain(status);
      expect(leftovers(name)).toEqual([]);
    },
  );

  test('that is to be kept outlives its process, is used from here and removed from here', async () => {
    const child = start('kept');
    expect(await ended(child)).toBe(0);
    const lab = openLab(name);
    const address = lab.pod('webpod1').addresses[6]!;
    expect(await lab.pod('net-pod').ask('tcp', address, 80)).toMatchObject({
      outcome: 'ok',
      name: 'webpod1',
    });
    await expect(createLab(small)).rejects.toThrow(/exists/);
    downLab(name);
    expect(leftovers(name)).toEqual([]);
  });
});
