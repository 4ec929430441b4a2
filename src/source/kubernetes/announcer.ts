/**
 * Sends events (events.k8s.io/v1) by the rules of client-go's broadcaster (tools/events): one after the other,
 * again while the server cannot be reached, never again when it has refused one.
 */
import { randomBytes } from 'node:crypto';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { oneLine } from '../decode/check.ts';
import type { ProblemBook } from '../problems.ts';
import type { ClusterEvent } from '../source.ts';
import { ApiError } from './api-error.ts';
import type { Cluster } from './cluster.ts';
import { post } from './request.ts';
import { uidOf } from './uid.ts';

/** What waits beyond this is given up: events are told now or not at all. */
const QUEUE_MAX = 100;
const TRIES_MAX = 12;
const REQUEST_MS_MAX = 10_000;
/** How long an agent that ends waits for what it has still to say. */
const LAST_WORDS_MS = 2_000;
const NOTE_MAX = 1_000;
/** kube-proxy's name, by which dashboards and runbooks filter; the instance says who it really is. */
const CONTROLLER = 'kube-proxy';
const PROBLEM = 'API events.events.k8s.io';

export interface AnnouncerOptions {
  readonly cluster: Cluster;
  readonly problems: ProblemBook;
  /** Between two tries; client-go's is 10 s. */
  readonly retryMs: number;
  readonly onAnswer: (verb: 'create' | 'list', status: number, durationMs: number) => void;
}

export interface EventObject {
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly regarding: Readonly<Record<string, string>>;
}

/** The object as the API server takes it, still without the UID of what it is about. `nowMs`: since the epoch. */
export function eventObject(event: ClusterEvent, nowMs: number): EventObject {
  const { about, type, reason, action, note } = event;
  const [namespace, name] =
    about.kind === 'Node' ? ['', about.name] : (about.key.split('/', 2) as [string, string]);
  const regarding = { apiVersion: 'v1', kind: about.kind, name, ...(namespace === '' ? {} : { namespace }) };
  const body = {
    apiVersion: 'events.k8s.io/v1',
    kind: 'Event',
    // client-go's GenerateEventName: the object's name, cut to leave room, and something that never recurs.
    metadata: {
      name: `${name.slice(0, 230).replace(/[.-]+$/, '')}.${randomBytes(8).toString('hex')}`,
      namespace: namespace === '' ? 'default' : namespace,
    },
    // MicroTime: six digits after the second.
    eventTime: new Date(nowMs).toISOString().replace('Z', '000Z'),
    reportingController: CONTROLLER,
    reportingInstance: `triplane-${os.hostname()}`.slice(0, 128),
    ...{ action, reason, regarding, note: note.slice(0, NOTE_MAX), type },
  };
  return body;
}

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #queue: ClusterEvent[] = [];
  readonly #abort = new AbortController();
  #running: Promise<void> | null = null;

  constructor(options: AnnouncerOptions) {
    this.#options = options;
  }

  announce(event: ClusterEvent): void {
    if (this.#queue.length >= QUEUE_MAX || this.#abort.signal.aborted) return;
    this.#queue.push(event);
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
  }

  /** Gives what is still to be said a moment. */
  async close(): Promise<void> {
    const timer = setTimeout(() => this.#abort.abort(), LAST_WORDS_MS);
    await this.#running;
    clearTimeout(timer);
    this.#abort.abort();
  }

  async #run(): Promise<void> {
    for (let event = this.#queue[0]; event !== undefined; event = this.#queue[0]) {
      await this.#deliver(event);
      this.#queue.shift();
    }
  }

  async #deliver(event: ClusterEvent): Promise<void> {
    const { cluster, onAnswer, problems, retryMs } = this.#options;
    const { signal } = this.#abort;
    const body = eventObject(event, Date.now());
    const path = `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(body.metadata.namespace)}/events`;
    for (let tries = 0; tries < TRIES_MAX && !signal.aborted; tries++) {
      try {
        const whole = { ...body, regarding: { ...body.regarding, ...(await this.#identity(event)) } };
        await post(cluster, path, whole, {
          ...{ silenceMs: REQUEST_MS_MAX, signal },
          onAnswer: (status, durationMs) => onAnswer('create', status, durationMs),
        });
        problems.clear(PROBLEM);
        return;
      } catch (error) {
        if (error instanceof ApiError && !isPassing(error)) return this.#refused(error);
        await sleep(retryMs, undefined, { signal }).catch(() => {});
      }
    }
  }

  /**
   * kube-proxy names the object alone (before 1.36: a UID that is its name), and `kubectl describe` passes over such
   * events. Whoever may not look is told of the event all the same.
   */
  async #identity({ about }: ClusterEvent): Promise<{ readonly uid?: string }> {
    const { cluster, onAnswer } = this.#options;
    try {
      const uid = await uidOf(cluster, about, {
        ...{ silenceMs: REQUEST_MS_MAX, signal: this.#abort.signal },
        onAnswer: (status, durationMs) => onAnswer('list', status, durationMs),
      });
      return uid === '' ? {} : { uid };
    } catch (error) {
      if (error instanceof ApiError && isPassing(error)) throw error;
      return {};
    }
  }

  #refused(error: ApiError): void {
    // The namespace is going away, and the service with it.
    if (error.status === 404 || error.status === 409) return;
    const hint = error.status === 403 ? '; RBAC must grant create on events.events.k8s.io' : '';
    this.#options.problems.report({
      code: 'TP_API',
      object: PROBLEM,
      reason: `cannot create events: ${oneLine(error.message)}${hint}`,
      origin: this.#options.cluster.url,
    });
  }
}

function isPassing(error: ApiError): boolean {
  return error.status === 401 || error.status === 429 || error.status >= 500;
}
