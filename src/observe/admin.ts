/**
 * The admin socket: HTTP and JSON over a Unix socket that only its owner can open.
 *
 *   GET  /v1/status   AdminStatus
 *   GET  /v1/node     AdminNode
 *   POST /v1/explain  ExplainRequest -> Explanation
 *   POST /v1/switch   {mode}         -> SwitchResult
 *
 * An error is {error: {code, message}} with status 400 (the request), 404 (the path) or 500 (the agent).
 */
import { chmodSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import path from 'node:path';
import process from 'node:process';
import type {
  AgentControl,
  AgentStatus,
  Counts,
  ExplainRequest,
  FamilyProgress,
  Mode,
  ModeStatus,
  NodeStatus,
  Problem,
  SourceHealth,
  WireError,
} from '../agent/status.ts';
import { parseAddress } from '../model/address.ts';
import { TriplaneError } from '../model/errors.ts';
import { closeServer, pathOf, replyJson } from './http.ts';

export interface AdminStatus {
  readonly version: string;
  readonly startedMs: number;
  readonly synced: boolean;
  readonly mode: ModeStatus;
  readonly counts: Counts;
  /** null: not served. */
  readonly progress: { readonly ipv4: FamilyProgress | null; readonly ipv6: FamilyProgress | null };
  readonly sources: readonly SourceHealth[];
  readonly problems: readonly Problem[];
}

export interface AdminNode extends NodeStatus {
  readonly mode: ModeStatus;
  readonly synced: boolean;
  /** What the kernel still waits for, or why it refused what it was told last; '': nothing. */
  readonly holdup: string;
  readonly problems: readonly Problem[];
}

export interface AdminOptions {
  readonly socketPath: string;
  readonly status: AgentStatus;
  readonly control: AgentControl;
  readonly version: string;
}

export interface AdminServer {
  /** Stops listening and removes the socket. */
  close(): Promise<void>;
}

const BODY_BYTES_MAX = 64 * 1024;
const MODES: readonly string[] = ['auto', 'nft', 'ipvs', 'ebpf'];

/**
 * Starts to serve. A socket that nobody listens on (of an agent that was killed) is replaced. Throws TP_LOCKED
 * when another agent answers there, TP_BAD_FLAG when the path is something else or not safe.
 */
export async function serveAdmin(options: AdminOptions): Promise<AdminServer> {
  const { socketPath } = options;
  prepareFolder(path.dirname(socketPath));
  await removeStale(socketPath);
  const server = createServer({ requestTimeout: 10_000 }, (request, response) => {
    route(options, request, response).catch((error: unknown) => replyError(response, error));
  });
  await listenPrivately(server, socketPath);
  return { close: () => closeServer(server) };
}

async function route(
  options: AdminOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { status, control } = options;
  switch (`${request.method} ${pathOf(request)}`) {
    case 'GET /v1/status':
      return replyJson(response, 200, statusOf(options));
    case 'GET /v1/node': {
      return replyJson(response, 200, nodeOf(status));
    }
    case 'POST /v1/explain':
      return replyJson(response, 200, await control.explain(explainRequest(await readJson(request))));
    case 'POST /v1/switch': {
      const { mode } = await readJson(request);
      if (typeof mode !== 'string' || !MODES.includes(mode)) bad(`mode must be one of ${MODES.join(', ')}`);
      return replyJson(response, 200, await control.switchMode(mode as Mode | 'auto'));
    }
    default:
      return replyJson(
        response,
        404,
        errorBody({ code: 'TP_BAD_FLAG', message: 'the admin socket has no such path' }),
      );
  }
}

function nodeOf(status: AgentStatus): AdminNode {
  return {
    ...status.node(),
    mode: status.mode(),
    synced: status.synced(),
    holdup: status.holdup()?.detail ?? '',
    problems: status.problems(),
  };
}

function statusOf({ status, version }: AdminOptions): AdminStatus {
  return {
    version,
    startedMs: status.startedMs,
    synced: status.synced(),
    mode: status.mode(),
    counts: status.counts(),
    progress: { ipv4: status.progress(4), ipv6: status.progress(6) },
    sources: status.sources(),
    problems: status.problems(),
  };
}

function explainRequest(body: Record<string, unknown>): ExplainRequest {
  const source = typeof body.source === 'string' ? parseAddress(body.source) : null;
  const destination = typeof body.destination === 'string' ? parseAddress(body.destination) : null;
  const { port, protocol } = body;
  if (source === null) return bad('source must be an address');
  if (destination === null) return bad('destination must be an address');
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65535)
    return bad('port must be within 1 and 65535');
  if (protocol !== 'TCP' && protocol !== 'UDP' && protocol !== 'SCTP')
    return bad('protocol must be TCP, UDP or SCTP');
  const from = body.from ?? 'unknown';
  if (!isSender(from)) return bad('from must be node, pod, outside or unknown');
  const interfaceName = typeof body.interfaceName === 'string' ? body.interfaceName : '';
  return { source, destination, port: port as number, protocol, from, interfaceName };
}

