/** A network namespace for one test file: removed in the end, whatever happened. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { loadNative } from '../../../src/node/native.ts';

export interface Namespace {
  readonly name: string;
  readonly path: string;
  /** Runs a command in it and returns what it printed. */
  run(command: string, args: readonly string[], input?: string): string;
  /** Runs `work` with this thread inside: sockets made meanwhile belong to the namespace. */
  inside<T>(work: () => Promise<T> | T): Promise<T>;
  remove(): void;
}

/** For tests that cannot run here: vitest's `skipIf`, so that a skip is counted. */
export function canMakeNamespaces(): boolean {
  return process.getuid?.() === 0;
}

export function makeNamespace(prefix: string): Namespace {
  const name = `${prefix}-${process.pid}`;
  const path = `/run/netns/${name}`;
  execFileSync('ip', ['netns', 'add', name]);
  const run = (command: string, args: readonly string[], input?: string) =>
    execFileSync('nsenter', [`--net=${path}`, command, ...args], {
      encoding: 'utf8',
      input: input ?? '',
      stdio: ['pipe', 'pipe', 'pipe'],
    });
  const remove = () => {
    execFileSync('ip', ['netns', 'del', name]);
  };
  try {
    const sysctls = [
      'net.ipv6.conf.all.accept_dad=0',
      'net.ipv6.conf.default.accept_dad=0',
      'net.ipv4.icmp_ratelimit=0',
      'net.ipv6.icmp.ratelimit=0',
    ];
    run('sysctl', ['-q', '-w', ...sysctls]);
    run('ip', ['link', 'set', 'lo', 'up']);
  } catch (error) {
    remove();
    throw error;
  }
  return { name, path, run, remove, inside: (work) => inNamespace(path, work) };
}

async function inNamespace<T>(path: string, work: () => Promise<T> | T): Promise<T> {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  loadNative().netnsEnter(path);
  try {
    return await work();
  } finally {
    loadNative().netnsEnter(`/proc/self/fd/${home}`);
    closeSync(home);
  }
}

/** Until `holds`, for at most ten seconds; then throws. */
export async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 10_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error('it did not become so within 10 s');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
