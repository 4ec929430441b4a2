/** Records as the objects of the Kubernetes API that they come from. */
import type {
  ClusterRecord,
  EndpointRecord,
  NodeRecord,
  ServiceRecord,
  SliceRecord,
} from '../../src/model/records.ts';
import type { ApiObject } from './apiserver.ts';

const SERVICE_NAME = 'kubernetes.io/service-name';
const ZONE = 'topology.kubernetes.io/zone';

function serviceObject(record: ServiceRecord): ApiObject {
  const { namespace, name, uid, createdMs, type, clusterIPs, externalIPs } = record;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace, name, uid, creationTimestamp: new Date(createdMs).toISOString() },
    spec: {
      type,
      clusterIP: clusterIPs[0],
      clusterIPs,
      ipFamilies: clusterIPs.map((address) => (address.includes(':') ? 'IPv6' : 'IPv4')),
      externalIPs,
      loadBalancerSourceRanges: record.sourceRanges,
      ports: record.ports.map(({ nodePort, ...port }) => ({
        ...port,
        ...(nodePort === 0 ? {} : { nodePort }),
      })),
      externalTrafficPolicy: record.externalPolicy,
      internalTrafficPolicy: record.internalPolicy,
      healthCheckNodePort: record.healthCheckNodePort,
      ...(record.affinitySeconds === 0
        ? { sessionAffinity: 'None' }
        : {
            sessionAffinity: 'ClientIP',
            sessionAffinityConfig: { clientIP: { timeoutSeconds: record.affinitySeconds } },
          }),
    },
    status: { loadBalancer: { ingress: record.loadBalancerIPs.map((ip) => ({ ip, ipMode: 'VIP' })) } },
  };
}

function endpointObject(record: EndpointRecord): object {
  const { address, nodeName, ready, serving, terminating, zone, zoneHints, nodeHints } = record;
  const named = (names: readonly string[]) => names.map((name) => ({ name }));
  return {
    addresses: [address],
    conditions: { ready, serving, terminating },
    ...(nodeName === '' ? {} : { nodeName }),
    ...(zone === '' ? {} : { zone }),
    ...(zoneHints.length + nodeHints.length === 0
      ? {}
      : { hints: { forZones: named(zoneHints), forNodes: named(nodeHints) } }),
  };
}

function sliceObject({ namespace, name, serviceName, family, ports, endpoints }: SliceRecord): ApiObject {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { namespace, name, labels: { [SERVICE_NAME]: serviceName } },
    addressType: family === 4 ? 'IPv4' : 'IPv6',
    ports: ports.map(({ port, ...rest }) => ({ ...rest, ...(port === 0 ? {} : { port }) })),
    endpoints: endpoints.map(endpointObject),
  };
}

function nodeObject({ name, uid, zone, addresses, podCIDRs, taints }: NodeRecord): ApiObject {
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, uid, labels: zone === '' ? {} : { [ZONE]: zone } },
    spec: { podCIDR: podCIDRs[0], podCIDRs, taints: taints.map((key) => ({ key, effect: 'NoSchedule' })) },
    status: { addresses: addresses.map((address) => ({ type: 'InternalIP', address })) },
  };
}

/** Throws for a Pod: its record has lost what an object needs. */
export function objectOf(record: ClusterRecord): ApiObject {
  switch (record.kind) {
    case 'Service':
      return serviceObject(record);
    case 'EndpointSlice':
      return sliceObject(record);
    case 'Node':
      return nodeObject(record);
    case 'ServiceCIDR':
      return {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'ServiceCIDR',
        metadata: { name: record.name },
        spec: { cidrs: record.cidrs },
      };
    case 'Pod':
      throw new Error(`no object of ${record.namespace}/${record.name}`);
  }
}

type Json = Readonly<Record<string, unknown>>;

const listOf = (list: unknown): readonly Json[] => (list ?? []) as readonly Json[];

/** Without the fields that are null: for the API server they are not there. */
function withoutNulls<T>(value: T): T {
  if (Array.isArray(value)) return value.map(withoutNulls) as T;
  if (typeof value !== 'object' || value === null) return value;
  const kept = Object.entries(value).filter(([, field]) => field !== null);
  return Object.fromEntries(kept.map(([name, field]) => [name, withoutNulls(field)])) as T;
}

const DEFAULTS: Readonly<Record<string, (object: Json) => Json>> = {
  Service(object) {
    const { ports, ...spec } = object.spec as Json;
    const affinity =
      spec.sessionAffinity === 'ClientIP' ? { clientIP: { timeoutSeconds: 10_800 } } : undefined;
    const ingress = listOf(((object.status as Json)?.loadBalancer as Json)?.ingress);
    return {
      ...object,
      spec: {
        sessionAffinityConfig: affinity,
        externalTrafficPolicy: spec.type === 'ClusterIP' ? undefined : 'Cluster',
        internalTrafficPolicy: 'Cluster',
        ...spec,
        ports: listOf(ports).map((port) => ({ protocol: 'TCP', ...port })),
      },
      status: { loadBalancer: { ingress: ingress.map((one) => (one.ip ? { ipMode: 'VIP', ...one } : one)) } },
    };
  },
  EndpointSlice: (object) => ({
    ...object,
    ports: listOf(object.ports).map((port) => ({ name: '', protocol: 'TCP', ...port })),
  }),
};

/** An object as the API server stores it when a user writes it so: with the defaults that proxies rely on. */
export function stored(object: Json): ApiObject {
  const defaults = DEFAULTS[object.kind as string] ?? ((one: Json) => one);
  return { apiVersion: 'v1', ...defaults(withoutNulls(object)) } as unknown as ApiObject;
}
