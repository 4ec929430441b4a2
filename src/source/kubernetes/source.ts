/** Cluster state from the Kubernetes API: one reflector for each resource that kube-proxy watches. */

import { ProblemBook } from '../problems.ts';
import type { Source, SourceHealth, SourceListener } from '../source.ts';
import { annotateNode } from './annotate.ts';
import { type Cluster, type ClusterOptions, openCluster } from './cluster.ts';
import { limitsOf, type ReflectorOptions } from './options.ts';
import { Reflector } from './reflector.ts';
import { resourcesFor } from './resources.ts';
import { RecordStore } from './store.ts';

export interface KubernetesOptions extends ClusterOptions, ReflectorOptions {
  /** The node whose Node object is watched, an RFC 1123 subdomain; '' for none. */
  readonly nodeName: string;
}

class KubernetesSource implements Source {
  readonly #options: KubernetesOptions;
  #reflectors: readonly Reflector[] = [];
  #cluster: Cluster | null = null;

  constructor(options: KubernetesOptions) {
    this.#options = options;
  }

  async start(listener: SourceListener): Promise<void> {
    const cluster = await openCluster(this.#options);
    this.#cluster = cluster;
    const problems = new ProblemBook(listener);
    const resources = resourcesFor(this.#options.nodeName);
    let waitingFor = resources.filter(({ need }) => need === 'required').length;
    this.#reflectors = resources.map(
      (resource) =>
        new Reflector({
          resource,
          cluster,
          problems,
          store: new RecordStore(resource.kind, problems, cluster.url),
          limits: limitsOf(this.#options),
          deliver: (changes) => changes.length > 0 && listener.onChanges(changes),
          onSynced: () => {
            if (resource.need === 'required' && --waitingFor === 0) listener.onSynced();
          },
        }),
    );
    for (const reflector of this.#reflectors) reflector.start();
  }

  health(): readonly SourceHealth[] {
    return this.#reflectors.map((reflector) => reflector.health());
  }

  async annotateNode(annotations: Readonly<Record<string, string>>): Promise<void> {
    if (!this.#cluster) throw new Error('the source has not been started');
    await annotateNode(this.#cluster, this.#options.nodeName, annotations);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#reflectors.map((reflector) => reflector.stop()));
  }
}

/**
 * Watches Services, EndpointSlices, this Node and ServiceCIDRs. start() throws TriplaneError TP_BAD_CONFIG
 * when there is no usable configuration; an API server that cannot be reached is waited for.
 */
export function createKubernetesSource(options: KubernetesOptions): Source {
  return new KubernetesSource(options);
}
