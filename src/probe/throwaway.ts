/** A network namespace that nobody sees: it lives as long as one process of ours and goes with it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

/** There can be no network namespace: not root, or no unshare(1). */
export class NoNamespace extends Error {}

/** A process that stands in a namespace of its own. */
async function standIn(): Promise<ChildProcess> {
  // cat answers from inside, and ends when we do: its standard input closes.
  const holder = spawn('unshare', ['--net', '--', 'cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  holder.stdin!.on('error', () => {});
  holder.stdin!.write('\n');
  const ended = once(holder, 'exit').then(
    () => {
      throw new NoNamespace('run as root to try it: this process may not make a network namespace');
    },
    (error: Error) => {
      throw new NoNamespace(`install util-linux to try it: ${error.message}`);
    },
  );
  await Promise.race([once(holder.stdout!, 'data'), ended]);
  ended.catch(() => {});
  return holder;
}

/**
 * Runs `work` with the path of a fresh network namespace. Rejects with NoNamespace, whose message says what to do,
 * when there can be none.
 */
export async function inThrowawayNamespace<T>(work: (netns: string) => Promise<T>): Promise<T> {
  const holder = await standIn();
  try {
    return await work(`/proc/${holder.pid}/ns/net`);
  } finally {
    const gone = once(holder, 'exit');
    if (holder.exitCode === null && holder.signalCode === null && holder.kill('SIGKILL')) await gone;
  }
}
