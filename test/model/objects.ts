/** Short ways to write objects as the API or a manifest has them, and what the decoders make of them. */
import type { ClusterRecord } from '../../src/model/records.ts';
import { DECODERS } from '../../src/source/decode/object.ts';

export type Json = Readonly<Record<string, unknown>>;

export interface Over {
  readonly metadata?: Json;
  readonly spec?: Json;
  readonly status?: Json | null;
}

export function web({ metadata = {}, spec = {}, status = null }: Over = {}): Json {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'web', namespace: 'default', ...metadata },
    spec: { type: 'ClusterIP', clusterIP: '10.200.1.10', ports: [{ port: 9000 }], ...spec },
    status,
  };
}

export const balanced = (spec: Json = {}, ingress: readonly Json[] = [{ ip: '198.18.0.1' }]) =>
  web({
    spec: { type: 'LoadBalancer', ports: [{ port: 9000, nodePort: 30000 }], ...spec },
    status: { loadBalancer: { ingress } },
  });

export function endpointSlice(over: Json = {}, labels: Json = {}): Json {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: 'web-1',
      namespace: 'default',
      labels: { 'kubernetes.io/service-name': 'web', ...labels },
    },
    addressType: 'IPv4',
    ports: [{ name: '', port: 80, protocol: 'TCP' }],
    endpoints: [{ addresses: ['10.10.1.1'], nodeName: 'this' }],
    ...over,
  };
}

export const endpoints = (...list: readonly Json[]) => endpointSlice({ endpoints: list });
export const BOTH = endpoints(
  { addresses: ['10.10.1.1'], nodeName: 'this' },
  { addresses: ['10.10.2.2'], nodeName: 'that' },
);

/** The objects from which a scene's records came, also those that make no record. */
export const ORIGINALS = new WeakMap<readonly ClusterRecord[], readonly Json[]>();

/** What the decoders make of objects. Refused whole: an error in this table. */
export function decoded(...objects: readonly Json[]): ClusterRecord[] {
  const records = objects.flatMap((object) => {
    const result = DECODERS[object.kind as keyof typeof DECODERS](object);
    if (result.outcome === 'refused') throw new Error(`${result.object}: ${result.reason}`);
    return result.outcome === 'record' ? [result.record] : [];
  });
  ORIGINALS.set(records, objects);
  return records;
}
