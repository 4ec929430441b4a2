/**
 * The conformance table: cluster state, a packet, and what becomes of it. decide() is tested with it here;
 * the dataplanes are tested with it against real kernels. Every row is named after what it shows.
 */
import type { ModelConfig } from '../../src/model/change.ts';
import type { ServiceRecord, SliceRecord } from '../../src/model/records.ts';
import { FOUND } from './conformance-found.ts';
import { GRID } from './conformance-grid.ts';
import { OBJECTS } from './conformance-objects.ts';
import { SERVICES } from './conformance-services.ts';
import {
  type ConformanceRow,
  type Expectation,
  type Line,
  rowsOf,
  type Scene,
  type Sender,
} from './scenes.ts';
import {
  CLUSTER_DETECTOR,
  DEAD,
  endpoint,
  FACTS,
  ip,
  NOT_READY,
  net,
  nodeRecord,
  service,
  slice,
  TERMINATING,
  THAT,
  THIS,
} from './world.ts';

export type { ConformanceRow, Expectation } from './scenes.ts';

/** One local and two remote backends, unless a scene says otherwise. */
const L = '10.10.1.1 80';
const R2 = '10.10.2.2 80';
const R3 = '10.10.2.3 80';
const THREE = slice(['10.10.1.1', '10.10.2.2', '10.10.2.3']);
const REMOTE = slice(['10.10.2.2', '10.10.2.3']);
const L6 = 'fd00:10:10:1::1 80';
const R6 = 'fd00:10:10:2::2 80';
const SIX = slice(['fd00:10:10:1::1', 'fd00:10:10:2::2']);

const CLUSTER_IP = '10.200.1.10 9000';
const EXTERNAL_IP = '198.18.1.1 9000';
const LB_IP = '198.18.0.1 9000';
const NODE_PORT = '192.0.2.11 30000';

const all = (masquerade: 'yes' | 'no' | 'hairpin'): Expectation => ({ to: [L, R2, R3], masquerade });
const only = (masquerade: 'yes' | 'no' | 'hairpin', ...to: string[]): Expectation => ({ to, masquerade });

/** A service with every kind of frontend. */
function exposed(over: Partial<ServiceRecord> = {}): ServiceRecord {
  return service({
    type: 'LoadBalancer',
    externalIPs: [ip('198.18.1.1')],
    loadBalancerIPs: [ip('198.18.0.1')],
    ports: [{ name: '', protocol: 'TCP', port: 9000, nodePort: 30000 }],
    ...over,
  });
}

const EXTERNALS = [
  ['external IP', EXTERNAL_IP],
  ['load-balancer IP', LB_IP],
  ['NodePort', NODE_PORT],
] as const;

/** The same lines for each kind of external frontend. */
function onEachExternal(lines: readonly [Sender, Expectation][]): Line[] {
  return EXTERNALS.flatMap(([kind, to]) =>
    lines.map(([from, expect]): Line => [`${from} to ${kind}`, from, to, expect]),
  );
}

