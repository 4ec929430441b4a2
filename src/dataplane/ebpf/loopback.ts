/**
 * What the node sends to its own addresses is translated on its way over loopback, so its answers arrive there with
 * an address of the node as their source: the kernel takes those only if told to (ip-sysctl, accept_local).
 */
import { readFileSync, writeFileSync } from 'node:fs';

const FILE = '/proc/sys/net/ipv4/conf/lo/accept_local';

/** Gives what it was before; null: it was so already, or cannot be set (a read-only /proc/sys). */
export function acceptLocalOnLoopback(): string | null {
  try {
    const before = readFileSync(FILE, 'utf8').trim();
    if (before === '1') return null;
    writeFileSync(FILE, '1');
    return before;
  } catch {
    return null;
  }
}

export function restoreAcceptLocal(before: string | null): boolean {
  if (before === null) return false;
  try {
    writeFileSync(FILE, before);
    return true;
  } catch {
    return false;
  }
}
