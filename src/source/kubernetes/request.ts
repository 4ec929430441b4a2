/** One request to the API server, answered as a stream of bytes. */
import http, { type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import https, { type RequestOptions } from 'node:https';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { apiErrorOf } from './api-error.ts';
import type { Cluster } from './cluster.ts';

const KEEPALIVE_MS = 30_000;
const ERROR_BYTES_MAX = 64 * 1024;

export interface Answer {
  readonly chunks: AsyncIterable<Buffer>;
  /** From now on, so much silence ends the request with an error. */
  allowSilence(silenceMs: number): void;
  /** Ends it at once; harmless when it has ended. */
  close(): void;
}

export interface RequestLimits {
  /** Silence that ends the request, from the start on. */
  readonly silenceMs: number;
  readonly signal: AbortSignal;
  /** Called once, with the status (0: there was no answer) and the time until then. */
  readonly onAnswer?: (status: number, durationMs: number) => void;
}

/** The server has said nothing for too long. */
export class SilenceError extends Error {}

/** Rejects when the signal fires, whatever an exec plugin is waiting for. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const waiting = new AbortController();
  const aborted = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true, signal: waiting.signal });
  });
  return Promise.race([work, aborted]).finally(() => waiting.abort());
}

/** Ends a request after too long a silence: a dead peer says nothing, and never that it is dead. */
class SilenceTimer {
  #timer: NodeJS.Timeout | null = null;
  #silenceMs: number;
  readonly #onSilence: (error: Error) => void;

  constructor(silenceMs: number, onSilence: (error: Error) => void) {
    this.#silenceMs = silenceMs;
    this.#onSilence = onSilence;
    this.touch();
  }

  touch(): void {
    this.stop();
    const silenceMs = this.#silenceMs;
    this.#timer = setTimeout(
      () => this.#onSilence(new SilenceError(`the server said nothing for ${silenceMs} ms`)),
      silenceMs,
    );
  }

  set(silenceMs: number): void {
    this.#silenceMs = silenceMs;
    this.touch();
  }

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
  }
}

async function readError(response: IncomingMessage, chunks: AsyncIterable<Buffer>): Promise<Error> {
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of chunks) {
      parts.push(chunk);
      bytes += chunk.length;
      if (bytes > ERROR_BYTES_MAX) break;
    }
  } catch {
    // The status line alone says enough.
  }
  const text = Buffer.concat(parts).toString();
  let body: unknown = text;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's page, most likely.
  }
  return apiErrorOf(response.statusCode ?? 0, body, response.headers['retry-after']);
}

/** The body, unpacked; every chunk counts as a sign of life. */
async function* bodyOf(response: IncomingMessage, silence: SilenceTimer): AsyncGenerator<Buffer> {
  let body: Readable = response;
  if (response.headers['content-encoding'] === 'gzip') {
    // The error of either end comes out of the iteration below.
    body = pipeline(response, createGunzip(), () => {});
  }
  try {
    for await (const chunk of body) {
      silence.touch();
      yield chunk as Buffer;
    }
    // A body whose length was not announced may end early without an error of its own.
    if (!response.complete) throw new Error('the connection was closed in the middle of the answer');
  } finally {
    silence.stop();
    response.destroy();
  }
}

/** A patch is a merge patch (RFC 7386): what it does not name stays. */
const CONTENT_TYPES = {
  GET: 'application/json',
  POST: 'application/json',
  PATCH: 'application/merge-patch+json',
} as const;

export interface RequestBody {
  readonly method: 'GET' | 'POST' | 'PATCH';
  /** JSON; '' for none. */
  readonly body: string;
}

function sendRequest(
  cluster: Cluster,
  pathAndQuery: string,
  options: RequestOptions,
  { method, body }: RequestBody,
): ClientRequest {
  const url = new URL(cluster.url + pathAndQuery);
  const headers: Record<string, unknown> = {
    ...options.headers,
    Accept: 'application/json',
    'Accept-Encoding': 'gzip',
    'User-Agent': 'triplane',
  };
  if (body !== '') headers['Content-Type'] = CONTENT_TYPES[method];
  if (body !== '') headers['Content-Length'] = Buffer.byteLength(body);
  const all = { ...options, headers: headers as OutgoingHttpHeaders, method };
  const request = (url.protocol === 'http:' ? http : https).request(url, all);
  request.on('socket', (socket) => socket.setKeepAlive(true, KEEPALIVE_MS));
  return request;
}

/**
 * Sends the request and waits for the head of the answer. Throws ApiError for every status but 200 and 201, and
 * an Error for what happens on the way.
 */
async function send(
  cluster: Cluster,
  pathAndQuery: string,
  what: RequestBody,
  limits: RequestLimits,
): Promise<Answer> {
  const options = await unlessAborted(cluster.authorize(), limits.signal);
  const request = sendRequest(cluster, pathAndQuery, { ...options, signal: limits.signal }, what);
  let end = (error: Error): void => void request.destroy(error);
  const silence = new SilenceTimer(limits.silenceMs, (error) => end(error));
  const startedAt = performance.now();
  let isAnswered = false;
  const answered = (status: number): void => {
    if (!isAnswered) limits.onAnswer?.(status, performance.now() - startedAt);
    isAnswered = true;
  };
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      request.on('response', resolve);
      request.on('error', (error) => {
        answered(0);
        reject(error);
      });
      request.end(what.body);
    });
    answered(response.statusCode ?? 0);
    silence.touch();
    // Once there is an answer, only its stream still tells anybody about an error.
    end = (error) => void response.destroy(error);
    request.on('error', end);
    const chunks = bodyOf(response, silence);
    if (response.statusCode !== 200 && response.statusCode !== 201) throw await readError(response, chunks);
    return {
      chunks,
      allowSilence: (silenceMs) => silence.set(silenceMs),
      close: () => {
        silence.stop();
        request.destroy();
        response.destroy();
      },
    };
  } catch (error) {
    silence.stop();
    request.destroy();
    throw error;
  }
}

/** A GET. Throws ApiError for every status but 200, and an Error for what happens on the way. */
export function get(cluster: Cluster, pathAndQuery: string, limits: RequestLimits): Promise<Answer> {
  return send(cluster, pathAndQuery, { method: 'GET', body: '' }, limits);
}

/** Creates an object; what the server makes of it is not looked at. Throws like get(). */
export async function post(
  cluster: Cluster,
  path: string,
  object: object,
  limits: RequestLimits,
): Promise<void> {
  const answer = await send(cluster, path, { method: 'POST', body: JSON.stringify(object) }, limits);
  answer.close();
}

/** Changes what `object` names of an object; what the server makes of it is not looked at. Throws like get(). */
export async function patch(
  cluster: Cluster,
  path: string,
  object: object,
  limits: RequestLimits,
): Promise<void> {
  const answer = await send(cluster, path, { method: 'PATCH', body: JSON.stringify(object) }, limits);
  answer.close();
}
