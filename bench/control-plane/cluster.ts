/** Synthetic clusters as records: what a source would deliver. */

import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import type { DetectConfig } from '../../src/model/detector.ts';
import type {
  Address,
  Cidr,
  EndpointRecord,
  Family,
  RecordChange,
  ServiceRecord,
  SliceRecord,
} from '../../src/model/records.ts';

export interface Size {
  readonly name: string;
  readonly services: number;
  readonly endpoints: number;
  readonly families: readonly Family[];
  readonly type: ServiceRecord['type'];
  readonly affinitySeconds: number;
}

/** What the EndpointSlice controller puts into one slice at most by default. */
const SLICE_ENDPOINTS_MAX = 100;
const NAMESPACES = 50;
const NODES = 100;
const THIS_NODE = 'node-0';

const DETECTOR: DetectConfig = {
  detectMode: 'ClusterCIDR',
  clusterCIDRs: ['10.128.0.0/9' as Cidr, 'fd00:128::/32' as Cidr],
  bridge: '',
  prefix: '',
};
export const CONFIG: ModelConfig = {
  ...DETECTOR,
  nodeName: THIS_NODE,
  masqueradeAll: false,
  serviceCIDRs: ['10.64.0.0/12' as Cidr, 'fd00:64::/108' as Cidr],
};
export const FACTS: NodeFacts = {
  nodePortAddresses: ['192.0.2.11' as Address, '192.0.2.12' as Address, '192.0.2.13' as Address],
  nodeAddresses: ['192.0.2.11' as Address, '2001:db8::11' as Address],
};

function v4(base: number, index: number): Address {
  const value = base + index;
  return `${(value >>> 24) & 255}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}` as Address;
}
function v6(prefix: string, index: number): Address {
  const high = (index >>> 16).toString(16);
  const low = (index & 0xffff).toString(16);
  // RFC 5952: never a zero group in front of the last one.
  return (index >>> 16 === 0 ? `${prefix}::${low}` : `${prefix}::${high}:${low}`) as Address;
}

function clusterIP(family: Family, service: number): Address {
  return family === 4 ? v4(0x0a400000, service + 1) : v6('fd00:64', service + 1);
}
function podIP(family: Family, pod: number): Address {
  return family === 4 ? v4(0x0a800000, pod + 1) : v6('fd00:128', pod + 1);
}

/** The first port of NodePorts; a cluster of so many needs a wider range than Kubernetes' default. */
const NODE_PORT_FIRST = 20000;

export function serviceRecord(size: Size, index: number): ServiceRecord {
  const external = size.type !== 'ClusterIP';
  return {
    kind: 'Service',
    namespace: `team-${index % NAMESPACES}`,
    name: `service-${index}`,
    uid: `00000000-0000-4000-8000-${index.toString(16).padStart(12, '0')}`,
    createdMs: 1_700_000_000_000 + index,
    type: size.type,
    clusterIPs: size.families.map((family) => clusterIP(family, index)),
    externalIPs: [],
    loadBalancerIPs: size.type === 'LoadBalancer' ? [v4(0xac140000, index + 1)] : [],
    sourceRanges: [],
    ports: [
      { name: 'http', protocol: 'TCP', port: 80, nodePort: external ? NODE_PORT_FIRST + (index % 40000) : 0 },
    ],
    externalPolicy: 'Cluster',
    internalPolicy: 'Cluster',
    affinitySeconds: size.affinitySeconds,
    healthCheckNodePort: 0,
    settings: {},
  };
}

function endpointRecord(family: Family, pod: number): EndpointRecord {
  return {
    address: podIP(family, pod),
    nodeName: `node-${pod % NODES}`,
    ready: true,
    serving: true,
    terminating: false,
    zone: `zone-${pod % 3}`,
    zoneHints: [],
    nodeHints: [],
  };
}

/** Pods that belong to no service of the cluster: for changes. */
export function sparePod(size: Size, index: number): number {
  return (size.services + 2000) * size.endpoints + index;
}

/** The pods of a service, in order. */
export function podsOf(size: Size, service: number): number[] {
  return Array.from({ length: size.endpoints }, (_, at) => service * size.endpoints + at);
}

/** One of a service's slices: those pods out of `pods` that fall into it. */
export function sliceRecord(
  size: Size,
  service: number,
  family: Family,
  place: number,
  pods: readonly number[],
): SliceRecord {
  const { namespace, name } = serviceRecord(size, service);
  return {
    kind: 'EndpointSlice',
    namespace,
    name: `${name}-v${family}-${place}`,
    serviceName: name,
    family,
    ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
    endpoints: pods
      .slice(place * SLICE_ENDPOINTS_MAX, (place + 1) * SLICE_ENDPOINTS_MAX)
      .map((pod) => endpointRecord(family, pod)),
    triggerMs: 0,
  };
}

/** All slices of a service with these pods, as changes. */
export function slicesOf(size: Size, service: number, pods: readonly number[]): RecordChange[] {
  const changes: RecordChange[] = [];
  for (const family of size.families) {
    for (let place = 0; place * SLICE_ENDPOINTS_MAX < pods.length; place++) {
      changes.push({ op: 'set', record: sliceRecord(size, service, family, place, pods) });
    }
  }
  return changes;
}

export function serviceWithSlices(size: Size, service: number): RecordChange[] {
  return [
    { op: 'set', record: serviceRecord(size, service) },
    ...slicesOf(size, service, podsOf(size, service)),
  ];
}

export function removalOf(size: Size, service: number): RecordChange[] {
  return serviceWithSlices(size, service).map((change) => {
    const { record } = change as Extract<RecordChange, { op: 'set' }>;
    const { kind, namespace, name } = record as ServiceRecord | SliceRecord;
    return { op: 'delete', kind, key: `${namespace}/${name}` };
  });
}

/** Every record of the cluster. */
export function allRecords(size: Size): RecordChange[] {
  const records: RecordChange[] = [];
  for (let service = 0; service < size.services; service++)
    for (const change of serviceWithSlices(size, service)) records.push(change);
  return records;
}
