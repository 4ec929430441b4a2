/** Asks the running agent through its admin socket. */
import { request } from 'node:http';
import { Option } from 'commander';
import type { WireError } from '../agent/status.ts';
import { OPTIONS } from '../config/options.ts';
import { ERRORS, type ErrorCode, TriplaneError } from '../model/errors.ts';

const DEFAULT_SOCKET = OPTIONS.find((row) => row.key === 'adminSocket')!.default;
/** A switch of modes loads programs and fills tables, on a slow machine for minutes; everything else answers at once. */
const TIMEOUTS_MS = { '/v1/switch': 600_000, other: 60_000 } as const;
const ANSWER_BYTES_MAX = 64 << 20;

export function socketOption(): Option {
  return new Option('--admin-socket <path>', 'the Unix socket of the agent').default(DEFAULT_SOCKET);
}

/** The JSON answer. Throws TP_NO_AGENT, TP_NO_PRIVILEGE, or the error that the agent answered. */
export async function askAgent<T>(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  body?: object,
): Promise<T> {
  const { status, text } = await exchange(
    socketPath,
    method,
    path,
    body === undefined ? '' : JSON.stringify(body),
  );
  const answer: unknown = parse(text);
  if (status === 200) return answer as T;
  const { code, message } = (answer as { error?: WireError }).error ?? {
    code: '',
    message: `the agent answered ${status}`,
  };
  if (Object.hasOwn(ERRORS, code)) throw new TriplaneError(code as ErrorCode, message);
  throw new Error(message);
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: string,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
    const timeout = path === '/v1/switch' ? TIMEOUTS_MS[path] : TIMEOUTS_MS.other;
    const asked = request({ socketPath, method, path, headers, timeout }, (response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > ANSWER_BYTES_MAX) asked.destroy(new Error('the answer of the agent is too long'));
        chunks.push(chunk);
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') }),
      );
      response.on('error', reject);
    });
    asked.on('timeout', () => asked.destroy(new Error(`no answer within ${timeout / 1000} s`)));
    asked.on('error', (error: NodeJS.ErrnoException) => reject(connectionError(socketPath, error)));
    asked.end(body);
  });
}

function connectionError(socketPath: string, error: NodeJS.ErrnoException): Error {
  if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED' || error.code === 'ENOTSOCK') {
    return new TriplaneError('TP_NO_AGENT', `nobody listens on ${socketPath}`, { cause: error });
  }
  if (error.code === 'EACCES') {
    return new TriplaneError('TP_NO_PRIVILEGE', `${socketPath} may only be opened by its owner`, {
      cause: error,
    });
  }
  return new TriplaneError('TP_NO_AGENT', `${socketPath}: ${error.message}`, { cause: error });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error('the answer on the admin socket is no JSON: something else listens there');
  }
}
