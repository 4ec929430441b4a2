/** Processes by identity: a pid alone may be somebody else's by the time it is used. */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';

export interface ProcessId {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot: with the pid it names a process for good. */
  readonly start: string;
}

interface ProcessStat {
  readonly state: string;
  readonly start: string;
}

function readStat(pid: number): ProcessStat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name is in parentheses and may hold anything, parentheses too.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0] ?? '', start: fields[19] ?? '' };
  } catch {
    return null;
  }
}

/** null when there is no such process. */
export function identify(pid: number): ProcessId | null {
  const stat = readStat(pid);
  return stat ? { pid, start: stat.start } : null;
}

/** A zombie counts as gone: it holds nothing any more. */
export function isAlive(id: ProcessId): boolean {
  const stat = readStat(id.pid);
  return stat !== null && stat.start === id.start && stat.state !== 'Z' && stat.state !== 'X';
}

/** Sends a signal if it is still that process. */
export function signal(id: ProcessId, name: NodeJS.Signals): void {
  if (!isAlive(id)) return;
  try {
    process.kill(id.pid, name);
  } catch {
    // It ended in between.
  }
}

/** Blocks until all are gone, at most `ms_max` milliseconds; returns those that are left. */
export function waitGone(ids: readonly ProcessId[], ms_max: number): ProcessId[] {
  const clock = new Int32Array(new SharedArrayBuffer(4));
  const end = Date.now() + ms_max;
  let left = ids.filter(isAlive);
  while (left.length && Date.now() < end) {
    Atomics.wait(clock, 0, 0, 5);
    left = left.filter(isAlive);
  }
  return left;
}

function netnsId(path: string): string | null {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

/** Pods, and the load of the bench, which stands in their cgroups. */
const OWN_PROGRAMS = /\/triplane-(pod|load)$/;

function isOurs(pid: number, labDirectory: string): boolean {
  try {
    if (
      readlinkSync(`/proc/${pid}/exe`)
        .replace(/ \(deleted\)$/, '')
        .match(OWN_PROGRAMS)
    )
      return true;
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${labDirectory}/`);
  } catch {
    return false;
  }
}

/**
 * Processes of a lab that nobody wrote down (their starter was killed in between): those in its namespaces
 * that are pods, or that name its directory on their command line. A shell that a person opened there is neither.
 */
export function findStrays(namespacePaths: readonly string[], labDirectory: string): ProcessId[] {
  const wanted = new Set(namespacePaths.map(netnsId).filter((id) => id !== null));
  if (!wanted.size) return [];
  const pids = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
  return pids
    .filter(
      (pid) =>
        pid !== process.pid && wanted.has(netnsId(`/proc/${pid}/ns/net`) ?? '') && isOurs(pid, labDirectory),
    )
    .map(identify)
    .filter((id) => id !== null);
}
