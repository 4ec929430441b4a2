/** Random records from a small world, so that names, addresses and ports collide often. */
import fc from 'fast-check';
import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import type {
  ClusterRecord,
  EndpointRecord,
  NodeRecord,
  PodRecord,
  RecordChange,
  RecordKind,
  ServiceCidrRecord,
  ServiceRecord,
  SliceRecord,
} from '../../src/model/records.ts';
import { ip, net, nodeRecord, THAT, THIS } from './world.ts';

const protocol = fc.constantFrom('TCP', 'TCP', 'UDP', 'UDP', 'SCTP');
const portName = fc.constantFrom('', '', 'a');
const policy = fc.constantFrom('Cluster', 'Local');
const someOf = <T>(list: readonly T[]) => fc.subarray([...list]);
const EXTERNAL = ['198.18.0.1', '198.18.0.2', '192.0.2.11', '10.200.1.1', '2001:db8:18::1'].map(ip);
const NODE_PORT_ADDRESSES = ['192.0.2.11', '192.0.2.111', '2001:db8::11', '127.0.0.1'].map(ip);

const servicePort = fc.record({
  name: portName,
  protocol,
  port: fc.constantFrom(80, 81, 30000),
  nodePort: fc.constantFrom(0, 30000, 30001),
});

export const arbitraryService: fc.Arbitrary<ServiceRecord> = fc.record({
  kind: fc.constant('Service'),
  namespace: fc.constantFrom('x', 'y'),
  name: fc.constantFrom('a', 'b'),
  uid: fc.constant(''),
  createdMs: fc.constantFrom(0, 1000, 2000),
  type: fc.constantFrom('ClusterIP', 'NodePort', 'LoadBalancer'),
  clusterIPs: fc
    .constantFrom(['10.200.1.1'], ['10.200.1.2'], ['10.200.1.3', 'fd00:10:200::3'], ['fd00:10:200::4'])
    .map((list) => list.map(ip)),
  externalIPs: someOf(EXTERNAL),
  loadBalancerIPs: someOf(EXTERNAL),
  sourceRanges: someOf(['192.0.2.0/24', '198.51.100.0/24', '2001:db8::/32', '0.0.0.0/0'].map(net)),
  ports: fc.uniqueArray(servicePort, { selector: ({ name }) => name, minLength: 1, maxLength: 3 }),
  externalPolicy: policy,
  internalPolicy: policy,
  affinitySeconds: fc.constantFrom(0, 60),
  healthCheckNodePort: fc.constantFrom(0, 32000),
  settings: fc.constantFrom<Record<string, string>>({}, { scheduler: 'lc' }),
});

const zones = fc.constantFrom<string[]>([], ['east'], ['west'], ['east', 'west']);
const nodes = fc.constantFrom<string[]>([], [THIS], [THAT]);

const arbitraryEndpoint = (addresses: readonly string[]): fc.Arbitrary<EndpointRecord> =>
  fc.record({
    address: fc.constantFrom(...addresses).map(ip),
    nodeName: fc.constantFrom(THIS, THAT, ''),
    ready: fc.boolean(),
    serving: fc.boolean(),
    terminating: fc.boolean(),
    zone: fc.constant(''),
    zoneHints: zones,
    nodeHints: nodes,
  });

const slicePort = fc.record({ name: portName, protocol, port: fc.constantFrom(0, 8080, 8081) });

const arbitrarySliceOf = (family: 4 | 6, addresses: readonly string[]): fc.Arbitrary<SliceRecord> =>
  fc.record({
    kind: fc.constant('EndpointSlice'),
    namespace: fc.constantFrom('x', 'y'),
    // An address family is fixed for the life of a slice.
    name: fc.constantFrom(`s1-${family}`, `s2-${family}`, `s3-${family}`),
    serviceName: fc.constantFrom('a', 'b'),
    family: fc.constant(family),
    ports: fc.array(slicePort, { maxLength: 3 }),
    endpoints: fc.array(arbitraryEndpoint(addresses), { maxLength: 4 }),
    triggerMs: fc.constantFrom(0, 1, 2),
  });

