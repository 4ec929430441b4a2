/**
 * Keeps a RecordStore equal to one resource of the API server, by the rules of client-go's reflector
 * (tools/cache/reflector.go): watch-list (KEP-3157) where the server has it, else a paged list and a watch;
 * bookmarks; a new list when history is gone. While the server is away, nothing changes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RecordChange } from '../../model/records.ts';
import { isRaw, oneLine } from '../decode/check.ts';
import type { SourceHealth } from '../source.ts';
import { ApiError } from './api-error.ts';
import { Backoff } from './backoff.ts';
import { parseEvent, type WatchEvent } from './events.ts';
import { LineSplitter } from './lines.ts';
import { ListSplitter } from './list-splitter.ts';
import { Liveness } from './liveness.ts';
import type { ReflectorParts } from './reflector-parts.ts';
import { type Answer, get, SilenceError } from './request.ts';
import { versionOf } from './store.ts';

/** A single failure is what a server that restarts looks like; refused access is reported at once. */
const FAILURES_REPORTED_MIN = 2;
/** After so many watches that the server failed to serve, the version they began at is given up. */
const WATCH_FAILURES_MAX = 5;
/** Since the last time that history was gone; sooner, a new list waits its turn like after any failure. */
const EXPIRED_APART_MS = 60_000;
/** A watch that is over sooner was no watch. */
const WATCH_MS_MIN = 1_000;

/**
 * Servers without watch-list refuse it, or (the oldest) do not know the parameter, send what there is and
 * fall silent.
 */
function isWatchListRefusal(error: unknown): boolean {
  return error instanceof SilenceError || (error instanceof ApiError && error.isInvalid);
}

interface Page {
  readonly version: string;
  readonly continueToken: string;
}

export class Reflector {
  readonly #parts: ReflectorParts;
  readonly #backoff: Backoff;
  readonly #liveness: Liveness;
  readonly #abort = new AbortController();
  #running: Promise<void> | null = null;
  /** The version up to which the store is complete; '' before the first list. */
  #version = '';
  #mustList = true;
  /** What was asked for last: RBAC has a right for each, and a watch-list is a watch. */
  #verb: 'list' | 'watch' = 'list';
  /** The server has told that it no longer (or not yet) knows #version: ask for the newest state. */
  #versionLost = false;
  #watchListWorks = true;
  #synced = false;
  #lastContactMs = 0;
  #failures = 0;
  #failuresInRow = 0;
  #lastError = '';
  #expiredAt = Number.NEGATIVE_INFINITY;

