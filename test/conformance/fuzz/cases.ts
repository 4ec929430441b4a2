/**
 * Random valid clusters, random sequences of changes, and random flows. The world is small on purpose: names,
 * addresses and ports collide, are used again, and pass from one service to another.
 */
import fc from 'fast-check';
import type { ModelConfig, NodeFacts } from '../../../src/model/change.ts';
import type {
  ClusterRecord,
  EndpointRecord,
  NodeRecord,
  RecordChange,
  RecordKind,
  ServiceCidrRecord,
  ServiceRecord,
  SliceRecord,
} from '../../../src/model/records.ts';
import { CONFIG, ip, net, nodeRecord, THAT, THIS } from '../../model/world.ts';
import { BACKEND_PORTS, type HostName, NODE, PODS, REMOTE } from '../../support/flow-world.ts';

/** A flow before it is known what there is to aim at. */
export interface FlowDraft {
  readonly from: HostName;
  readonly family: 4 | 6;
  readonly proto: 'tcp' | 'udp';
  readonly via: 'packet' | 'socket';
  readonly connected: boolean;
  readonly close: 'fin' | 'rst';
  /** Of the node: with an address of its choice, or with the kernel's. */
  readonly bound: boolean;
  /** From the client port of the flow before it (HostFlow.twin). */
  readonly twin: boolean;
  /** Which frontend, modulo how many there are. */
  readonly aim: number;
  readonly twist: 'none' | 'port' | 'protocol' | 'unallocated' | 'backend';
}

export interface Step {
  readonly changes: readonly RecordChange[];
  readonly facts: NodeFacts | null;
  readonly config: Partial<ModelConfig> | null;
  /** The agent ends and the next one takes over. */
  readonly restart: boolean;
  readonly flows: readonly FlowDraft[];
}

export interface Case {
  readonly config: ModelConfig;
  readonly facts: NodeFacts;
  readonly steps: readonly Step[];
}

