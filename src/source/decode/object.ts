/** Which decoder an object wants, by its apiVersion and kind; lists are taken apart here. */
import type { RecordKind } from '../../model/records.ts';
import { isRaw, type Raw, show } from './check.ts';
import type { Decoded } from './decoded.ts';
import { decodeNode } from './node.ts';
import { decodePod } from './pod.ts';
import { decodeService } from './service.ts';
import { decodeServiceCidr } from './service-cidr.ts';
import { decodeSlice } from './slice.ts';

export const DECODERS: Readonly<Record<RecordKind, (raw: unknown) => Decoded>> = {
  Service: decodeService,
  EndpointSlice: decodeSlice,
  Node: decodeNode,
  ServiceCIDR: decodeServiceCidr,
  Pod: decodePod,
};

/** The API groups whose kinds are ours: a Service of serving.knative.dev is somebody else's. */
const GROUPS: Readonly<Record<RecordKind, string>> = {
  Service: '',
  EndpointSlice: 'discovery.k8s.io',
  Node: '',
  ServiceCIDR: 'networking.k8s.io',
  Pod: '',
};

/** How an unchecked object presents itself. */
export type Sorted =
  | { readonly is: 'object'; readonly kind: RecordKind; readonly raw: Raw }
  /** `itemKind` is what items without a kind of their own are ('' in a plain List). */
  | {
      readonly is: 'list';
      readonly items: readonly unknown[];
      readonly itemKind: string;
      readonly apiVersion: string;
    }
  /** Some other Kubernetes object. */
  | { readonly is: 'foreign' }
  /** No Kubernetes object at all, and why. */
  | { readonly is: 'nothing'; readonly reason: string };

function isOurs(kind: string): kind is RecordKind {
  return Object.hasOwn(DECODERS, kind);
}

function sortOurs(raw: Raw, kind: RecordKind, apiVersion: string): Sorted {
  const slash = apiVersion.indexOf('/');
  const group = slash < 0 ? '' : apiVersion.slice(0, slash);
  if (group !== GROUPS[kind]) return { is: 'foreign' };
  if (apiVersion.slice(slash + 1) !== 'v1') {
    return { is: 'nothing', reason: `apiVersion ${show(apiVersion)} of kind ${kind} is not served; use v1` };
  }
  return { is: 'object', kind, raw };
}

/** Sorts an object by apiVersion and kind; items of a typed list inherit both from it. */
export function sortObject(
  raw: unknown,
  inherited: { kind: string; apiVersion: string } = { kind: '', apiVersion: '' },
): Sorted {
  if (!isRaw(raw)) return { is: 'nothing', reason: `is ${show(raw)}, not an object` };
  const kind = raw.kind ?? inherited.kind;
  const apiVersion = raw.apiVersion ?? inherited.apiVersion;
  if (typeof kind !== 'string' || kind === '') return { is: 'nothing', reason: `kind is ${show(kind)}` };
  if (typeof apiVersion !== 'string' || apiVersion === '') {
    return { is: 'nothing', reason: `apiVersion is ${show(apiVersion)}` };
  }
  if (isOurs(kind)) return sortOurs(raw, kind, apiVersion);
  const itemKind = kind.endsWith('List') ? kind.slice(0, -4) : null;
  if (itemKind === null || (itemKind !== '' && !isOurs(itemKind))) return { is: 'foreign' };
  const items = raw.items ?? [];
  if (!Array.isArray(items)) return { is: 'nothing', reason: `items is ${show(items)}, not a list` };
  // A plain List says nothing of its items: they bring their own apiVersion.
  return { is: 'list', items, itemKind, apiVersion: itemKind === '' ? '' : apiVersion };
}