  constructor(parts: ReflectorParts) {
    this.#parts = parts;
    this.#liveness = new Liveness(parts.limits);
    this.#backoff = new Backoff(parts.limits.backoffMinMs, parts.limits.backoffMaxMs);
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  get synced(): boolean {
    return this.#synced;
  }

  health(): SourceHealth {
    return {
      what: `API ${this.#parts.resource.name}`,
      synced: this.#synced,
      lastContactMs: this.#lastContactMs,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  async #run(): Promise<void> {
    while (!this.#abort.signal.aborted) {
      let waitMs = 0;
      try {
        if (this.#mustList) await this.#fill();
        else await this.#watch();
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        waitMs = await this.#afterFailure(error);
      }
      if (waitMs > 0) await sleep(waitMs, undefined, { signal: this.#abort.signal }).catch(() => {});
    }
  }

  /** Makes the store complete by either way. */
  async #fill(): Promise<void> {
    if (this.#watchListWorks) {
      try {
        await this.#watchList();
        return;
      } catch (error) {
        if (!this.#mustList || !isWatchListRefusal(error)) throw error;
        this.#watchListWorks = false;
      }
    }
    await this.#list();
  }

  // ---- list ----

  async #list(): Promise<void> {
    try {
      await this.#listPages({ version: this.#listVersion(), isPaged: true });
    } catch (error) {
      if (!(error instanceof ApiError) || !(error.isExpired || error.isAhead) || this.#versionLost)
        throw error;
      // The version is one that this server does not serve: ask for the newest state instead, at once.
      this.#versionLost = true;
      await this.#listPages({ version: '', isPaged: true });
    }
  }

  /** '0': anything that the server has in its cache will do; else nothing older than what we know. */
  #listVersion(): string {
    if (this.#versionLost) return '';
    return this.#version === '' ? '0' : this.#version;
  }

  async #listPages(from: { readonly version: string; readonly isPaged: boolean }): Promise<void> {
    this.#parts.store.beginReplace();
    // A list at a version comes out of the server's cache only in one piece; so does client-go ask for it.
    const isPaged = from.isPaged && (from.version === '' || from.version === '0');
    let continueToken = '';
    for (;;) {
      const query: Record<string, string> = {};
      if (isPaged) query.limit = String(this.#parts.limits.pageSize);
      if (continueToken !== '') query.continue = continueToken;
      else if (from.version !== '') query.resourceVersion = from.version;
      let page: Page;
      try {
        page = await this.#page(query);
      } catch (error) {
        if (continueToken === '' || !(error instanceof ApiError) || !error.isExpired) throw error;
        // The snapshot behind the token was compacted away: all of it again, in one piece.
        return this.#listPages({ version: '', isPaged: false });
      }
      continueToken = page.continueToken;
      if (continueToken === '') {
        this.#parts.deliver(this.#parts.store.endReplace());
        this.#listed(page.version);
        return;
      }
    }
  }

  async #page(query: Record<string, string>): Promise<Page> {
    const { limits, store } = this.#parts;
    const answer = await this.#get(query, limits.requestTimeoutMs);
    const splitter = new ListSplitter(limits.objectBytesMax);
    const changes: RecordChange[] = [];
    try {
      for await (const chunk of answer.chunks) {
        for (const raw of splitter.feed(chunk)) {
          const change = store.set(raw);
          if (change) changes.push(change);
        }
      }
    } finally {
      answer.close();
      // What came before the answer broke off is true nevertheless, and in the store already.
      if (changes.length > 0) this.#parts.deliver(changes);
    }
    const envelope = splitter.end();
    const version = versionOf(envelope);
    const isList = isRaw(envelope) && typeof envelope.kind === 'string' && envelope.kind.endsWith('List');
    // Whoever answers 200 with something else must not make us believe that there are no services.
    if (!isList || version === '') throw new Error('the answer is no list of objects');
    const metadata = isRaw(envelope.metadata) ? envelope.metadata : {};
    this.#contact();
    return { version, continueToken: typeof metadata.continue === 'string' ? metadata.continue : '' };
  }

  #listed(version: string): void {
    this.#version = version;
    this.#mustList = false;
    this.#versionLost = false;
    this.#recovered();
    this.#sync();
  }

  // ---- watch ----

  async #watchList(): Promise<void> {
    this.#parts.store.beginReplace();
    await this.#stream({
      sendInitialEvents: 'true',
      resourceVersionMatch: 'NotOlderThan',
      resourceVersion: this.#versionLost ? '' : this.#version,
    });
    if (this.#mustList) throw new Error('the watch-list ended before its initial events did');
  }

  async #watch(): Promise<void> {
    await this.#stream({ resourceVersion: this.#version });
  }

  /** Reads one watch to its end. Returns when the server ended it in order. */
  async #stream(query: Record<string, string>): Promise<void> {
    const { limits } = this.#parts;
    const lastsMs = limits.watchTimeoutMs * (1 + Math.random());
    const timeoutSeconds = String(Math.max(1, Math.floor(lastsMs / 1_000)));
    const full = { watch: 'true', allowWatchBookmarks: 'true', timeoutSeconds, ...query };
    const answer = await this.#get(full, limits.requestTimeoutMs);
    // The server ends a watch in time. One that lasts longer has lost its server.
    let outlived = false;
    const deadline = setTimeout(() => {
      outlived = true;
      answer.close();
    }, lastsMs + limits.watchGraceMs);
    // What is quiet sends nothing for a minute, and is well all the same.
    const lasts = setTimeout(() => this.#mustList || this.#worked(), WATCH_MS_MIN);
    const lines = new LineSplitter(limits.objectBytesMax);
    const startedAt = performance.now();
    try {
      this.#allowSilence(answer);
      for await (const chunk of answer.chunks) {
        this.#take(lines.feed(chunk));
        this.#allowSilence(answer);
      }
    } catch (error) {
      throw outlived
        ? new Error('the watch outlived its time: its connection is dead', { cause: error })
        : error;
    } finally {
      clearTimeout(deadline);
      clearTimeout(lasts);
      answer.close();
      this.#liveness.ended();
    }
    if (lines.pendingBytes > 0) throw new Error('a watch event was cut off');
    // Whoever ends it at once would have us spin.
    if (performance.now() - startedAt < WATCH_MS_MIN) throw new Error('the watch ended at once');
    if (!this.#mustList) this.#worked();
  }

  /** Applies the events of one chunk and delivers them as one batch. */
  #take(lines: Iterable<string>): void {
    const changes: RecordChange[] = [];
    this.#contact();
    let applied = false;
    try {
      for (const line of lines) {
        this.#apply(parseEvent(line), changes);
        applied = true;
      }
    } finally {
      if (changes.length > 0) this.#parts.deliver(changes);
    }
    if (!applied || this.#mustList) return;
    this.#sync();
    this.#worked();
  }

  #apply(event: WatchEvent, changes: RecordChange[]): void {
    const { store } = this.#parts;
    if (event.type === 'error') throw event.error;
    if (event.type === 'bookmark') {
      this.#liveness.sawBookmark();
      if (event.endsInitial && this.#mustList) {
        changes.push(...store.endReplace());
        this.#mustList = false;
        this.#versionLost = false;
      }
    } else {
      const change = event.type === 'set' ? store.set(event.raw) : store.delete(event.raw);
      if (change) changes.push(change);
    }
    // Initial events carry the versions of the objects, in no order: only their end says where we are.
    if (!this.#mustList && event.version !== '') this.#version = event.version;
  }

  /** Initial events come without a pause; afterwards only a server that is dead is silent for too long. */
  #allowSilence(answer: Answer): void {
    answer.allowSilence(this.#mustList ? this.#parts.limits.requestTimeoutMs : this.#liveness.silenceMs);
  }

  // ---- both ----

  #get(query: Record<string, string>, silenceMs: number): Promise<Answer> {
    const { resource, cluster, onAnswer } = this.#parts;
    const all = new URLSearchParams(query);
    const verb = query.watch === 'true' ? 'watch' : 'list';
    this.#verb = verb;
    if (resource.labelSelector !== '') all.set('labelSelector', resource.labelSelector);
    if (resource.fieldSelector !== '') all.set('fieldSelector', resource.fieldSelector);
    return get(cluster, `${resource.path}?${all}`, {
      ...{ silenceMs, signal: this.#abort.signal },
      onAnswer: (status, durationMs) => onAnswer(verb, status, durationMs),
    });
  }

  #contact(): void {
    this.#lastContactMs = Date.now();
  }

