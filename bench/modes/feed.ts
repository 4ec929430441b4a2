/** How objects reach a proxy: as manifests in its lab's folder, or through the API server. */
import type { Lab } from '../../src/lab/lab.ts';
import type { ApiServer } from './api-server.ts';
import { writeManifest } from './cluster.ts';

export interface Feed {
  /** From now on the objects under this name are these, and no others. */
  show(name: string, objects: readonly object[]): Promise<void>;
  /** null: manifests. */
  readonly kubeconfig: string | null;
}

export class ManifestFeed implements Feed {
  readonly kubeconfig = null;
  readonly #lab: Lab;

  constructor(lab: Lab) {
    this.#lab = lab;
  }

  async show(name: string, objects: readonly object[]): Promise<void> {
    writeManifest(this.#lab, name, objects);
  }
}

interface ApiObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly status?: object;
}

/** The path of the collection of each kind. */
const COLLECTIONS: Readonly<Record<string, (namespace: string) => string>> = {
  Service: (namespace) => `/api/v1/namespaces/${namespace}/services`,
  EndpointSlice: (namespace) => `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
  Node: () => '/api/v1/nodes',
};
const AT_A_TIME = 32;

const collectionOf = ({ kind, metadata }: ApiObject) => COLLECTIONS[kind]!(metadata.namespace ?? '');
const pathOf = (object: ApiObject) => `${collectionOf(object)}/${object.metadata.name}`;

/** Keeps the API server's objects as they are asked for, and sends no more than the difference. */
export class ApiFeed implements Feed {
  readonly kubeconfig: string;
  readonly #api: ApiServer;
  /** Name -> path of an object -> the object and its text. */
  readonly #shown = new Map<string, Map<string, { object: ApiObject; text: string }>>();

  constructor(api: ApiServer) {
    this.#api = api;
    this.kubeconfig = api.kubeconfig;
  }

  async show(name: string, objects: readonly object[]): Promise<void> {
    const before = this.#shown.get(name) ?? new Map<string, { object: ApiObject; text: string }>();
    const after = new Map(
      (objects as readonly ApiObject[]).map((object) => [
        pathOf(object),
        { object, text: JSON.stringify(object) },
      ]),
    );
    const removed: string[] = [];
    const created: ApiObject[] = [];
    const replaced: ApiObject[] = [];
    for (const [at, { object, text }] of before) {
      const next = after.get(at);
      if (!next) removed.push(at);
      // Anew, so that the node ports of one are free before another one asks for them.
      else if (object.kind === 'Service' && next.text !== text) removed.push(at);
    }
    const gone = new Set(removed);
    for (const [at, { object, text }] of after) {
      const previous = before.get(at);
      if (!previous || gone.has(at)) created.push(object);
      else if (previous.text !== text) replaced.push(object);
    }
    this.#shown.set(name, after);
    await inTurns(removed, (at) => this.#api.call('DELETE', at));
    await inTurns(created, (object) => this.#create(object));
    await inTurns(replaced, (object) => this.#api.call('PUT', pathOf(object), object));
  }

  async #create(object: ApiObject): Promise<void> {
    await this.#api.call('POST', collectionOf(object), object);
    const { status } = object;
    if (status) await this.#api.call('PATCH', `${pathOf(object)}/status`, { status });
  }
}

async function inTurns<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < items.length) await work(items[next++]!);
  };
  await Promise.all(Array.from({ length: Math.min(AT_A_TIME, items.length) }, worker));
}
