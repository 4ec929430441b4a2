/** Facts of the running kernel that need no privilege to read. */
import { accessSync, constants, readFileSync } from 'node:fs';
import os from 'node:os';

export interface KernelFacts {
  /** uname -r. */
  readonly release: string;
  /** Where cgroup v2 is mounted; null: nowhere. On hybrid systems not /sys/fs/cgroup. */
  readonly cgroup2: string | null;
  /** The kernel tells its types (CONFIG_DEBUG_INFO_BTF). */
  readonly btf: boolean;
}

/** Octal escapes of /proc/self/mountinfo: space, tab, newline and backslash. */
function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/**
 * The mount point of cgroup v2 in the text of /proc/self/mountinfo (proc_pid_mountinfo(5)). Where there are
 * several, the one that shows the whole hierarchy (root "/") and was mounted last on top.
 */
export function findCgroup2(mountinfo: string): string | null {
  let found: string | null = null;
  let foundWhole = false;
  for (const line of mountinfo.split('\n')) {
    const [before, after] = line.split(' - ');
    if (after?.split(' ')[0] !== 'cgroup2') continue;
    const fields = before!.split(' ');
    const whole = fields[3] === '/';
    if (foundWhole && !whole) continue;
    found = unescapePath(fields[4]!);
    foundWhole = whole;
  }
  return found;
}

function readable(file: string): boolean {
  try {
    accessSync(file, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

export function readKernelFacts(): KernelFacts {
  return {
    release: os.release(),
    cgroup2: findCgroup2(readFileSync('/proc/self/mountinfo', 'utf8')),
    btf: readable('/sys/kernel/btf/vmlinux'),
  };
}