function isSender(value: unknown): value is ExplainRequest['from'] {
  return value === 'node' || value === 'pod' || value === 'outside' || value === 'unknown';
}

function bad(message: string): never {
  throw new TriplaneError('TP_BAD_FLAG', message);
}

async function readJson(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) bad(`the request is larger than ${BODY_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  try {
    const value: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  return bad('the request is no JSON object');
}

function replyError(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const code = error instanceof TriplaneError ? error.code : '';
  const status = code === 'TP_BAD_FLAG' ? 400 : 500;
  replyJson(response, status, errorBody({ code, message: (error as Error).message }));
}

function errorBody(error: WireError): { error: WireError } {
  return { error };
}

const NO_ROOM: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT', 'ENOMEM']);

/** Whether the socket is refused only because its file system has no room: nothing about it is wrong. */
export function isForLackOfRoom(error: unknown): boolean {
  const { cause } = error as Error;
  return error instanceof TriplaneError && NO_ROOM.has((cause as NodeJS.ErrnoException | undefined)?.code);
}

/**
 * Whether a socket may stand there, as far as can be said without taking its place. Throws TP_BAD_FLAG. Whoever may
 * not make its folder lacks more than that: the agent says what. That there is no room for it may pass.
 */
export function checkAdminSocket(socketPath: string): void {
  try {
    prepareFolder(path.dirname(socketPath));
    kindOf(socketPath);
  } catch (error) {
    if (isForLackOfRoom(error)) return;
    if (!(error instanceof TriplaneError) || error.code !== 'TP_NO_PRIVILEGE') throw error;
  }
}

function prepareFolder(folder: string): void {
  if (makeFolder(folder) === 'made') return;
  const { mode, uid } = lstatSync(folder);
  // Whoever may write the folder could put his own socket in our place (a sticky folder such as /tmp excepted).
  const openToOthers = (mode & 0o022) !== 0 && (mode & 0o1000) === 0;
  if (openToOthers || (uid !== 0 && uid !== process.getuid?.())) {
    bad(`--admin-socket: others may write the folder ${folder}; choose another one, or chmod 700 it`);
  }
}

/** Throws TP_BAD_FLAG, or TP_NO_PRIVILEGE. */
function makeFolder(folder: string): 'made' | 'there' {
  try {
    return mkdirSync(folder, { recursive: true, mode: 0o700 }) === undefined ? 'there' : 'made';
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const message = `--admin-socket: the folder ${folder} cannot be made: ${code}`;
    const mayNot = code === 'EACCES' || code === 'EPERM';
    throw new TriplaneError(mayNot ? 'TP_NO_PRIVILEGE' : 'TP_BAD_FLAG', message, { cause: error });
  }
}

/** Throws TP_BAD_FLAG when something else is there. */
function kindOf(socketPath: string): 'socket' | 'nothing' {
  const stats = lstatSync(socketPath, { throwIfNoEntry: false });
  if (stats === undefined) return 'nothing';
  return stats.isSocket() ? 'socket' : bad(`--admin-socket: ${socketPath} exists and is no socket`);
}

async function removeStale(socketPath: string): Promise<void> {
  if (kindOf(socketPath) === 'nothing') return;
  if (await answers(socketPath)) {
    throw new TriplaneError('TP_LOCKED', `another agent listens on ${socketPath}`);
  }
  unlinkSync(socketPath);
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socketPath);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

/** The socket never exists with other rights than 0600: bind() happens within listen(), under our umask. */
function listenPrivately(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const umask = process.umask(0o177);
    try {
      server.once('error', (error) =>
        reject(
          new TriplaneError(
            'TP_BAD_FLAG',
            `--admin-socket: cannot listen on ${socketPath}: ${error.message}`,
            { cause: error },
          ),
        ),
      );
      server.listen(socketPath, () => {
        chmodSync(socketPath, 0o600);
        server.removeAllListeners('error');
        server.on('error', () => {});
        resolve();
      });
    } finally {
      process.umask(umask);
    }
  });
}
