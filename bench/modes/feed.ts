/** How objects reach a proxy: as manifests in its lab's folder, or through the API server. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Lab } from '../../src/lab/lab.ts';
import type { ApiServer } from './api-server.ts';

export interface Feed {
  /** From now on the objects under this name are these, and no others. */
  show(name: string, objects: readonly object[]): Promise<void>;
  /** null: manifests. */
  readonly kubeconfig: string | null;
}

/** Objects in one file: with slices of 100 endpoints some 20 MB, and an agent refuses files above 64 MiB. */
const FILE_OBJECTS_MAX = 2000;

/** Files of the lab's manifests folder, each written whole or not at all. */
export class ManifestFeed implements Feed {
  readonly kubeconfig = null;
  readonly #manifests: string;
  readonly #drafts: string;
  /** Name -> how many files it has. */
  readonly #files = new Map<string, number>();

  constructor(lab: Pick<Lab, 'manifests'>) {
    this.#manifests = lab.manifests.path;
    this.#drafts = path.join(path.dirname(this.#manifests), 'drafts');
    mkdirSync(this.#drafts, { recursive: true });
  }

  async show(name: string, objects: readonly object[]): Promise<void> {
    const files = Math.ceil(objects.length / FILE_OBJECTS_MAX);
    for (let part = 0; part < files; part++) {
      const file = fileOf(name, part);
      const items = objects.slice(part * FILE_OBJECTS_MAX, (part + 1) * FILE_OBJECTS_MAX);
      const draft = path.join(this.#drafts, file);
      writeFileSync(draft, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
      renameSync(draft, path.join(this.#manifests, file));
    }
    for (let part = files; part < (this.#files.get(name) ?? 0); part++)
      rmSync(path.join(this.#manifests, fileOf(name, part)));
    this.#files.set(name, files);
  }
}

const fileOf = (name: string, part: number) => `${name}-${part}.json`;

interface ApiObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly status?: object;
}

interface Shown {
  readonly object: ApiObject;
  readonly text: string;
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
  readonly #api: Pick<ApiServer, 'call' | 'kubeconfig'>;
  /** Name -> path of an object -> the object and its text. */
  readonly #shown = new Map<string, Map<string, Shown>>();

  constructor(api: Pick<ApiServer, 'call' | 'kubeconfig'>) {
    this.#api = api;
    this.kubeconfig = api.kubeconfig;
  }

  async show(name: string, objects: readonly object[]): Promise<void> {
    const shown = this.#shown.get(name) ?? new Map<string, Shown>();
    this.#shown.set(name, shown);
    const wanted = new Map(
      (objects as readonly ApiObject[]).map((object) => [
        pathOf(object),
        { object, text: JSON.stringify(object) },
      ]),
    );
    const removed: string[] = [];
    for (const [at, { object, text }] of shown) {
      const next = wanted.get(at);
      // Services anew, so that the node ports of one are free before another one asks for them.
      if (!next || (object.kind === 'Service' && next.text !== text)) removed.push(at);
    }
    // What one of these refuses ends it: `shown` is then what the server has, for the next one to go on from.
    await inTurns(removed, async (at) => {
      await this.#api.call('DELETE', at);
      shown.delete(at);
    });
    await inTurns([...wanted], async ([at, one]) => {
      const before = shown.get(at);
      if (before?.text === one.text) return;
      if (before) await this.#api.call('PUT', at, one.object);
      else await this.#create(one.object);
      shown.set(at, one);
    });
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
