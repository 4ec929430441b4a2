/** A network namespace that nobody sees: it lives as long as one process of ours and goes with it. */
import { spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const WAIT_MS_MAX = 3_000;
const LOOK_MS = 10;
/** The holder ends by itself even if we are killed. */
const LIFETIME_SECONDS = '120';

/** Where its process has arrived in a namespace of its own, or null while it has not. */
function namespaceOf(pid: number): string | null {
  const path = `/proc/${pid}/ns/net`;
  try {
    return readlinkSync(path) === readlinkSync('/proc/self/ns/net') ? null : path;
  } catch {
    return null;
  }
}

/**
 * Runs `work` with the path of a fresh network namespace. Rejects with an Error of one line when there can be
 * none (mostly: not root).
 */
export async function inThrowawayNamespace<T>(work: (netns: string) => Promise<T>): Promise<T> {
  const holder = spawn('unshare', ['--net', '--', 'sleep', LIFETIME_SECONDS], { stdio: 'ignore' });
  let failure = '';
  holder.on('error', (error) => {
    failure = error.message;
  });
  holder.on('exit', () => {
    failure ||= 'this process may not make a network namespace';
  });
  try {
    for (let waited = 0; ; waited += LOOK_MS) {
      const netns = holder.pid === undefined ? null : namespaceOf(holder.pid);
      if (netns) return await work(netns);
      if (failure || waited > WAIT_MS_MAX) throw new Error(failure || 'no network namespace could be made');
      await sleep(LOOK_MS);
    }
  } finally {
    holder.kill('SIGKILL');
  }
}