const protocol = fc.constantFrom('TCP', 'TCP', 'TCP', 'UDP', 'UDP', 'SCTP');
const portName = fc.constantFrom('', '', '', 'a', 'b');
const policy = fc.constantFrom('Cluster', 'Local');
/** Rarely: another configuration makes dataplanes look at all of the node anew, and what has to be noticed alone is not seen. */
const oneIn = <T>(count: number, arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | null> =>
  fc.oneof({ weight: count - 1, arbitrary: fc.constant(null) }, { weight: 1, arbitrary });
const someOf = <T>(list: readonly T[], maxLength = list.length) => fc.subarray([...list], { maxLength });

/** Addresses of nobody, one of the node (as the balancer of a small cluster gives out), and a cluster IP. */
const EXTERNAL = [
  '198.18.0.1',
  '198.18.0.2',
  '192.0.2.11',
  '10.200.1.1',
  '2001:db8:18::1',
  '2001:db8::11',
].map(ip);
const RANGES = [
  ...[
    '192.0.2.0/24',
    '192.0.2.111/32',
    '198.51.100.0/24',
    '10.10.0.0/16',
    '10.10.1.1/32',
    '203.0.113.0/29',
    '0.0.0.0/0',
  ],
  ...['2001:db8::/64', '2001:db8:f::/48', 'fd00:10:10::/48', 'fd00:10:10:1::1/128', '::/0'],
].map(net);
const CLUSTER_IPS = [
  ['10.200.1.1'],
  ['10.200.1.2'],
  ['10.200.1.3', 'fd00:10:200::3'],
  ['fd00:10:200::4', '10.200.1.4'],
  ['fd00:10:200::5'],
].map((list) => list.map(ip));

const servicePort = fc.record({
  name: portName,
  protocol,
  port: fc.constantFrom(80, 81, 9000),
  nodePort: fc.constantFrom(0, 30000, 30001, 30002),
});

const service: fc.Arbitrary<ServiceRecord> = fc.record({
  kind: fc.constant('Service'),
  namespace: fc.constant('x'),
  name: fc.constantFrom('a', 'b', 'c'),
  uid: fc.constant(''),
  createdMs: fc.constantFrom(0, 1000, 2000),
  type: fc.constantFrom('ClusterIP', 'NodePort', 'LoadBalancer', 'LoadBalancer'),
  clusterIPs: fc.constantFrom(...CLUSTER_IPS),
  externalIPs: someOf(EXTERNAL, 2),
  loadBalancerIPs: someOf(EXTERNAL, 2),
  sourceRanges: fc.oneof(
    { weight: 2, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: someOf(RANGES, 4) },
  ),
  ports: fc.uniqueArray(servicePort, { selector: ({ name }) => name, minLength: 1, maxLength: 3 }),
  externalPolicy: policy,
  internalPolicy: fc.constantFrom('Cluster', 'Cluster', 'Local'),
  affinitySeconds: fc.constantFrom(0, 0, 10_800),
  healthCheckNodePort: fc.constantFrom(0, 32000),
  settings: fc.constant({}),
});

const zones = fc.constantFrom<string[]>([], [], ['east'], ['west'], ['east', 'west']);
const nodes = fc.constantFrom<string[]>([], [], [THIS], [THAT]);
const conditions = fc.constantFrom(
  ...Array.from({ length: 5 }, () => ({ ready: true, serving: true, terminating: false })),
  { ready: false, serving: true, terminating: true },
  { ready: false, serving: true, terminating: true },
  { ready: false, serving: false, terminating: true },
  { ready: false, serving: false, terminating: false },
  { ready: false, serving: true, terminating: false },
  { ready: true, serving: true, terminating: true },
);

const hostsOf = (at: 0 | 1): (readonly [string, string])[] => [
  ...[PODS.L1, PODS.L4].map((own) => [own[at], THIS] as const),
  ...[REMOTE.R2, REMOTE.R3, REMOTE.R9].map((own) => [own[at], THAT] as const),
];
const HOSTS = { 4: hostsOf(0), 6: hostsOf(1) };

const endpoint = (family: 4 | 6): fc.Arbitrary<EndpointRecord> =>
  fc
    .record({
      host: fc.constantFrom(...HOSTS[family]),
      lost: fc.constantFrom(false, false, false, false, false, true),
      conditions,
      zoneHints: zones,
      nodeHints: nodes,
    })
    .map(({ host: [address, nodeName], lost, conditions: state, zoneHints, nodeHints }) => ({
      address: ip(address),
      nodeName: lost ? '' : nodeName,
      ...state,
      zone: '',
      zoneHints,
      nodeHints,
    }));

const slicePort = fc.record({
  name: portName,
  protocol,
  port: fc.constantFrom(0, ...BACKEND_PORTS, ...BACKEND_PORTS),
});
/** The usual slice serves what services ask for: an unnamed port of each protocol. */
const usualPorts = fc
  .constantFrom(...BACKEND_PORTS)
  .map((port) =>
    (['TCP', 'UDP'] as const).flatMap((one) => ['', 'a', 'b'].map((name) => ({ name, protocol: one, port }))),
  );

const slice: fc.Arbitrary<SliceRecord> = fc.constantFrom<(4 | 6)[]>(4, 4, 6).chain((family) =>
  fc.record({
    kind: fc.constant('EndpointSlice'),
    namespace: fc.constant('x'),
    name: fc.constantFrom(`s1-${family}`, `s2-${family}`, `s3-${family}`),
    serviceName: fc.constantFrom('a', 'b', 'c'),
    family: fc.constant(family),
    ports: fc.oneof(
      { weight: 3, arbitrary: usualPorts },
      { weight: 1, arbitrary: fc.array(slicePort, { maxLength: 3 }) },
    ),
    endpoints: fc.array(endpoint(family), { maxLength: 5 }),
    triggerMs: fc.constant(0),
  }),
);

const node: fc.Arbitrary<NodeRecord> = fc
  .record({
    name: fc.constantFrom(THIS, THIS, THAT),
    zone: fc.constantFrom('', 'east', 'west'),
    podCIDRs: someOf(['10.10.1.0/24', 'fd00:10:10:1::/64'].map(net)),
  })
  .map(nodeRecord);

const serviceCidr: fc.Arbitrary<ServiceCidrRecord> = fc.record({
  kind: fc.constant('ServiceCIDR'),
  name: fc.constantFrom('one', 'two'),
  cidrs: someOf(['10.200.0.0/16', '10.200.1.0/24', '10.201.0.0/16', 'fd00:10:200::/112'].map(net), 2),
});

const record: fc.Arbitrary<ClusterRecord> = fc.oneof(
  { weight: 5, arbitrary: service },
  { weight: 7, arbitrary: slice },
  { weight: 1, arbitrary: node },
  { weight: 1, arbitrary: serviceCidr },
);

const deletion = (kind: RecordKind, ...keys: string[]): fc.Arbitrary<RecordChange> =>
  fc.constantFrom(...keys).map((key) => ({ op: 'delete', kind, key }));

const change: fc.Arbitrary<RecordChange> = fc.oneof(
  { weight: 8, arbitrary: record.map((one): RecordChange => ({ op: 'set', record: one })) },
  { weight: 1, arbitrary: deletion('Service', 'x/a', 'x/b', 'x/c') },
  { weight: 1, arbitrary: deletion('EndpointSlice', 'x/s1-4', 'x/s2-4', 'x/s3-4', 'x/s1-6', 'x/s2-6') },
  { weight: 1, arbitrary: deletion('ServiceCIDR', 'one', 'two') },
);

const OWN = NODE.map(ip);
/** Addresses come to the node and leave it, and another one is its primary one; NodePorts listen on some of them. */
const facts: fc.Arbitrary<NodeFacts> = fc
  .tuple(someOf(OWN.slice(2)), fc.boolean())
  .map(([more, first]) => (first ? [...more, ...OWN.slice(0, 2)] : [...OWN.slice(0, 2), ...more]))
  .chain((own) =>
    someOf([...own, ip('127.0.0.1')]).map((list) => ({ nodePortAddresses: list, nodeAddresses: own })),
  );

const BOTH = CONFIG.clusterCIDRs;
const config: fc.Arbitrary<ModelConfig> = fc
  .record({
    detect: fc.constantFrom<Partial<ModelConfig>[]>(
      ...[
        {},
        {},
        {},
        { clusterCIDRs: [] },
        { clusterCIDRs: BOTH.slice(0, 1) },
        { clusterCIDRs: BOTH.slice(1) },
      ],
      { clusterCIDRs: [net('10.10.0.0/16'), net('192.0.2.0/24'), net('fd00:10:10::/48')] },
      { detectMode: 'NodeCIDR' },
      { detectMode: 'InterfaceNamePrefix', prefix: 'veth' },
      { detectMode: 'BridgeInterface', bridge: 'veth1' },
    ),
    masqueradeAll: fc.constantFrom(false, false, false, true),
    serviceCIDRs: fc.constantFrom(CONFIG.serviceCIDRs, CONFIG.serviceCIDRs, []),
  })
  .map(({ detect, ...rest }) => ({ ...CONFIG, ...rest, ...detect }));

const flow: fc.Arbitrary<FlowDraft> = fc.record({
  from: fc.constantFrom<HostName[]>(
    'pod',
    'L1',
    'L4',
    'remote-pod',
    'R2',
    'node',
    'node',
    'outside',
    'outside',
    'other',
  ),
  family: fc.constantFrom<(4 | 6)[]>(4, 4, 6),
  proto: fc.constantFrom('tcp', 'udp'),
  via: fc.constantFrom('packet', 'socket'),
  twin: fc.constantFrom(false, false, true),
  connected: fc.boolean(),
  close: fc.constantFrom('fin', 'rst'),
  bound: fc.boolean(),
  aim: fc.nat({ max: 1000 }),
  twist: fc.constantFrom(
    'none',
    'none',
    'none',
    'none',
    'none',
    'none',
    'none',
    'port',
    'protocol',
    'unallocated',
    'backend',
  ),
});

/** @param flows of each step */
export function arbitraryCase(flows: number): fc.Arbitrary<Case> {
  const step: fc.Arbitrary<Step> = fc.record({
    changes: fc.array(change, { minLength: 1, maxLength: 6 }),
    facts: oneIn(3, facts),
    config: oneIn(12, config),
    restart: fc.constantFrom(false, false, false, false, false, false, false, true),
    flows: fc.array(flow, { minLength: Math.floor(flows / 2), maxLength: flows }),
  });
  const first: fc.Arbitrary<Step> = fc.record({
    changes: fc
      .tuple(
        fc.array(service, { minLength: 2, maxLength: 3 }),
        fc.array(slice, { minLength: 2, maxLength: 5 }),
      )
      .map((lists) => lists.flat().map((one): RecordChange => ({ op: 'set', record: one }))),
    facts: fc.constant(null),
    config: fc.constant(null),
    restart: fc.constant(false),
    flows: fc.array(flow, { minLength: Math.floor(flows / 2), maxLength: flows }),
  });
  return fc.record({
    config,
    facts: fc.oneof(
      {
        weight: 3,
        arbitrary: fc.constant({ nodePortAddresses: OWN, nodeAddresses: OWN }),
      },
      { weight: 1, arbitrary: facts },
    ),
    steps: fc.tuple(first, fc.array(step, { maxLength: 6 })).map(([one, more]) => [one, ...more]),
  });
}
