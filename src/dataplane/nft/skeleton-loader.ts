/** Hands the skeleton to libnftables in a child process. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { TriplaneError } from '../../model/errors.ts';
import { packageRoot } from '../../node/native.ts';

/** Ends what hangs. The library reads all foreign tables' chains first; on a busy node with very many that takes long. */
const TIMEOUT_MS = 180_000;
const MESSAGE_BYTES_MAX = 16 * 1024;

function childProgram(): string {
  const file = path.join(packageRoot(), 'dist/skeleton-child.mjs');
  if (!existsSync(file))
    throw new TriplaneError('TP_NO_LIBRARY', 'dist/skeleton-child.mjs is missing: run npm run setup');
  return file;
}

/** A process for one nft text. To start Node and read the library takes most of its time, so it may be begun ahead. */
export class SkeletonChild {
  readonly #child: ChildProcessByStdio<Writable, null, Readable>;
  readonly #closed: Promise<readonly [code: number | null, signal: string | null]>;
  #message = '';

  /** @param netns where the text is applied; '': in this one */
  constructor(netns: string) {
    this.#child = spawn(process.execPath, [childProgram(), netns], { stdio: ['pipe', 'ignore', 'pipe'] });
    this.#child.stderr.setEncoding('utf8');
    this.#child.stderr.on('data', (chunk: string) => {
      if (this.#message.length < MESSAGE_BYTES_MAX) this.#message += chunk;
    });
    this.#child.stdin.on('error', () => {});
    this.#closed = new Promise((resolve, reject) => {
      this.#child.on('error', reject);
      this.#child.on('close', (code, signal) => resolve([code, signal]));
    });
    // apply() tells of it.
    this.#closed.catch(() => {});
  }

  /**
   * Once. Throws TP_NO_LIBRARY when libnftables is missing and TP_NO_FEATURE with the library's own message when the kernel
   * refuses the rules.
   */
  async apply(text: string): Promise<void> {
    const limit = setTimeout(() => this.#child.kill(), TIMEOUT_MS);
    try {
      this.#child.stdin.end(text);
      const [code, signal] = await this.#closed;
      if (code !== 0) throw failure(this.#message, code, signal);
    } finally {
      clearTimeout(limit);
    }
  }

  /** False where it has ended before it was given anything. */
  get isWaiting(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** It is not needed after all. */
  end(): void {
    this.#child.kill();
  }
}

/** Applies nft text in the namespace at `netns` ('': this one), as SkeletonChild.apply(). */
export async function applySkeleton(text: string, netns: string): Promise<void> {
  await new SkeletonChild(netns).apply(text);
}

function failure(message: string, code: number | null, signal: string | null): TriplaneError {
  const late = signal === 'SIGTERM' ? `no answer within ${TIMEOUT_MS / 1000} s` : null;
  const line =
    message.split('\n').find((l) => l.trim() !== '') ?? late ?? `it ended with ${signal ?? `code ${code}`}`;
  if (/cannot open shared object|libnftables\.so/.test(message)) {
    return new TriplaneError(
      'TP_NO_LIBRARY',
      'libnftables.so.1 is missing: install the package libnftables1',
    );
  }
  if (/not permitted|Unable to initialize Netlink/.test(message)) {
    return new TriplaneError(
      'TP_NO_PRIVILEGE',
      `nftables may not be changed by this process (${line.trim()})`,
    );
  }
  return new TriplaneError('TP_NO_FEATURE', `this kernel does not take the nft rules: ${line.trim()}`);
}
