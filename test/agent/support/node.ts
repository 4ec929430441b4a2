/** What tests of the real agent ask of a node in the lab. */
import { type ChildProcess, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, vi } from 'vitest';
import { askAgent } from '../../../src/cli/admin-client.ts';
import type { Lab } from '../../../src/lab/lab.ts';
import type { Place } from '../../../src/lab/place.ts';
import type { AdminStatus } from '../../../src/observe/admin.ts';
import { ROOT } from '../../support/checkout.ts';
import { mayChangeNetworks } from '../../support/privilege.ts';
import { skipUnless } from '../../support/skip.ts';
import { SLOWNESS } from '../../support/slowness.ts';

export const PROGRAM = [process.execPath, path.join(ROOT, 'bin/triplane')];
/** Generous: it ends what will never come, and says nothing about speed. An emulated processor is ten times slower. */
export const PATIENCE = { timeout: 30_000 * SLOWNESS, interval: 50 };

export const kernel = skipUnless(mayChangeNetworks(), 'needs root');

/** The agent runs from the bundle. Call it in beforeAll. */
export function buildProgram(): void {
  // A booted kernel has the files of the machine that booted it, and that has built them.
  if (process.env.TRIPLANE_TEST_BUILT) return;
  const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the build failed: ${stderr}`);
}

/** Waits until the probe gives what is expected. */
export const eventually = <T>(probe: () => T | Promise<T>) => expect.poll(probe, PATIENCE);

/** A command of the program, to its end. */
export function triplane(place: Place, ...args: string[]) {
  return place.exec([...PROGRAM, ...args]);
}

/**
 * What a command says with `-o json`. Through a file: main.ts ends the process while a pipe of more than 64 KiB
 * is still being read.
 */
export async function json<T>(place: Place, ...args: string[]): Promise<T> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-json-'));
  const file = path.join(folder, 'out');
  try {
    const command = ['sh', '-c', 'exec "$@" > "$0"', file, ...PROGRAM, ...args, '-o', 'json'];
    const { status, stderr } = await place.exec(command);
    if (status !== 0) throw new Error(`triplane ${args.join(' ')} ended with ${status}: ${stderr}`);
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export function statusOf(adminSocket: string): Promise<AdminStatus> {
  return askAgent<AdminStatus>(adminSocket, 'GET', '/v1/status');
}

/** The status of /healthz, or the outcome when there is no answer. */
export async function healthz(place: Place): Promise<number | string> {
  const answer = await place.ask('http', '127.0.0.1', 10256, { path: '/healthz', timeoutMs: 2000 });
  return answer.status ?? answer.outcome;
}

/** Records of the agent's log that have this message. */
export function logged(text: string, message: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('{') && line.includes(message))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** `triplane run` with arguments of the test's own choice, where lab.startAgent() would add its own. */
export class OwnAgent {
  readonly child: ChildProcess;
  readonly adminSocket: string;
  text = '';

  /** `under`: a command that starts ours, such as setpriv with its arguments. */
  constructor(
    lab: Lab,
    node: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv = {},
    under: readonly string[] = [],
  ) {
    this.adminSocket = path.join(path.dirname(lab.manifests.path), `own-${node}.sock`);
    const own = ['--hostname-override', node, '--admin-socket', this.adminSocket];
    // ebpf, which auto would take, stands on the whole machine's cgroups unless it is told otherwise.
    if (!args.includes('--config')) own.push('--proxy-mode', 'nft');
    // Of an agent that is not given a tree of its own, socket programs would stand on the whole machine's.
    if (!args.includes('--cgroup-root')) own.push('--socket-lb', 'off');
    this.child = lab.node(node).spawn([...under, ...PROGRAM, 'run', ...own, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.text += text;
      });
    }
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  async ready(): Promise<this> {
    // Not expect.poll(), which is for tests only: this is for hooks, too.
    await vi.waitFor(async () => {
      if (this.alive && !(await statusOf(this.adminSocket)).synced)
        throw new Error(`not ready: ${this.text}`);
    }, PATIENCE);
    if (!this.alive)
      throw new Error(`the agent ended (${this.child.exitCode ?? this.child.signalCode}): ${this.text}`);
    return this;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!this.alive) return;
    const gone = once(this.child, 'exit');
    this.child.kill(signal);
    await gone;
  }
}