const BASICS: readonly Scene[] = [
  {
    title: 'ClusterIP',
    rule: 'cluster-ip',
    records: [service(), THREE],
    lines: [
      ['a pod is not masqueraded', 'pod', CLUSTER_IP, all('no')],
      ['a pod of another node is a pod by cluster CIDR', 'remote pod', CLUSTER_IP, all('no')],
      ['the node is no pod: masqueraded', 'node', CLUSTER_IP, all('yes')],
      ['an outside client is masqueraded', 'outside', CLUSTER_IP, all('yes')],
      ['a backend that may reach itself', 'backend 1', CLUSTER_IP, all('hairpin'), 'hairpin'],
      ['undefined port, TCP', 'pod', '10.200.1.10 9001', 'tcp-reset', 'undefined-port'],
      ['undefined port, UDP', 'pod', '10.200.1.10 9000/UDP', 'port-unreachable', 'undefined-port'],
      ['undefined port, SCTP', 'pod', '10.200.1.10 9000/SCTP', 'port-unreachable', 'undefined-port'],
      ['undefined port from the node', 'node', '10.200.1.10 80', 'tcp-reset', 'undefined-port'],
      ['the target port is no service port', 'pod', '10.200.1.10 80', 'tcp-reset', 'undefined-port'],
      ['unallocated address of the ServiceCIDR', 'pod', '10.200.1.11 9000', 'drop', 'service-cidr'],
      [
        'unallocated address of the ServiceCIDR, from outside',
        'outside',
        '10.200.1.11 9000/UDP',
        'drop',
        'service-cidr',
      ],
      ['unallocated address of the IPv6 ServiceCIDR', 'pod', 'fd00:10:200::9 9000', 'drop', 'service-cidr'],
      ['an address of nobody', 'pod', '203.0.113.9 9000', 'pass', 'untouched'],
      ['a backend reached directly', 'pod', '10.10.2.2 80', 'pass', 'untouched'],
      ['an IPv6 address of nobody', 'pod', '2001:db8:9::9 9000', 'pass', 'untouched'],
    ],
  },
  {
    title: 'ClusterIP with masqueradeAll',
    rule: 'masquerade-all',
    records: [service(), THREE],
    config: { masqueradeAll: true },
    lines: [
      ['a pod is masqueraded', 'pod', CLUSTER_IP, all('yes')],
      ['an outside client is masqueraded', 'outside', CLUSTER_IP, all('yes')],
    ],
  },
  {
    title: 'no ServiceCIDR is known',
    rule: 'service-cidr',
    records: [service(), THREE],
    config: { serviceCIDRs: [] },
    lines: [
      ['an unallocated address passes', 'pod', '10.200.1.11 9000', 'pass'],
      ['an undefined port is still refused', 'pod', '10.200.1.10 1', 'tcp-reset', 'undefined-port'],
    ],
  },
  {
    title: 'a ServiceCIDR record',
    rule: 'service-cidr',
    records: [{ kind: 'ServiceCIDR', name: 'more', cidrs: [net('10.201.0.0/16')] }],
    lines: [
      ['its addresses are dropped', 'pod', '10.201.3.4 80', 'drop'],
      ['those configured are too', 'pod', '10.200.1.77 80', 'drop'],
    ],
  },
  {
    title: 'TCP, UDP and SCTP on one port number',
    rule: 'ports',
    records: [
      service({
        ports: [
          { name: 't', protocol: 'TCP', port: 53, nodePort: 0 },
          { name: 'u', protocol: 'UDP', port: 53, nodePort: 0 },
          { name: 's', protocol: 'SCTP', port: 53, nodePort: 0 },
        ],
      }),
      slice(['10.10.1.1'], {
        ports: [
          { name: 't', protocol: 'TCP', port: 5301 },
          { name: 'u', protocol: 'UDP', port: 5302 },
          { name: 's', protocol: 'SCTP', port: 5303 },
        ],
      }),
    ],
    lines: [
      ['TCP', 'pod', '10.200.1.10 53', only('no', '10.10.1.1 5301')],
      ['UDP', 'pod', '10.200.1.10 53/UDP', only('no', '10.10.1.1 5302')],
      ['SCTP', 'pod', '10.200.1.10 53/SCTP', only('no', '10.10.1.1 5303')],
    ],
  },
  {
    title: 'a port name that the slices do not have',
    rule: 'ports',
    records: [
      service({ ports: [{ name: 'http', protocol: 'TCP', port: 9000, nodePort: 0 }] }),
      slice(['10.10.1.1'], { ports: [{ name: 'https', protocol: 'TCP', port: 443 }] }),
    ],
    lines: [['is a service without endpoints', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
  {
    title: 'one port name with two target ports',
    rule: 'ports',
    records: [
      service(),
      slice(['10.10.1.1']),
      slice(['10.10.2.2'], { name: 'web-b', ports: [{ name: '', protocol: 'TCP', port: 8080 }] }),
    ],
    lines: [['both are backends', 'pod', CLUSTER_IP, only('no', L, '10.10.2.2 8080')]],
  },
];

const EXTERNAL: readonly Scene[] = [
  {
    title: 'externalTrafficPolicy: Cluster',
    rule: 'external-cluster',
    records: [exposed(), THREE],
    lines: [
      ...onEachExternal([
        ['outside', all('yes')],
        ['pod', all('yes')],
        ['node', all('yes')],
        ['backend 1', all('yes')],
      ]),
      ['another port of the external IP passes', 'outside', '198.18.1.1 9001', 'pass', 'untouched'],
      ['another port of the load-balancer IP passes', 'outside', '198.18.0.1 9001', 'pass', 'untouched'],
      ['another port of the node passes', 'outside', '192.0.2.11 30001', 'pass', 'untouched'],
      ['another protocol on the NodePort passes', 'outside', '192.0.2.11 30000/UDP', 'pass', 'untouched'],
      ['the service port is none of the node', 'outside', '192.0.2.11 9000', 'pass', 'untouched'],
      [
        'an address of the node without NodePorts passes',
        'outside',
        '192.0.2.111 30000',
        'pass',
        'untouched',
      ],
      ['the NodePort is none of the ClusterIP', 'pod', '10.200.1.10 30000', 'tcp-reset', 'undefined-port'],
      ['a pod to the ClusterIP is still not masqueraded', 'pod', CLUSTER_IP, all('no')],
    ],
  },
  {
    title: 'externalTrafficPolicy: Local',
    rule: 'external-local',
    records: [exposed({ externalPolicy: 'Local' }), THREE],
    lines: [
      ...onEachExternal([
        ['outside', only('no', L)],
        ['pod', all('no')],
        ['remote pod', all('no')],
        ['node', all('yes')],
        ['backend 1', all('hairpin')],
      ]),
      ['does not touch the ClusterIP from a pod', 'pod', CLUSTER_IP, all('no')],
      ['does not touch the ClusterIP from outside', 'outside', CLUSTER_IP, all('yes')],
    ],
  },
  {
    title: 'externalTrafficPolicy: Local without a local endpoint',
    rule: 'external-local',
    records: [exposed({ externalPolicy: 'Local' }), REMOTE],
    lines: [
      ...onEachExternal([
        ['outside', 'drop'],
        ['pod', only('no', R2, R3)],
        ['node', only('yes', R2, R3)],
      ]),
      ['the ClusterIP works', 'pod', CLUSTER_IP, only('no', R2, R3)],
    ],
  },
  {
    title: 'no endpoint anywhere',
    rule: 'no-endpoint',
    records: [exposed()],
    lines: [
      ...onEachExternal([
        ['outside', 'tcp-reset'],
        ['pod', 'tcp-reset'],
        ['node', 'tcp-reset'],
      ]),
      ['pod to ClusterIP', 'pod', CLUSTER_IP, 'tcp-reset'],
      ['outside to ClusterIP', 'outside', CLUSTER_IP, 'tcp-reset'],
    ],
  },
  {
    title: 'no endpoint anywhere, both policies Local',
    rule: 'no-endpoint',
    records: [exposed({ externalPolicy: 'Local', internalPolicy: 'Local' })],
    lines: [
      ...onEachExternal([
        ['outside', 'tcp-reset'],
        ['node', 'tcp-reset'],
      ]),
      ['pod to ClusterIP', 'pod', CLUSTER_IP, 'tcp-reset'],
    ],
  },
  {
    title: 'no endpoint anywhere, UDP',
    rule: 'no-endpoint',
    records: [service({ ports: [{ name: '', protocol: 'UDP', port: 53, nodePort: 0 }] })],
    lines: [['is told by ICMP', 'pod', '10.200.1.10 53/UDP', 'port-unreachable']],
  },
  {
    title: 'internalTrafficPolicy: Local',
    rule: 'internal-local',
    records: [exposed({ internalPolicy: 'Local' }), THREE],
    lines: [
      ['a pod gets the local endpoint', 'pod', CLUSTER_IP, only('no', L)],
      ['the node gets the local endpoint', 'node', CLUSTER_IP, only('yes', L)],
      ['so does an outside client', 'outside', CLUSTER_IP, only('yes', L)],
      ['hairpin', 'backend 1', CLUSTER_IP, only('hairpin', L), 'hairpin'],
      ...onEachExternal([
        ['outside', all('yes')],
        ['pod', all('yes')],
        ['node', all('yes')],
      ]),
    ],
  },
  {
    title: 'internalTrafficPolicy: Local without a local endpoint',
    rule: 'internal-local',
    records: [exposed({ internalPolicy: 'Local' }), REMOTE],
    lines: [
      ['a pod is dropped', 'pod', CLUSTER_IP, 'drop'],
      ['the node is dropped', 'node', CLUSTER_IP, 'drop'],
      ['an outside client is dropped', 'outside', CLUSTER_IP, 'drop'],
      ...onEachExternal([['outside', only('yes', R2, R3)]]),
    ],
  },
  {
    title: 'internalTrafficPolicy: Local, nothing else uses the remote endpoints',
    rule: 'internal-local',
    records: [service({ internalPolicy: 'Local' }), REMOTE],
    lines: [['they still make it a drop, no reject', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'both policies Local',
    rule: 'internal-local',
    records: [exposed({ externalPolicy: 'Local', internalPolicy: 'Local' }), THREE],
    lines: [
      ['ClusterIP gives the local endpoint', 'pod', CLUSTER_IP, only('no', L)],
      ...onEachExternal([
        ['outside', only('no', L)],
        ['pod', all('no')],
        ['node', all('yes')],
      ]),
    ],
  },
  {
    title: 'externalTrafficPolicy: Local on a ClusterIP service with external IPs',
    rule: 'external-local',
    records: [service({ externalIPs: [ip('198.18.1.1')], externalPolicy: 'Local' }), THREE],
    lines: [['counts', 'outside', EXTERNAL_IP, only('no', L)]],
  },
  {
    title: 'externalTrafficPolicy: Local left on a ClusterIP service with a load-balancer status',
    rule: 'external-local',
    records: [service({ loadBalancerIPs: [ip('198.18.0.1')], externalPolicy: 'Local' }), THREE],
    lines: [['does not count', 'outside', LB_IP, all('yes')]],
  },
  {
    title: 'NodePorts without addresses of the node',
    rule: 'node-ports',
    records: [exposed(), THREE],
    facts: { ...FACTS, nodePortAddresses: [] },
    lines: [['listen nowhere', 'outside', NODE_PORT, 'pass']],
  },
  {
    title: 'NodePorts on several addresses',
    rule: 'node-ports',
    records: [exposed(), THREE],
    facts: { ...FACTS, nodePortAddresses: ['127.0.0.1', '192.0.2.11', '192.0.2.111', '::1'].map(ip) },
    lines: [
      ['listen on the first', 'outside', NODE_PORT, all('yes')],
      ['listen on the second', 'outside', '192.0.2.111 30000', all('yes')],
      ['listen on the second for the node too', 'node', '192.0.2.111 30000', all('yes')],
      ['of the node, from another of its addresses', 'node as second', NODE_PORT, all('yes')],
      ['never on a loopback address', 'node', '127.0.0.1 30000', 'pass'],
    ],
  },
];

const SOURCE_RANGES: readonly Scene[] = [
  {
    title: 'loadBalancerSourceRanges',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: [net('198.51.100.0/24')] }), THREE],
    lines: [
      ['a source within', 'outside', LB_IP, all('yes')],
      ['a source beside', 'other outside', LB_IP, 'drop'],
      ['pods are not excepted', 'pod', LB_IP, 'drop'],
      ['the node is not excepted', 'node', LB_IP, 'drop'],
      ['the load-balancer address as source, when the node is not within', 'node as LB', LB_IP, 'drop'],
      ['NodePorts are not guarded', 'other outside', NODE_PORT, all('yes')],
      ['external IPs are not guarded', 'other outside', EXTERNAL_IP, all('yes')],
      ['the ClusterIP is not guarded', 'pod', CLUSTER_IP, all('no')],
      ['another port is not guarded', 'other outside', '198.18.0.1 9001', 'pass'],
    ],
  },
  {
    title: 'loadBalancerSourceRanges with this node within',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: [net('192.0.2.0/24')] }), THREE],
    lines: [
      ['the node', 'node', LB_IP, all('yes')],
      ['the load-balancer address as source', 'node as LB', LB_IP, all('yes')],
      ['outside', 'outside', LB_IP, 'drop'],
    ],
  },
  {
    title: 'loadBalancerSourceRanges with only a secondary address of this node within',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: [net('192.0.2.111/32')] }), THREE],
    lines: [['the load-balancer address as source', 'node as LB', LB_IP, 'drop']],
  },
  {
    title: 'loadBalancerSourceRanges that overlap',
    rule: 'source-ranges',
    records: [
      exposed({ sourceRanges: ['198.51.100.7/32', '198.51.0.0/16', '10.10.1.0/24'].map(net) }),
      THREE,
    ],
    lines: [
      ['a source within both', 'outside', LB_IP, all('yes')],
      ['a pod within', 'pod', LB_IP, all('yes')],
      ['a pod beside', 'remote pod', LB_IP, 'drop'],
    ],
  },
  {
    title: 'loadBalancerSourceRanges of everything',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: ['10.0.0.0/8', '0.0.0.0/0'].map(net) }), THREE],
    lines: [['are none', 'other outside', LB_IP, all('yes')]],
  },
  {
    title: 'loadBalancerSourceRanges only of the other family',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: [net('2001:db8:f::/48')] }), THREE],
    lines: [['are none', 'other outside', LB_IP, all('yes')]],
  },
  {
    title: 'loadBalancerSourceRanges and no endpoint',
    rule: 'source-ranges',
    records: [exposed({ sourceRanges: [net('198.51.100.0/24')] })],
    lines: [
      ['within: refused', 'outside', LB_IP, 'tcp-reset'],
      ['beside: the guard comes first', 'other outside', LB_IP, 'drop'],
    ],
  },
  {
    title: 'loadBalancerSourceRanges with externalTrafficPolicy: Local',
    rule: 'source-ranges',
    records: [
      exposed({ externalPolicy: 'Local', sourceRanges: ['198.51.100.0/24', '10.10.0.0/16'].map(net) }),
      THREE,
    ],
    lines: [
      ['outside within', 'outside', LB_IP, only('no', L)],
      ['outside beside', 'other outside', LB_IP, 'drop'],
      ['pod within', 'pod', LB_IP, all('no')],
      ['the node beside', 'node', LB_IP, 'drop'],
    ],
  },
  {
    title: 'an address that is external IP and load-balancer IP at once',
    rule: 'source-ranges',
    records: [exposed({ externalIPs: [ip('198.18.0.1')], sourceRanges: [net('198.51.100.0/24')] }), THREE],
    lines: [
      ['is guarded: within', 'outside', LB_IP, all('yes')],
      ['is guarded: beside', 'other outside', LB_IP, 'drop'],
    ],
  },
];

