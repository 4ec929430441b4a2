/**
 * A small Kubernetes API server for tests: lists with paging, watches with bookmarks, watch-lists,
 * selectors, resource versions and compaction, over HTTP or HTTPS on loopback. Any request can be made to
 * fail in the ways in which real ones do.
 */
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { gzipSync } from 'node:zlib';

export interface ApiObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    namespace?: string;
    name: string;
    resourceVersion?: string;
    labels?: Record<string, string>;
    [field: string]: unknown;
  };
  [field: string]: unknown;
}

export const PATHS = {
  services: '/api/v1/services',
  nodes: '/api/v1/nodes',
  endpointslices: '/apis/discovery.k8s.io/v1/endpointslices',
  servicecidrs: '/apis/networking.k8s.io/v1/servicecidrs',
  pods: '/api/v1/pods',
} as const;
export type ResourceName = keyof typeof PATHS;

const LIST_KINDS: Record<ResourceName, string> = {
  services: 'ServiceList',
  nodes: 'NodeList',
  endpointslices: 'EndpointSliceList',
  servicecidrs: 'ServiceCIDRList',
  pods: 'PodList',
};

/** As RBAC names it: resources of the core group have no group behind a dot. */
export type ApiVerb = 'list' | 'watch' | 'create';

const GROUPS: Record<ResourceName | 'events', string> = {
  services: '',
  nodes: '',
  endpointslices: 'discovery.k8s.io',
  servicecidrs: 'networking.k8s.io',
  pods: '',
  events: 'events.k8s.io',
};

export interface ApiRequest {
  readonly resource: ResourceName | 'events';
  readonly verb: ApiVerb;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage['headers'];
}

interface ReadRequest extends ApiRequest {
  readonly resource: ResourceName;
}

/** What happens to a request in place of a good answer. */
export type Fault =
  | {
      readonly do: 'status';
      readonly status: number;
      readonly reason?: string;
      readonly message?: string;
      readonly headers?: Record<string, string>;
    }
  | { readonly do: 'body'; readonly body: string }
  /** The connection is reset before an answer. */
  | { readonly do: 'reset' }
  /** No answer, ever. */
  | { readonly do: 'hang' }
  /** A good answer, but the connection is reset (or, for 'stall', goes silent) after so many bytes of it. */
  | { readonly do: 'cut' | 'stall'; readonly bytes: number }
  /** A watch that starts well and brings these lines, then closes. */
  | { readonly do: 'lines'; readonly lines: readonly string[] };

interface Rule {
  readonly matches: (request: ApiRequest) => boolean;
  readonly fault: Fault;
  left: number;
}

/** A created events.k8s.io/v1 Event. */
export interface CreatedEvent {
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly eventTime: string;
  readonly regarding: {
    readonly kind: string;
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
  };
  readonly type: string;
  readonly reason: string;
  readonly action: string;
  readonly note: string;
  readonly reportingController: string;
  readonly reportingInstance: string;
}

const NAMESPACED_SERVICES = /^\/api\/v1\/namespaces\/([^/]+)\/services$/;
const EVENTS_PATH = /^\/apis\/events\.k8s\.io\/v1\/namespaces\/([^/]+)\/events$/;

/** What the real one refuses (pkg/apis/core/validation/events.go); '' when nothing. */
function faultOfEvent(event: CreatedEvent, namespace: string): string {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(event.eventTime ?? ''))
    return 'eventTime is no MicroTime';
  if (!/^[A-Za-z0-9][A-Za-z0-9._/-]*$/.test(event.reportingController ?? '')) return 'reportingController';
  for (const field of ['reportingInstance', 'action', 'reason'] as const)
    if (!event[field] || event[field].length > 128) return `${field} must have 1 to 128 characters`;
  if ((event.note ?? '').length > 1024) return 'note is longer than 1024';
  if (!['Normal', 'Warning'].includes(event.type)) return 'type';
  if (event.metadata.namespace !== namespace) return 'metadata.namespace is not that of the path';
  if ((event.regarding.namespace ?? 'default') !== namespace) return 'regarding.namespace is another one';
  if (!/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(event.metadata.name) || event.metadata.name.length > 253)
    return 'metadata.name';
  return '';
}

