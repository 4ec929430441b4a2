/** Network namespaces that a bench makes and removes, also when it fails or is interrupted. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import process from 'node:process';
import { loadNative } from '../../src/node/native.ts';

const made = new Set<string>();

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Makes a namespace whose name carries this process' id, with its loopback up. Returns its path. */
export function makeNamespace(role: string): string {
  const name = `tp-bench-${role}-${process.pid}`;
  ip('netns', 'add', name);
  made.add(name);
  const path = `/run/netns/${name}`;
  inNamespace(path, 'sysctl', '-qw', 'net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0');
  inNamespace(path, 'ip', 'link', 'set', 'lo', 'up');
  return path;
}

/** Runs a short command in a namespace; throws with its message when it fails. */
export function inNamespace(path: string, command: string, ...args: string[]): string {
  return runIn(path, '', command, args);
}

/** Loads a ruleset in a namespace. */
export function loadRules(path: string, rules: string): void {
  runIn(path, rules, 'nft', ['-f', '-']);
}

function runIn(path: string, input: string, command: string, args: readonly string[]): string {
  return execFileSync('nsenter', [`--net=${path}`, command, ...args], {
    encoding: 'utf8',
    input,
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: 60_000,
  });
}

export function removeNamespaces(): void {
  for (const name of made) {
    spawnSync('ip', ['netns', 'del', name], { stdio: 'ignore' });
    made.delete(name);
  }
}

/** Whatever ends this process, its namespaces go with it. */
export function removeNamespacesAtExit(): void {
  process.on('exit', removeNamespaces);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));
}

/** Does the work with this process in a namespace, and comes back from it. */
export async function within<T>(netns: string, work: () => Promise<T>): Promise<T> {
  const before = openSync('/proc/thread-self/ns/net', 'r');
  try {
    loadNative().netnsEnter(netns);
    return await work();
  } finally {
    loadNative().netnsEnter(`/proc/self/fd/${before}`);
    closeSync(before);
  }
}
