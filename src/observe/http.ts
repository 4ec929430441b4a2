/** HTTP servers that try again when they cannot listen, as kube-proxy's do. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, ListenOptions } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { formatSocket, type SocketAddress } from '../model/socket.ts';

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A server that could not listen. */
export interface ListenFailure {
  /** One line, such as "healthz: cannot listen on 0.0.0.0:10256: address already in use". */
  readonly message: string;
  /** 'again': it is tried again by itself; 'final': the agent is to end (--bind-address-hard-fail). */
  readonly next: 'again' | 'final';
}

export interface ServeOptions {
  /** For messages. */
  readonly name: string;
  readonly bind: SocketAddress;
  /**
   * 'both': a wildcard address takes in both families, as a Go listener on "tcp" does, whichever of 0.0.0.0
   * and :: was written. 'own': only the family of the address ("tcp4", "tcp6").
   */
  readonly wildcard: 'both' | 'own';
  readonly onBusy: 'retry' | 'fail';
  readonly onFailure: (failure: ListenFailure) => void;
  readonly handler: Handler;
  readonly retryMs?: number;
}

export interface RunningServer {
  /** Resolves when it listens; never rejects. */
  readonly listening: Promise<void>;
  /** The port it listens on; 0 while it does not. */
  port(): number;
  /** Stops listening and ends open connections. */
  close(): Promise<void>;
}

/** kube-proxy tries again after 5 s (serveHealthz, serveMetrics in cmd/kube-proxy/app/server.go). */
const RETRY_MS = 5000;
const CONNECTIONS_MAX = 256;

/** Starts to serve. Failures go to onFailure, never to the caller. */
export function serve(options: ServeOptions): RunningServer {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5000, keepAliveTimeout: 5000 });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('request', options.handler);
  // Once it listens, an error is one connection that could not be accepted: the next may be.
  server.on('error', () => {});
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  const attempt = (targets: readonly ListenOptions[]): void => {
    const [target, ...others] = targets;
    const onError = (error: NodeJS.ErrnoException): void => {
      if (closed) return;
      // A node without IPv6: the dual-stack socket cannot be had, the IPv4 one can.
      const noFamily = error.code === 'EAFNOSUPPORT' || error.code === 'EADDRNOTAVAIL';
      if (noFamily && others.length > 0) {
        attempt(others);
        return;
      }
      const next = options.onBusy === 'retry' ? 'again' : 'final';
      options.onFailure({ message: failureText(options, error), next });
      if (next === 'again')
        timer = setTimeout(() => attempt(targetsOf(options)), options.retryMs ?? RETRY_MS);
    };
    server.once('error', onError);
    server.listen(target!, () => server.off('error', onError));
  };

  const listening = new Promise<void>((resolve) => server.once('listening', resolve));
  attempt(targetsOf(options));
  return {
    listening,
    port: () => (server.address() as AddressInfo | null)?.port ?? 0,
    close: () => {
      closed = true;
      clearTimeout(timer);
      return closeServer(server);
    },
  };
}

/** Stops listening and ends open connections; also fine when it never listened. */
export function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

/** Sends a body with its status and type; never lets a browser guess another type. */
export function reply(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, {
    'Content-Type': type,
    'X-Content-Type-Options': 'nosniff',
    'Content-Length': Buffer.byteLength(body),
  });
  response.end(body);
}

/**
 * The same for a body that is made while it is sent. Rejects when it cannot be made, or the client leaves; before the
 * first piece nothing was sent yet.
 */
export async function replyInPieces(
  response: ServerResponse,
  status: number,
  type: string,
  pieces: AsyncIterable<string>,
): Promise<void> {
  const rest = pieces[Symbol.asyncIterator]();
  const first = await rest.next();
  response.writeHead(status, { 'Content-Type': type, 'X-Content-Type-Options': 'nosniff' });
  await pipeline(async function* () {
    if (first.done !== true) yield first.value;
    yield* { [Symbol.asyncIterator]: () => rest };
  }, response);
}

export function replyJson(response: ServerResponse, status: number, value: unknown): void {
  reply(response, status, 'application/json', JSON.stringify(value));
}

/** As Go's http.NotFound. */
export function replyNotFound(response: ServerResponse): void {
  reply(response, 404, 'text/plain; charset=utf-8', '404 page not found\n');
}

/** The path without the query. */
export function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0]!;
}

function targetsOf({ bind, wildcard }: ServeOptions): ListenOptions[] {
  const { address, port } = bind;
  const any = (address as string) === '0.0.0.0' || (address as string) === '::';
  if (any && wildcard === 'both')
    return [
      { host: '::', port },
      { host: '0.0.0.0', port },
    ];
  return [{ host: address, port, ipv6Only: true }];
}

function failureText({ name, bind }: ServeOptions, error: NodeJS.ErrnoException): string {
  const reasons: Record<string, string> = {
    EADDRINUSE: 'another process listens there',
    EADDRNOTAVAIL: 'this machine has no such address',
    EACCES: 'no permission for this port',
  };
  return `${name}: cannot listen on ${formatSocket(bind)}: ${reasons[error.code ?? ''] ?? error.message}`;
}
