/** Short ways to write records and the one small cluster that the model's tests play in. */
import { parseAddress, parseCidr } from '../../src/model/address.ts';
import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import { ClusterModel } from '../../src/model/cluster.ts';
import type { DetectConfig } from '../../src/model/detector.ts';
import type {
  Address,
  Cidr,
  ClusterRecord,
  EndpointRecord,
  NodeRecord,
  ServiceRecord,
  SliceRecord,
} from '../../src/model/records.ts';

export function ip(text: string): Address {
  const address = parseAddress(text);
  if (address === null) throw new Error(`no address: ${text}`);
  return address;
}

export function net(text: string): Cidr {
  const cidr = parseCidr(text);
  if (cidr === null) throw new Error(`no CIDR: ${text}`);
  return cidr;
}

/** "this" is the node under test, "that" another one; pods of each live in 10.10.1.0/24 and 10.10.2.0/24. */
export const THIS = 'this';
export const THAT = 'that';
export const CLUSTER_CIDRS = [net('10.10.0.0/16'), net('fd00:10:10::/48')];
export const SERVICE_CIDRS = [net('10.200.1.0/24'), net('fd00:10:200::/112')];
export const NODE_ADDRESSES = [ip('192.0.2.11'), ip('2001:db8::11'), ip('192.0.2.111')];
export const FACTS: NodeFacts = {
  nodePortAddresses: [ip('192.0.2.11'), ip('2001:db8::11')],
  nodeAddresses: NODE_ADDRESSES,
};
export const CLUSTER_DETECTOR: DetectConfig = {
  detectMode: 'ClusterCIDR',
  clusterCIDRs: CLUSTER_CIDRS,
  bridge: '',
  prefix: '',
};
export const CONFIG: ModelConfig = {
  ...CLUSTER_DETECTOR,
  nodeName: THIS,
  masqueradeAll: false,
  serviceCIDRs: SERVICE_CIDRS,
};

export function service(over: Partial<ServiceRecord> = {}): ServiceRecord {
  return {
    kind: 'Service',
    namespace: 'default',
    name: 'web',
    uid: '',
    createdMs: 0,
    type: 'ClusterIP',
    clusterIPs: [ip('10.200.1.10')],
    externalIPs: [],
    loadBalancerIPs: [],
    sourceRanges: [],
    ports: [{ name: '', protocol: 'TCP', port: 9000, nodePort: 0 }],
    externalPolicy: 'Cluster',
    internalPolicy: 'Cluster',
    affinitySeconds: 0,
    healthCheckNodePort: 0,
    settings: {},
    ...over,
  };
}

/** An endpoint on "this" (10.10.1.x, fd00:10:10:1::x), on "that" (.2.), or on no known node; ready. */
export function endpoint(address: string, over: Partial<EndpointRecord> = {}): EndpointRecord {
  const third = /^10\.10\.(\d)|^fd00:10:10:(\d):/.exec(address);
  const where = third?.[1] ?? third?.[2];
  return {
    address: ip(address),
    nodeName: where === '1' ? THIS : where === '2' ? THAT : '',
    ready: true,
    serving: true,
    terminating: false,
    zone: '',
    zoneHints: [],
    nodeHints: [],
    ...over,
  };
}

export const NOT_READY = { ready: false, serving: false } as const;
export const TERMINATING = { ready: false, serving: true, terminating: true } as const;
export const DEAD = { ready: false, serving: false, terminating: true } as const;

export function slice(
  endpoints: readonly (string | EndpointRecord)[],
  over: Partial<SliceRecord> = {},
): SliceRecord {
  const list = endpoints.map((one) => (typeof one === 'string' ? endpoint(one) : one));
  const family = list[0]?.address.includes(':') ? 6 : 4;
  return {
    kind: 'EndpointSlice',
    namespace: 'default',
    name: family === 6 ? 'web-6' : 'web-4',
    serviceName: 'web',
    family,
    ports: [{ name: '', protocol: 'TCP', port: 80 }],
    endpoints: list,
    triggerMs: 0,
    ...over,
  };
}

export function nodeRecord(over: Partial<NodeRecord> = {}): NodeRecord {
  return {
    kind: 'Node',
    name: THIS,
    uid: '',
    zone: 'east',
    addresses: NODE_ADDRESSES,
    podCIDRs: [net('10.10.1.0/24'), net('fd00:10:10:1::/64')],
    deleting: false,
    taints: [],
    settings: {},
    ...over,
  };
}

export function modelOf(
  records: readonly ClusterRecord[],
  config: Partial<ModelConfig> = {},
  facts: NodeFacts = FACTS,
): ClusterModel {
  const model = new ClusterModel({ ...CONFIG, ...config }, facts);
  model.apply(records.map((record) => ({ op: 'set', record })));
  model.produce();
  return model;
}