export const arbitrarySlice: fc.Arbitrary<SliceRecord> = fc.oneof(
  { weight: 3, arbitrary: arbitrarySliceOf(4, ['10.10.1.1', '10.10.1.2', '10.10.2.1']) },
  { weight: 1, arbitrary: arbitrarySliceOf(6, ['fd00:10:10:1::1', 'fd00:10:10:2::1']) },
);

const arbitraryNode: fc.Arbitrary<NodeRecord> = fc
  .record({
    name: fc.constantFrom(THIS, THAT),
    zone: fc.constantFrom('', 'east', 'west'),
    podCIDRs: someOf(['10.10.1.0/24', 'fd00:10:10:1::/64'].map(net)),
  })
  .map(nodeRecord);

const arbitraryServiceCidr: fc.Arbitrary<ServiceCidrRecord> = fc.record({
  kind: fc.constant('ServiceCIDR'),
  name: fc.constantFrom('one', 'two'),
  cidrs: someOf(['10.200.0.0/16', '10.200.1.0/24', '10.201.0.0/16'].map(net)),
});

const arbitraryPod: fc.Arbitrary<PodRecord> = fc.record({
  kind: fc.constant('Pod'),
  namespace: fc.constantFrom('x', 'y'),
  name: fc.constantFrom('p', 'q'),
  cgroupUid: fc.constantFrom('u-1', 'u-2'),
  nodeName: fc.constantFrom(THIS, THAT, ''),
  socketLb: fc.constantFrom('off', 'default'),
});

export const arbitraryRecord: fc.Arbitrary<ClusterRecord> = fc.oneof(
  { weight: 5, arbitrary: arbitraryService },
  { weight: 5, arbitrary: arbitrarySlice },
  { weight: 1, arbitrary: arbitraryNode },
  { weight: 1, arbitrary: arbitraryServiceCidr },
  { weight: 1, arbitrary: arbitraryPod },
);

const deletion = (kind: RecordKind, ...keys: string[]): fc.Arbitrary<RecordChange> =>
  fc.constantFrom(...keys).map((key) => ({ op: 'delete', kind, key }));

export const arbitraryChange: fc.Arbitrary<RecordChange> = fc.oneof(
  { weight: 6, arbitrary: arbitraryRecord.map((record): RecordChange => ({ op: 'set', record })) },
  { weight: 1, arbitrary: deletion('Service', 'x/a', 'x/b', 'y/a', 'y/b', 'z/none') },
  { weight: 1, arbitrary: deletion('EndpointSlice', 'x/s1-4', 'x/s2-4', 'y/s1-4', 'x/s1-6', 'z/none') },
  { weight: 1, arbitrary: deletion('Node', THIS, THAT) },
  { weight: 1, arbitrary: deletion('ServiceCIDR', 'one', 'two') },
  { weight: 1, arbitrary: deletion('Pod', 'x/p', 'x/q', 'y/p') },
);

export const arbitraryFacts: fc.Arbitrary<NodeFacts> = fc.record({
  nodePortAddresses: someOf(NODE_PORT_ADDRESSES),
  nodeAddresses: fc
    .constantFrom(['192.0.2.11'], ['192.0.2.111', '2001:db8::11'], ['203.0.113.1'])
    .map((list) => list.map(ip)),
});

export const arbitraryConfig: fc.Arbitrary<ModelConfig> = fc.record({
  detectMode: fc.constantFrom('ClusterCIDR', 'NodeCIDR', 'BridgeInterface', 'InterfaceNamePrefix'),
  clusterCIDRs: fc.constant([net('10.10.0.0/16')]),
  bridge: fc.constant('cni0'),
  prefix: fc.constant('veth'),
  nodeName: fc.constant(THIS),
  masqueradeAll: fc.boolean(),
  serviceCIDRs: someOf([net('10.200.1.0/24')]),
});
