/** The chart as tests see it. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseAllDocuments } from 'yaml';
import { renderChart } from '../../scripts/lib/chart.mjs';
import { ROOT } from '../support/checkout.ts';

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  // biome-ignore lint/suspicious/noExplicitAny: any Kubernetes object
  readonly [field: string]: any;
}

export const CHART = path.join(ROOT, 'deploy/helm/triplane');
export const API_SERVER = 'https://10.0.0.10:6443';

/** All objects of a text, which must be whole YAML without duplicate keys. */
export function objectsIn(text: string): Manifest[] {
  return parseAllDocuments(text, { uniqueKeys: true }).map((document) => {
    if ('errors' in document && document.errors.length > 0) throw document.errors[0];
    return document.toJS() as Manifest;
  });
}

/** The objects that the chart gives for these values. */
export function manifests(values: object = {}): Manifest[] {
  const files: Map<string, string> = renderChart(CHART, { apiServer: API_SERVER, ...values });
  return [...files].filter(([name]) => name !== 'NOTES.txt').flatMap(([, text]) => objectsIn(text));
}

export function find(objects: readonly Manifest[], kind: string): Manifest {
  const found = objects.filter((object) => object.kind === kind);
  if (found.length !== 1) throw new Error(`${found.length} objects of kind ${kind}`);
  return found[0]!;
}

export function readDeploy(file: string): string {
  return readFileSync(path.join(ROOT, 'deploy', file), 'utf8');
}
