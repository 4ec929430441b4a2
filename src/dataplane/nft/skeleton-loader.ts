/** Hands the skeleton to libnftables in a child process. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
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

/**
 * Applies nft text in the namespace at `netns` ('': this one). Throws TP_NO_LIBRARY when libnftables is
 * missing and TP_NO_FEATURE with the library's own message when the kernel refuses the rules.
 */
export function applySkeleton(text: string, netns: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [childProgram(), netns], {
      stdio: ['pipe', 'ignore', 'pipe'],
      timeout: TIMEOUT_MS,
    });
    let message = '';
    child.stderr.setEncoding('utf8');
    child.stderr.on('data', (chunk: string) => {
      if (message.length < MESSAGE_BYTES_MAX) message += chunk;
    });
    child.stdin.on('error', () => {});
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(failure(message, code, signal));
    });
    child.stdin.end(text);
  });
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
