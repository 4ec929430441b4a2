/**
 * Removes a lab, whatever state it is in. Synchronous, because it runs in exit handlers too; idempotent,
 * because it runs after crashes.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, rmdirSync, rmSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { labDir, netnsPath, stateFile } from './paths.ts';
import { findStrays, type ProcessId, signal, waitGone } from './processes.ts';
import { readState } from './state.ts';

const KILL_MS_MAX = 5000;

export interface Removed {
  readonly processes: number;
  readonly namespaces: number;
}

/** Deepest first, since the kernel refuses a cgroup that holds another or a process. */
function removeCgroup(dir: string): void {
  try {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      if (entry.isDirectory()) removeCgroup(path.join(dir, entry.name));
    }
    rmdirSync(dir);
  } catch {
    // Gone already, or a process is still ending in it: the next down removes it.
  }
}

function killAll(recorded: readonly ProcessId[], namespaces: readonly string[], dir: string): number {
  const all = [...recorded, ...findStrays(namespaces.map(netnsPath), dir)];
  for (const id of all) signal(id, 'SIGKILL');
  waitGone(all, KILL_MS_MAX);
  return new Set(all.map((id) => id.pid)).size;
}

/** Names of namespaces that stand now and begin like this lab's. */
export function standingNamespaces(names: readonly string[]): string[] {
  try {
    const standing = new Set(readdirSync('/run/netns'));
    return names.filter((name) => standing.has(name));
  } catch {
    return [];
  }
}

export function removeNamespaces(names: readonly string[]): void {
  const standing = standingNamespaces(names);
  if (!standing.length) return;
  const input = standing.map((name) => `netns del ${name}\n`).join('');
  spawnSync('ip', ['-force', '-batch', '-'], { input, stdio: ['pipe', 'ignore', 'ignore'] });
}

/** null: there was no lab of this name. */
export function downLab(name: string): Removed | null {
  const state = readState(name);
  if (!state) return null;
  const namespaces = standingNamespaces(state.namespaces);
  const processes = killAll(state.processes, namespaces, labDir(name));
  removeNamespaces(namespaces);
  if (state.cgroup) removeCgroup(state.cgroup);
  for (const dir of state.directories) rmSync(dir, { recursive: true, force: true });
  try {
    unlinkSync(stateFile(name));
  } catch {
    // Another down was faster.
  }
  return { processes, namespaces: namespaces.length };
}