  /** A watch works. Only that shortens the waits: a list that succeeds may be followed by a watch that fails. */
  #worked(): void {
    this.#backoff.reset();
    this.#recovered();
  }

  #recovered(): void {
    this.#contact();
    this.#failuresInRow = 0;
    this.#lastError = '';
    this.#parts.problems.clear(this.health().what);
  }

  #sync(): void {
    if (this.#synced) return;
    this.#synced = true;
    this.#parts.onSettled();
  }

  /** Notes a failure, decides what to ask for next, and returns how long to wait before that. */
  async #afterFailure(error: unknown): Promise<number> {
    const { resource } = this.#parts;
    const api = error instanceof ApiError ? error : null;
    if (api) this.#contact();
    if (api?.status === 404 && resource.need !== 'required') return this.#absent();
    this.#failures++;
    this.#failuresInRow++;
    this.#lastError = oneLine(error instanceof Error ? error.message : String(error));
    if (api?.isAhead || (this.#mustList && api?.isExpired)) this.#versionLost = true;
    if (api && !this.#mustList && this.#isPointless(api)) this.#mustList = true;
    if (api?.isExpired && this.#isFirstExpiry()) return 0;
    if (api?.status === 401) await this.#refreshCredentials();
    if (api?.isAccess || this.#failuresInRow >= FAILURES_REPORTED_MIN) this.#report(api);
    return Math.max(this.#backoff.next(), api?.retryAfterMs ?? 0);
  }

  /** Whether to go on watching from this version is pointless, so that a new list is needed. */
  #isPointless(api: ApiError): boolean {
    if (api.isExpired || api.isAhead) return true;
    if (api.isAccess || api.status === 429) return false;
    return api.status < 500 || (api.status === 500 && this.#failuresInRow >= WATCH_FAILURES_MAX);
  }

  /** History is gone, the server is not: the first new list need not wait. */
  #isFirstExpiry(): boolean {
    const sinceMs = performance.now() - this.#expiredAt;
    this.#expiredAt = performance.now();
    return sinceMs > EXPIRED_APART_MS;
  }

  /** The server has no such resource: nothing of it exists, and it may come with an upgrade. */
  #absent(): number {
    const { store, limits } = this.#parts;
    store.beginReplace();
    const changes = store.endReplace();
    if (changes.length > 0) this.#parts.deliver(changes);
    this.#mustList = true;
    this.#version = '';
    this.#worked();
    this.#sync();
    return limits.absentRetryMs * (1 + Math.random());
  }

  async #refreshCredentials(): Promise<void> {
    try {
      await this.#parts.cluster.refresh();
    } catch (error) {
      this.#lastError += `; ${oneLine(String(error))}`;
    }
  }

  #report(api: ApiError | null): void {
    const { resource, cluster, problems } = this.#parts;
    const verb = this.#verb;
    const hint = api?.status === 403 ? `; RBAC must grant list and watch on ${resource.name}` : '';
    problems.report({
      code: 'TP_API',
      object: this.health().what,
      reason: `cannot ${verb} ${resource.name}: ${this.#lastError}${hint}`,
      origin: cluster.url,
    });
    if (resource.need !== 'required') this.#parts.onSettled();
  }
}
