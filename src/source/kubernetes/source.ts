/** Cluster state from the Kubernetes API: one reflector for each resource that kube-proxy watches. */

import { ProblemBook } from '../problems.ts';
import type { ClusterEvent, RequestEvent, Source, SourceHealth, SourceListener } from '../source.ts';
import { Announcer } from './announcer.ts';
import { type Cluster, type ClusterOptions, openCluster } from './cluster.ts';
import { limitsOf, type ReflectorOptions } from './options.ts';
import { Reflector } from './reflector.ts';
import { patch } from './request.ts';
import { type PodWatch, resourcesFor } from './resources.ts';
import { RecordStore } from './store.ts';

const PATCH_MS_MAX = 10_000;

export interface KubernetesOptions extends ClusterOptions, ReflectorOptions {
  /** The node whose Node object is watched, an RFC 1123 subdomain; '' for none. */
  readonly nodeName: string;
  /** Default 'none'. */
  readonly pods?: PodWatch;
}

class KubernetesSource implements Source {
  readonly #options: KubernetesOptions;
  #reflectors: readonly Reflector[] = [];
  #cluster: Cluster | null = null;
  #listener: SourceListener | null = null;
  readonly #ended = new AbortController();
  #announcer: Announcer | null = null;

  constructor(options: KubernetesOptions) {
    this.#options = options;
  }

  async start(listener: SourceListener): Promise<void> {
    const cluster = await openCluster(this.#options);
    this.#cluster = cluster;
    this.#listener = listener;
    const problems = new ProblemBook(listener);
    const limits = limitsOf(this.#options);
    const answered =
      (method: RequestEvent['method']) =>
      (verb: RequestEvent['verb'], status: number, durationMs: number): void =>
        listener.onRequest?.({ method, verb, status, durationMs, host: new URL(cluster.url).host });
    this.#announcer = new Announcer({
      ...{ cluster, problems, retryMs: limits.eventRetryMs },
      onAnswer: (verb, status, durationMs) =>
        answered(verb === 'create' ? 'POST' : 'GET')(verb, status, durationMs),
    });
    const resources = resourcesFor(this.#options.nodeName, this.#options.pods ?? 'none');
    const awaited = new Set(resources);
    this.#reflectors = resources.map(
      (resource) =>
        new Reflector({
          resource,
          cluster,
          problems,
          store: new RecordStore(resource.kind, problems, cluster.url),
          limits,
          onAnswer: answered('GET'),
          deliver: (changes) => changes.length > 0 && listener.onChanges(changes),
          onSettled: () => {
            if (awaited.delete(resource) && awaited.size === 0) listener.onSynced();
          },
        }),
    );
    for (const reflector of this.#reflectors) reflector.start();
  }

  health(): readonly SourceHealth[] {
    return this.#reflectors.map((reflector) => reflector.health());
  }

  announce(event: ClusterEvent): void {
    this.#announcer?.announce(event);
  }

  async annotateNode(annotations: Readonly<Record<string, string>>): Promise<void> {
    if (!this.#cluster) throw new Error('the source has not been started');
    const path = `/api/v1/nodes/${encodeURIComponent(this.#options.nodeName)}`;
    const { signal } = this.#ended;
    const { host } = new URL(this.#cluster.url);
    const onAnswer = (status: number, durationMs: number) =>
      this.#listener?.onRequest?.({ method: 'PATCH', verb: 'patch', status, durationMs, host });
    await patch(
      this.#cluster,
      path,
      { metadata: { annotations } },
      { silenceMs: PATCH_MS_MAX, signal, onAnswer },
    );
  }

  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#announcer?.close();
    await Promise.all(this.#reflectors.map((reflector) => reflector.stop()));
  }
}

/**
 * Watches Services, EndpointSlices, this Node, ServiceCIDRs and labelled pods. start() throws TriplaneError TP_BAD_CONFIG
 * when there is no usable configuration; an API server that cannot be reached is waited for.
 */
export function createKubernetesSource(options: KubernetesOptions): Source {
  return new KubernetesSource(options);
}