interface Event {
  readonly version: number;
  readonly resource: ResourceName;
  readonly before: ApiObject | null;
  readonly after: ApiObject | null;
}

interface Watcher {
  readonly request: ReadRequest;
  readonly response: ServerResponse;
  silent: boolean;
}

export interface FakeApiOptions {
  readonly port?: number;
  readonly tls?: { readonly key: string; readonly cert: string };
  /** 'no': refused as invalid; 'ignored': the parameter is unknown, as before Kubernetes 1.19. */
  readonly watchList?: 'yes' | 'no' | 'ignored';
  /** Resources that exist; default all. */
  readonly resources?: readonly ResourceName[];
  /** Where versions begin. */
  readonly version?: number;
  /** Whether `limit` counts in a list from the cache (resourceVersion=0); real ones ignored it before 1.31. */
  readonly limitOfCache?: 'honoured' | 'ignored';
  readonly gzip?: 'yes' | 'no';
  /** Watches last so many times shorter than asked for: for a client whose clocks run faster, too. Default 1. */
  readonly hurry?: number;
  /** Bearer token that every request must show. */
  token?: string;
  /** RBAC: what is not allowed is refused with 403, as the real one words it. Default: everything is. */
  readonly mayDo?: (verb: ApiVerb, group: string, resource: string) => boolean;
}

function idOf(object: ApiObject): string {
  return object.metadata.namespace
    ? `${object.metadata.namespace}/${object.metadata.name}`
    : object.metadata.name;
}

function fieldOf(object: ApiObject, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((value, name) => (value as Record<string, unknown> | undefined)?.[name], object);
}

function isSelected(object: ApiObject, query: URLSearchParams): boolean {
  for (const term of (query.get('labelSelector') ?? '').split(',').filter(Boolean)) {
    if (term.includes('=')) throw new Error(`label selector ${term} is beyond this server`);
    const isThere = Object.hasOwn(object.metadata.labels ?? {}, term.replace(/^!/, ''));
    if (isThere === term.startsWith('!')) return false;
  }
  for (const term of (query.get('fieldSelector') ?? '').split(',').filter(Boolean)) {
    const [path, operator, value] = term.split(/(!?=)/) as [string, string, string];
    if (((fieldOf(object, path) ?? '') === value) !== (operator === '=')) return false;
  }
  return true;
}

function statusBody(code: number, reason: string, message: string): string {
  return JSON.stringify({
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message,
    reason,
    code,
  });
}

export class FakeApiServer {
  readonly #options: FakeApiOptions;
  readonly #server: http.Server | https.Server;
  readonly #sockets = new Set<Socket>();
  readonly #objects = new Map<ResourceName, Map<string, ApiObject>>();
  readonly #snapshots = new Map<string, readonly ApiObject[]>();
  readonly #watchers = new Set<Watcher>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #events: Event[] = [];
  #rules: Rule[] = [];
  #version: number;
  #oldest = 0;
  #tokens = 0;
  /** Events that were created, in order. */
  readonly created: CreatedEvent[] = [];
  /** All requests so far. */
  readonly requests: ApiRequest[] = [];
  token: string | undefined;