const ready = (address: string, zones: string[], nodes: string[] = []) =>
  endpoint(address, { zoneHints: zones, nodeHints: nodes });

/** Endpoints and what a pod gets through the ClusterIP and an outside client through a Local NodePort. */
function topology(
  title: string,
  endpoints: SliceRecord['endpoints'],
  cluster: Expectation,
  local: Expectation,
  zone = 'east',
): Scene {
  return {
    title,
    rule: /hints/.test(title) ? 'hints' : 'readiness',
    records: [exposed({ externalPolicy: 'Local' }), slice(endpoints), nodeRecord({ zone })],
    lines: [
      ['Cluster pool', 'pod', CLUSTER_IP, cluster],
      ['Local pool', 'outside', NODE_PORT, local],
    ],
  };
}

const ENDPOINTS: readonly Scene[] = [
  topology(
    'terminating beside ready',
    [endpoint('10.10.1.1', TERMINATING), endpoint('10.10.2.2')],
    only('no', R2),
    only('no', L),
  ),
  topology(
    'only terminating',
    [endpoint('10.10.1.1', TERMINATING), endpoint('10.10.2.2', TERMINATING), endpoint('10.10.2.3', DEAD)],
    only('no', L, R2),
    only('no', L),
  ),
  topology('terminating elsewhere', [endpoint('10.10.2.2', TERMINATING)], only('no', R2), 'drop'),
  topology(
    'local ready beside local terminating',
    [endpoint('10.10.1.1'), endpoint('10.10.1.4', TERMINATING), endpoint('10.10.2.2')],
    only('no', L, R2),
    only('no', L),
  ),
  topology(
    'not ready beside ready',
    [endpoint('10.10.1.1', NOT_READY), endpoint('10.10.2.2')],
    only('no', R2),
    'drop',
  ),
  topology('only not ready', [endpoint('10.10.1.1', NOT_READY)], 'tcp-reset', 'tcp-reset'),
  topology('only terminating that serve no more', [endpoint('10.10.1.1', DEAD)], 'tcp-reset', 'tcp-reset'),
  topology(
    'serving but neither ready nor terminating',
    [endpoint('10.10.1.1', { ready: false, serving: true })],
    'tcp-reset',
    'tcp-reset',
  ),
  topology(
    'ready though terminating (publishNotReadyAddresses)',
    [endpoint('10.10.1.1', { terminating: true })],
    only('no', L),
    only('no', L),
  ),
  topology(
    'zone hints',
    [ready('10.10.1.1', ['west']), ready('10.10.2.2', ['east']), ready('10.10.2.3', ['west', 'east'])],
    only('no', R2, R3),
    only('no', L),
  ),
  topology(
    'zone hints, one endpoint has none',
    [ready('10.10.1.1', []), ready('10.10.2.2', ['east'])],
    only('no', L, R2),
    only('no', L),
  ),
  topology(
    'zone hints, none for this zone',
    [ready('10.10.1.1', ['west']), ready('10.10.2.2', ['north'])],
    only('no', L, R2),
    only('no', L),
  ),
  topology(
    'zone hints on a node without a zone',
    [ready('10.10.1.1', ['west']), ready('10.10.2.2', ['east'])],
    only('no', L, R2),
    only('no', L),
    '',
  ),
  topology(
    'zone hints, the one without is not ready',
    [endpoint('10.10.1.1', NOT_READY), ready('10.10.2.2', ['east']), ready('10.10.2.3', ['west'])],
    only('no', R2),
    'drop',
  ),
  topology(
    'zone hints, the only one for this zone is not ready',
    [endpoint('10.10.1.1', { ...NOT_READY, zoneHints: ['east'] }), ready('10.10.2.2', ['west'])],
    only('no', R2),
    'drop',
  ),
  topology(
    'zone hints on terminating endpoints',
    [
      endpoint('10.10.1.1', { ...TERMINATING, zoneHints: ['west'] }),
      endpoint('10.10.2.2', { ...TERMINATING, zoneHints: ['east'] }),
    ],
    only('no', L, R2),
    only('no', L),
  ),
  topology(
    'node hints',
    [ready('10.10.1.1', ['east'], [THAT]), ready('10.10.2.2', ['east'], [THIS])],
    only('no', R2),
    only('no', L),
  ),
  topology(
    'node hints, one endpoint has none: zones count',
    [
      ready('10.10.1.1', ['west'], [THIS]),
      ready('10.10.2.2', ['east'], []),
      ready('10.10.2.3', ['east'], [THAT]),
    ],
    only('no', R2, R3),
    only('no', L),
  ),
  topology(
    'node hints, none for this node: zones count',
    [ready('10.10.1.1', ['west'], [THAT]), ready('10.10.2.2', ['east'], [THAT])],
    only('no', R2),
    only('no', L),
  ),
  topology(
    'node hints without zone hints, none for this node: no filter',
    [ready('10.10.1.1', [], [THAT]), ready('10.10.2.2', [], [THAT])],
    only('no', L, R2),
    only('no', L),
  ),
  {
    title: 'zone hints while the node is not known',
    rule: 'hints',
    records: [service(), slice([ready('10.10.1.1', ['west']), ready('10.10.2.2', ['east'])])],
    lines: [['no filter', 'pod', CLUSTER_IP, only('no', L, R2)]],
  },
  {
    title: 'an endpoint without a node name',
    rule: 'endpoints',
    records: [exposed({ externalPolicy: 'Local' }), slice([endpoint('10.10.1.1', { nodeName: '' })])],
    lines: [
      ['is not local', 'outside', NODE_PORT, 'drop'],
      ['is in the Cluster pool', 'pod', CLUSTER_IP, only('no', L)],
    ],
  },
  {
    title: 'an endpoint in two slices',
    rule: 'endpoints',
    records: [service(), slice(['10.10.1.1', '10.10.2.2']), slice(['10.10.1.1'], { name: 'web-b' })],
    lines: [['counts once', 'pod', CLUSTER_IP, only('no', L, R2)]],
  },
  {
    title: 'an address running in one slice and terminating in a later one',
    rule: 'endpoints',
    records: [service(), slice(['10.10.1.1']), slice([endpoint('10.10.1.1', DEAD)], { name: 'web-b' })],
    lines: [['runs', 'pod', CLUSTER_IP, only('no', L)]],
  },
  {
    title: 'an address terminating in one slice and running in a later one',
    rule: 'endpoints',
    records: [service(), slice([endpoint('10.10.1.1', DEAD)]), slice(['10.10.1.1'], { name: 'web-b' })],
    lines: [['runs', 'pod', CLUSTER_IP, only('no', L)]],
  },
  {
    title: 'a slice port without a number',
    rule: 'endpoints',
    records: [service(), slice(['10.10.1.1'], { ports: [{ name: '', protocol: 'TCP', port: 0 }] })],
    lines: [['is no endpoint', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
  {
    title: 'a slice of another namespace with the same service name',
    rule: 'endpoints',
    records: [service(), slice(['10.10.1.1'], { namespace: 'other' })],
    lines: [['is none of ours', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
];

const dual = (over: Partial<ServiceRecord> = {}) =>
  exposed({
    clusterIPs: [ip('10.200.1.10'), ip('fd00:10:200::10')],
    externalIPs: [ip('198.18.1.1'), ip('2001:db8:18:1::1')],
    loadBalancerIPs: [ip('198.18.0.1'), ip('2001:db8:18::1')],
    ...over,
  });
const all6 = (masquerade: 'yes' | 'no' | 'hairpin'): Expectation => ({ to: [L6, R6], masquerade });

const FAMILIES: readonly Scene[] = [
  {
    title: 'dual stack',
    rule: 'families',
    records: [dual({ externalPolicy: 'Local', sourceRanges: [net('2001:db8:f::/48')] }), THREE, SIX],
    lines: [
      ['pod to the IPv6 ClusterIP', 'pod', 'fd00:10:200::10 9000', all6('no')],
      ['outside to the IPv6 ClusterIP', 'outside', 'fd00:10:200::10 9000', all6('yes')],
      ['IPv6 hairpin', 'backend 1', 'fd00:10:200::10 9000', all6('hairpin'), 'hairpin'],
      ['undefined port of the IPv6 ClusterIP', 'pod', 'fd00:10:200::10 9001', 'tcp-reset', 'undefined-port'],
      ['outside to the IPv6 external IP', 'outside', '2001:db8:18:1::1 9000', only('no', L6)],
      ['outside to the IPv6 NodePort', 'outside', '2001:db8::11 30000', only('no', L6)],
      ['node to the IPv6 NodePort', 'node', '2001:db8::11 30000', all6('yes')],
      ['IPv6 source within', 'outside', '2001:db8:18::1 9000', only('no', L6)],
      ['IPv6 source beside', 'other outside', '2001:db8:18::1 9000', 'drop'],
      ['IPv4 has no ranges', 'other outside', LB_IP, only('no', L)],
      ['IPv4 ClusterIP', 'pod', CLUSTER_IP, all('no')],
    ],
  },
  {
    title: 'dual stack with endpoints of one family',
    rule: 'families',
    records: [dual(), THREE],
    lines: [
      ['the other is refused', 'pod', 'fd00:10:200::10 9000', 'tcp-reset'],
      ['this one works', 'pod', CLUSTER_IP, all('no')],
    ],
  },
  {
    title: 'single stack with external addresses of both families',
    rule: 'families',
    records: [dual({ clusterIPs: [ip('10.200.1.10')] }), THREE, SIX],
    lines: [
      ['only those of its family are served', 'outside', '2001:db8:18::1 9000', 'pass'],
      ['no NodePort of the other family', 'outside', '2001:db8::11 30000', 'pass'],
      ['its own works', 'outside', LB_IP, all('yes')],
    ],
  },
  {
    title: 'IPv6 source ranges with this node within',
    rule: 'source-ranges',
    records: [dual({ sourceRanges: [net('2001:db8::/64')] }), SIX],
    lines: [
      ['the load-balancer address as source', 'node as LB', '2001:db8:18::1 9000', all6('yes')],
      ['outside', 'outside', '2001:db8:18::1 9000', 'drop'],
    ],
  },
];

/** What the senders get with a detector: through the ClusterIP, and through a Local external IP. */
function detection(
  title: string,
  config: Partial<ModelConfig>,
  lines: readonly [Sender, Expectation, Expectation][],
): Scene {
  return {
    title,
    rule: 'detector',
    config: { ...CLUSTER_DETECTOR, clusterCIDRs: [], ...config },
    records: [exposed({ externalPolicy: 'Local' }), THREE, nodeRecord()],
    lines: lines.flatMap(([from, internal, external]): Line[] => [
      [`${from} to the ClusterIP`, from, CLUSTER_IP, internal],
      [`${from} to an external IP with Local`, from, EXTERNAL_IP, external],
    ]),
  };
}

const DETECTION: readonly Scene[] = [
  detection('no detector', {}, [
    ['pod', all('no'), only('no', L)],
    ['node', all('no'), all('yes')],
    ['outside', all('no'), only('no', L)],
    ['backend 1', all('hairpin'), only('hairpin', L)],
  ]),
  detection('no detector for this family', { clusterCIDRs: [net('fd00:10:10::/48')] }, [
    ['pod', all('no'), only('no', L)],
    ['node', all('no'), all('yes')],
    ['outside', all('no'), only('no', L)],
  ]),
  detection('node CIDR', { detectMode: 'NodeCIDR' }, [
    ['pod', all('no'), all('no')],
    ['remote pod', all('yes'), only('no', L)],
    ['node', all('yes'), all('yes')],
    ['outside', all('yes'), only('no', L)],
  ]),
  detection('bridge interface', { detectMode: 'BridgeInterface', bridge: 'cni0' }, [
    ['pod', all('no'), all('no')],
    ['remote pod', all('yes'), only('no', L)],
    ['node', all('yes'), all('yes')],
    ['outside', all('yes'), only('no', L)],
  ]),
  detection('another bridge', { detectMode: 'BridgeInterface', bridge: 'cni' }, [
    ['pod', all('yes'), only('no', L)],
  ]),
  detection('interface prefix', { detectMode: 'InterfaceNamePrefix', prefix: 'cni' }, [
    ['pod', all('no'), all('no')],
    ['remote pod', all('yes'), only('no', L)],
    ['node', all('yes'), all('yes')],
  ]),
  {
    title: 'a cluster CIDR that holds the node itself',
    rule: 'detector',
    config: { clusterCIDRs: [net('192.0.2.0/24')] },
    records: [exposed({ externalPolicy: 'Local' }), THREE],
    lines: [['the node counts as a pod: not masqueraded', 'node', EXTERNAL_IP, all('no')]],
  },
];

const rival = (over: Partial<ServiceRecord>) =>
  service({ name: 'rival', clusterIPs: [ip('10.200.1.20')], ...over });
const RIVAL_SLICE = slice(['10.10.2.9'], { name: 'rival-4', serviceName: 'rival' });
const RIVAL = '10.10.2.9 80';

const CONTESTED: readonly Scene[] = [
  {
    title: 'an external IP of two services',
    rule: 'contested',
    records: [
      service({ createdMs: 2000, externalIPs: [ip('198.18.1.1')] }),
      rival({ createdMs: 1000, externalIPs: [ip('198.18.1.1')] }),
      THREE,
      RIVAL_SLICE,
    ],
    lines: [
      ['the older has it', 'outside', EXTERNAL_IP, only('yes', RIVAL)],
      ['the younger keeps its ClusterIP', 'pod', CLUSTER_IP, all('no')],
    ],
  },
  {
    title: 'an external IP of two services of the same age',
    rule: 'contested',
    records: [
      service({ externalIPs: [ip('198.18.1.1')] }),
      rival({ externalIPs: [ip('198.18.1.1')] }),
      THREE,
      RIVAL_SLICE,
    ],
    lines: [['the first by name has it', 'outside', EXTERNAL_IP, only('yes', RIVAL)]],
  },
  {
    title: 'the NodePort of one service is the external IP and port of another',
    rule: 'contested',
    records: [
      exposed({ createdMs: 1000 }),
      rival({
        createdMs: 2000,
        externalIPs: [ip('192.0.2.11')],
        ports: [{ name: '', protocol: 'TCP', port: 30000, nodePort: 0 }],
      }),
      THREE,
      RIVAL_SLICE,
    ],
    lines: [
      ['the explicit address wins over the older NodePort', 'outside', NODE_PORT, only('yes', RIVAL)],
      ['the rest of the loser works', 'outside', LB_IP, all('yes')],
    ],
  },
  {
    title: 'the external IP of an older service is the ClusterIP and port of another',
    rule: 'contested',
    records: [
      service({ createdMs: 2000 }),
      rival({ createdMs: 1000, externalIPs: [ip('10.200.1.10')] }),
      THREE,
      RIVAL_SLICE,
    ],
    lines: [
      ['the ClusterIP wins', 'pod', CLUSTER_IP, all('no')],
      ['the loser keeps its ClusterIP', 'pod', '10.200.1.20 9000', only('no', RIVAL)],
    ],
  },
  {
    title: 'two services share a load-balancer IP on different ports',
    rule: 'contested',
    records: [
      exposed(),
      rival({
        type: 'LoadBalancer',
        loadBalancerIPs: [ip('198.18.0.1')],
        ports: [{ name: '', protocol: 'TCP', port: 9001, nodePort: 0 }],
      }),
      THREE,
      RIVAL_SLICE,
    ],
    lines: [
      ['the first', 'outside', LB_IP, all('yes')],
      ['the second', 'outside', '198.18.0.1 9001', only('yes', RIVAL)],
    ],
  },
];

const sticky = (masquerade: 'yes' | 'no' | 'hairpin', ...to: string[]): Expectation => ({
  to,
  masquerade,
  sticky: true,
});

const AFFINITY: readonly Scene[] = [
  {
    title: 'affinity',
    rule: 'affinity',
    records: [exposed({ affinitySeconds: 10_800 }), THREE],
    lines: [
      ['a pod by ClusterIP', 'pod', CLUSTER_IP, sticky('no', L, R2, R3)],
      ...onEachExternal([
        ['pod', sticky('yes', L, R2, R3)],
        ['outside', sticky('yes', L, R2, R3)],
        ['other outside', sticky('yes', L, R2, R3)],
      ]),
    ],
  },
  {
    title: 'affinity, UDP',
    rule: 'affinity',
    records: [
      exposed({ affinitySeconds: 60, ports: [{ name: '', protocol: 'UDP', port: 9000, nodePort: 30000 }] }),
      slice(['10.10.1.1', '10.10.2.2', '10.10.2.3'], { ports: [{ name: '', protocol: 'UDP', port: 80 }] }),
    ],
    lines: [
      ['a pod by ClusterIP', 'pod', `${CLUSTER_IP}/UDP`, sticky('no', L, R2, R3)],
      ['a pod by NodePort', 'pod', `${NODE_PORT}/UDP`, sticky('yes', L, R2, R3)],
      ['an outside client', 'outside', `${NODE_PORT}/UDP`, sticky('yes', L, R2, R3)],
    ],
  },
  {
    title: 'affinity, IPv6',
    rule: 'affinity',
    records: [dual({ affinitySeconds: 60 }), SIX],
    lines: [
      ['a pod by ClusterIP', 'pod', 'fd00:10:200::10 9000', sticky('no', L6, R6)],
      ['a pod by NodePort', 'pod', '2001:db8::11 30000', sticky('yes', L6, R6)],
    ],
  },
  {
    title: 'affinity with externalTrafficPolicy: Local',
    rule: 'affinity',
    records: [exposed({ externalPolicy: 'Local', affinitySeconds: 60 }), THREE],
    lines: [
      ['outside', 'outside', LB_IP, sticky('no', L)],
      ['a pod', 'pod', EXTERNAL_IP, sticky('no', L, R2, R3)],
      ['the same pod by ClusterIP', 'pod', CLUSTER_IP, sticky('no', L, R2, R3)],
    ],
  },
  {
    title: 'affinity to a backend that is gone',
    rule: 'affinity',
    records: [exposed({ externalPolicy: 'Local', affinitySeconds: 60 }), REMOTE],
    lines: [['is forgotten', 'pod', CLUSTER_IP, sticky('no', R2, R3)]],
  },
];

const SCENES = [
  ...BASICS,
  ...EXTERNAL,
  ...SOURCE_RANGES,
  ...ENDPOINTS,
  ...FAMILIES,
  ...DETECTION,
  ...CONTESTED,
  ...AFFINITY,
];

/** The table: scenes written by hand, the grid, scenes that begin from objects, and what the fuzzer has found. */
export const CONFORMANCE: readonly ConformanceRow[] = [
  ...rowsOf(SCENES),
  ...rowsOf(GRID),
  ...rowsOf(OBJECTS),
  ...rowsOf(SERVICES),
  ...FOUND,
];
