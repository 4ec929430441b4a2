/**
 * One agent for each network namespace and purpose. The lock is a listening abstract unix socket: the kernel
 * keeps its name apart by network namespace, frees it when the process dies however it dies, and tells who
 * listens. No file is left behind and none can be stale.
 */
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { TriplaneError } from '../model/errors.ts';
import { loadNative } from './native.ts';

export interface Lock {
  /** Resolves when another process can take it. */
  release(): Promise<void>;
}

/** A holder may die between our attempt and our question. */
const ATTEMPTS = 3;

/** The command line of a process on one line, or '' when it is gone or hidden. Whoever started it chose the text. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      .replace(/[\s\x00-\x1f\x7f-\x9f]+/g, ' ')
      .trim()
      .slice(0, 200);
  } catch {
    return '';
  }
}

function describeHolder(pid: number): string {
  if (pid <= 0) return 'a process that cannot be seen from here (in another PID namespace?)';
  const command = commandOf(pid);
  return command ? `process ${pid} (${command})` : `process ${pid}`;
}

/** Keeps the descriptor, and takes what comes in so that whoever asks for us always gets through. */
function serve(fd: number): Promise<net.Server> {
  const server = net.createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ fd }, () => {
      server.unref();
      resolve(server);
    });
  });
}

/**
 * @param purpose lower-case name of what only one process may do, "agent"
 * @param netns path of a network namespace; '' is the current one
 * @throws TP_LOCKED with the other process's id and command
 */
export async function takeLock(purpose: string, netns = ''): Promise<Lock> {
  if (!/^[a-z0-9-]{1,64}$/.test(purpose))
    throw new RangeError(`not a lock's purpose: ${JSON.stringify(purpose)}`);
  const name = `triplane/${purpose}`;
  const native = loadNative();
  let holder = 0;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const fd = native.lockTake(netns, name);
    if (fd >= 0) {
      const server = await serve(fd);
      return { release: () => new Promise((resolve) => server.close(() => resolve())) };
    }
    holder = native.lockHolder(netns, name);
    if (holder >= 0) break;
  }
  const where = netns === '' ? 'this network namespace' : `the network namespace ${netns}`;
  throw new TriplaneError(
    'TP_LOCKED',
    `${describeHolder(holder)} is already the ${purpose} of ${where}: stop it first`,
  );
}