  constructor(options: FakeApiOptions = {}) {
    this.#options = options;
    this.#version = options.version ?? 100;
    this.#oldest = this.#version;
    this.token = options.token;
    const handler = (request: IncomingMessage, response: ServerResponse) => this.#handle(request, response);
    this.#server = options.tls ? https.createServer(options.tls, handler) : http.createServer(handler);
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => this.#sockets.delete(socket));
    });
    for (const name of Object.keys(PATHS) as ResourceName[]) this.#objects.set(name, new Map());
  }

  async listen(): Promise<this> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.#options.port ?? 0, '127.0.0.1', resolve);
    });
    return this;
  }

  /** Resets every connection and frees the port. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.resetConnections();
    await closed;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `${this.#options.tls ? 'https' : 'http'}://127.0.0.1:${this.port}`;
  }

  get watching(): number {
    return this.#watchers.size;
  }

  // ---- state ----

  set(resource: ResourceName, ...objects: readonly object[]): void {
    for (const given of objects) {
      const object = structuredClone(given) as ApiObject;
      object.metadata.resourceVersion = String(++this.#version);
      const before = this.#objects.get(resource)!.get(idOf(object)) ?? null;
      this.#objects.get(resource)!.set(idOf(object), object);
      this.#record({ version: this.#version, resource, before, after: object });
    }
  }

  delete(resource: ResourceName, id: string): void {
    const before = this.#objects.get(resource)!.get(id);
    if (!before) throw new Error(`${id} does not exist`);
    this.#objects.get(resource)!.delete(id);
    this.#version++;
    this.#record({ version: this.#version, resource, before, after: null });
  }

  /** Forgets history: versions before now, and all continue tokens, are gone. */
  compact(): void {
    this.#oldest = this.#version;
    this.#events = [];
    this.#snapshots.clear();
  }

  // ---- faults ----

  /** The next `times` requests that match fail so. */
  fail(fault: Fault, matches: (request: ApiRequest) => boolean = () => true, times = 1): void {
    this.#rules.push({ matches, fault, left: times });
  }

  heal(): void {
    this.#rules = [];
  }

  resetConnections(): void {
    this.#watchers.clear();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Ends all watches in order, as a server that shuts down. */
  endWatches(): void {
    for (const { response } of this.#watchers) response.end();
    this.#watchers.clear();
  }

  /** Watches stay open and bring nothing any more, not even their end: the peer of a half-open connection. */
  silenceWatches(): void {
    for (const watcher of this.#watchers) watcher.silent = true;
  }

  /** Sends raw bytes into every watch of a resource. */
  inject(resource: ResourceName, bytes: string): void {
    for (const { request, response } of this.#watchers)
      if (request.resource === resource) response.write(bytes);
  }

  bookmark(resource: ResourceName): void {
    for (const watcher of this.#watchers)
      if (watcher.request.resource === resource) this.#bookmark(watcher, {});
  }

  // ---- requests ----

  #handle(message: IncomingMessage, response: ServerResponse): void {
    const url = new URL(message.url ?? '/', 'http://fake');
    const events = EVENTS_PATH.exec(url.pathname);
    if (events && message.method === 'POST') return void this.#create(message, response, events[1]!);
    const namespaced = NAMESPACED_SERVICES.exec(url.pathname);
    if (namespaced) {
      const terms = [`metadata.namespace=${namespaced[1]}`, url.searchParams.get('fieldSelector') ?? ''];
      url.searchParams.set('fieldSelector', terms.filter(Boolean).join(','));
      url.pathname = PATHS.services;
    }
    const resource = (Object.keys(PATHS) as ResourceName[]).find((name) => PATHS[name] === url.pathname);
    const exists = resource && (this.#options.resources ?? Object.keys(PATHS)).includes(resource);
    if (!exists) {
      this.#refuse(response, 404, 'NotFound', 'the server could not find the requested resource');
      return;
    }
    const verb = url.searchParams.get('watch') === 'true' ? 'watch' : 'list';
    const request: ReadRequest = { resource, verb, query: url.searchParams, headers: message.headers };
    if (!this.#admits(request, response)) return;
    if (verb === 'watch') this.#watch(request, response);
    else this.#list(request, response);
  }

  /** Faults, then who asks, then whether he may. */
  #admits(request: ApiRequest, response: ServerResponse): boolean {
    const { resource, verb, headers } = request;
    this.requests.push(request);
    const rule = this.#rules.find(({ left, matches }) => left > 0 && matches(request));
    if (rule) {
      rule.left--;
      if (this.#fails(rule.fault, response)) return false;
    }
    if (this.token !== undefined && headers.authorization !== `Bearer ${this.token}`) {
      this.#refuse(response, 401, 'Unauthorized', 'Unauthorized');
      return false;
    }
    const group = GROUPS[resource];
    if (this.#options.mayDo?.(verb, group, resource) ?? true) return true;
    this.#refuse(
      response,
      403,
      'Forbidden',
      `${resource}${group === '' ? '' : `.${group}`} is forbidden: User "system:serviceaccount:kube-system:triplane" cannot ${verb} resource "${resource}" in API group "${group}" at the cluster scope`,
    );
    return false;
  }

  async #create(message: IncomingMessage, response: ServerResponse, namespace: string): Promise<void> {
    const query = new URLSearchParams();
    if (!this.#admits({ resource: 'events', verb: 'create', query, headers: message.headers }, response))
      return;
    let text = '';
    for await (const chunk of message) text += String(chunk);
    const event = JSON.parse(text) as CreatedEvent;
    const fault = faultOfEvent(event, namespace);
    if (fault !== '') return this.#refuse(response, 422, 'Invalid', `Event is invalid: ${fault}`);
    this.created.push(event);
    response.writeHead(201, { 'content-type': 'application/json' });
    response.end(text);
  }

  #refuse(
    response: ServerResponse,
    code: number,
    reason: string,
    message: string,
    headers: Record<string, string> = {},
  ): void {
    response.writeHead(code, { 'content-type': 'application/json', ...headers });
    response.end(statusBody(code, reason, message));
  }

  /** Returns whether the request is dealt with; 'cut' and 'stall' only arm the connection. */
  #fails(fault: Fault, response: ServerResponse): boolean {
    const socket = response.socket!;
    if (fault.do === 'hang') return true;
    if (fault.do === 'reset') socket.resetAndDestroy();
    else if (fault.do === 'body') response.end(fault.body);
    else if (fault.do === 'status') {
      this.#refuse(
        response,
        fault.status,
        fault.reason ?? '',
        fault.message ?? 'as the test wants it',
        fault.headers,
      );
    } else if (fault.do === 'lines') {
      response.writeHead(200);
      response.end(fault.lines.map((line) => `${line}\n`).join(''));
    } else {
      this.#armCut(fault, response, socket);
      return false;
    }
    return true;
  }

  #armCut(
    fault: { readonly do: 'cut' | 'stall'; readonly bytes: number },
    response: ServerResponse,
    socket: Socket,
  ): void {
    let left = fault.bytes;
    const through = (chunk: unknown): void => {
      const bytes = Buffer.from(chunk as Buffer | string);
      if (left <= 0) return;
      response.constructor.prototype.write.call(response, bytes.subarray(0, left));
      left -= bytes.length;
      if (left <= 0 && fault.do === 'cut') setTimeout(() => socket.destroy(), 20);
    };
    response.write = ((chunk: unknown) => {
      through(chunk);
      return true;
    }) as typeof response.write;
    response.end = ((chunk?: unknown) => {
      if (chunk !== undefined) through(chunk);
      return response;
    }) as typeof response.end;
  }

  #list(request: ReadRequest, response: ServerResponse): void {
    const { query, resource } = request;
    const token = query.get('continue');
    const asked = query.get('resourceVersion') ?? '';
    if (token) {
      const rest = this.#snapshots.get(token);
      if (!rest) {
        this.#refuse(response, 410, 'Expired', 'The provided continue parameter is too old');
        return;
      }
      this.#page(request, response, rest);
      return;
    }
    if (Number(asked) > this.#version) {
      this.#refuse(
        response,
        504,
        'Timeout',
        `Too large resource version: ${asked}, current: ${this.#version}`,
      );
      return;
    }
    const all = [...this.#objects.get(resource)!.values()].filter((object) => isSelected(object, query));
    this.#page(request, response, all);
  }

  #page(
    { query, resource, headers }: ReadRequest,
    response: ServerResponse,
    objects: readonly ApiObject[],
  ): void {
    const fromCache = query.get('resourceVersion') === '0' && this.#options.limitOfCache === 'ignored';
    const limit = fromCache ? 0 : Number(query.get('limit') ?? 0);
    const items = limit > 0 ? objects.slice(0, limit) : objects;
    const metadata: Record<string, unknown> = { resourceVersion: String(this.#version) };
    if (items.length < objects.length) {
      const token = `token+${++this.#tokens}/=`;
      this.#snapshots.set(token, objects.slice(items.length));
      metadata.continue = token;
    }
    const body = JSON.stringify({
      kind: LIST_KINDS[resource],
      apiVersion: 'v1',
      metadata,
      items: items.map(({ kind, apiVersion, ...item }) => item),
    });
    if (this.#options.gzip === 'yes' && String(headers['accept-encoding']).includes('gzip')) {
      response.writeHead(200, { 'content-encoding': 'gzip' });
      response.end(gzipSync(body));
    } else response.end(body);
  }

  #watch(request: ReadRequest, response: ServerResponse): void {
    const { query, resource } = request;
    const from = Number(query.get('resourceVersion') || 0);
    const wantsInitial = query.get('sendInitialEvents') === 'true';
    const support = this.#options.watchList ?? 'yes';
    if (wantsInitial && support === 'no') {
      this.#refuse(
        response,
        422,
        'Invalid',
        'sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled',
      );
      return;
    }
    const watcher: Watcher = { request, response, silent: false };
    response.on('close', () => this.#watchers.delete(watcher));
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    if (from > this.#version) {
      this.#endWithError(watcher, 504, 'Timeout', `Too large resource version: ${from}`);
      return;
    }
    const initial = wantsInitial || from === 0;
    if (!initial && from < this.#oldest) {
      this.#endWithError(watcher, 410, 'Expired', `too old resource version: ${from}`);
      return;
    }
    if (initial) {
      const selected = [...this.#objects.get(resource)!.values()].filter((object) =>
        isSelected(object, query),
      );
      for (const object of selected) this.#send(watcher, 'ADDED', object);
      if (wantsInitial && support === 'yes') this.#bookmark(watcher, { 'k8s.io/initial-events-end': 'true' });
    } else for (const event of this.#events) if (event.version > from) this.#notify(watcher, event);
    if (response.writableEnded) return;
    this.#watchers.add(watcher);
    const timer = setTimeout(
      () => !watcher.silent && response.end(),
      (Number(query.get('timeoutSeconds') ?? 3_600) * 1_000) / (this.#options.hurry ?? 1),
    );
    this.#timers.add(timer);
    response.on('close', () => clearTimeout(timer));
  }

  #endWithError(watcher: Watcher, code: number, reason: string, message: string): void {
    this.#send(watcher, 'ERROR', JSON.parse(statusBody(code, reason, message)));
    watcher.response.end();
  }

  #bookmark(watcher: Watcher, annotations: Record<string, string>): void {
    const metadata = { resourceVersion: String(this.#version), creationTimestamp: null, annotations };
    // client-go's decoder wants to know what it is a bookmark of.
    const { resource } = watcher.request;
    const kind = LIST_KINDS[resource].replace(/List$/, '');
    const group = GROUPS[resource];
    this.#send(watcher, 'BOOKMARK', { kind, apiVersion: group === '' ? 'v1' : `${group}/v1`, metadata });
  }

  #record(event: Event): void {
    this.#events.push(event);
    for (const watcher of this.#watchers) this.#notify(watcher, event);
  }

  /** An object that begins or ceases to match the selectors appears or vanishes for the watcher. */
  #notify(watcher: Watcher, { resource, before, after, version }: Event): void {
    const { request } = watcher;
    if (request.resource !== resource) return;
    const was = before !== null && isSelected(before, request.query);
    const is = after !== null && isSelected(after, request.query);
    if (is) this.#send(watcher, was ? 'MODIFIED' : 'ADDED', after);
    else if (before && was) {
      // The object as the watcher knew it, with the new version (convertToWatchEvent() of the real one's cacher).
      this.#send(watcher, 'DELETED', {
        ...before,
        metadata: { ...before.metadata, resourceVersion: String(version) },
      });
    }
  }

  #send(watcher: Watcher, type: string, object: object): void {
    if (!watcher.silent && !watcher.response.writableEnded)
      watcher.response.write(`${JSON.stringify({ type, object })}\n`);
  }
}
