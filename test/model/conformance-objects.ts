/**
 * Scenes that begin from objects as the API or a manifest has them: what a decoder makes of a field, a label or a
 * null is shown by what becomes of a packet.
 */
import { BOTH, balanced, decoded, endpointSlice, endpoints, web } from './objects.ts';
import type { Expectation, Scene } from './scenes.ts';

const CLUSTER_IP = '10.200.1.10 9000';
const LB_IP = '198.18.0.1 9000';
const EXTERNAL_IP = '198.18.1.1 9000';
const NODE_PORT = '192.0.2.11 30000';
const L = '10.10.1.1 80';
const R2 = '10.10.2.2 80';
const to = (masquerade: 'yes' | 'no', ...backends: string[]): Expectation => ({ to: backends, masquerade });

const LOAD_BALANCERS: readonly Scene[] = [
  {
    title: 'ipMode',
    rule: 'load-balancer',
    records: decoded(
      balanced({}, [
        { ip: '198.18.0.1', ipMode: 'Proxy' },
        { ip: '198.18.0.2', ipMode: 'VIP' },
        { ip: '198.18.0.3' },
      ]),
      BOTH,
    ),
    lines: [
      ['Proxy: not served', 'outside', LB_IP, 'pass'],
      ['VIP: served', 'outside', '198.18.0.2 9000', to('yes', L, R2)],
      ['absent: served', 'pod', '198.18.0.3 9000', to('yes', L, R2)],
      ['Proxy: the NodePort is served', 'outside', NODE_PORT, to('yes', L, R2)],
    ],
  },
  {
    title: 'a load balancer with a host name only',
    rule: 'load-balancer',
    records: decoded(balanced({}, [{ hostname: 'lb.example' }]), BOTH),
    lines: [
      ['nothing to serve', 'outside', LB_IP, 'pass'],
      ['the ClusterIP is served', 'pod', CLUSTER_IP, to('no', L, R2)],
    ],
  },
  {
    title: 'loadBalancerClass and allocateLoadBalancerNodePorts: false',
    rule: 'load-balancer',
    records: decoded(
      balanced({
        loadBalancerClass: 'example.com/x',
        allocateLoadBalancerNodePorts: false,
        ports: [{ port: 9000 }],
      }),
      BOTH,
    ),
    lines: [
      ['the status is served whoever wrote it', 'outside', LB_IP, to('yes', L, R2)],
      ['no NodePort', 'outside', NODE_PORT, 'pass'],
    ],
  },
  {
    title: 'a load-balancer status left on a NodePort service',
    rule: 'load-balancer',
    records: decoded(balanced({ type: 'NodePort' }), BOTH),
    lines: [['is served', 'outside', LB_IP, to('yes', L, R2)]],
  },
  {
    title: "spec.loadBalancerIP, a wish that only the cloud's controller reads",
    rule: 'load-balancer',
    records: decoded(balanced({ loadBalancerIP: '198.18.0.9' }, []), BOTH),
    lines: [['is not served', 'outside', '198.18.0.9 9000', 'pass']],
  },
];

const ranges = (...loadBalancerSourceRanges: unknown[]) =>
  decoded(balanced({ loadBalancerSourceRanges }), BOTH);

const RANGES: readonly Scene[] = [
  {
    title: 'source ranges with blanks around them',
    rule: 'source-ranges',
    records: ranges(' 198.51.100.0/24 '),
    lines: [
      ['within', 'outside', LB_IP, to('yes', L, R2)],
      ['beside', 'other outside', LB_IP, 'drop'],
    ],
  },
  {
    title: 'a malformed source range beside a good one',
    rule: 'source-ranges',
    records: ranges('198.51.100.0/24', '203.0.113.0/33'),
    lines: [
      ['within the good one', 'outside', LB_IP, to('yes', L, R2)],
      ['beside', 'other outside', LB_IP, 'drop'],
    ],
  },
  {
    title: 'only malformed source ranges',
    rule: 'source-ranges',
    records: ranges('everybody'),
    lines: [
      ['let nobody in', 'outside', LB_IP, 'drop'],
      ['guard no NodePort', 'outside', NODE_PORT, to('yes', L, R2)],
    ],
  },
  {
    title: 'source ranges of empty strings',
    rule: 'source-ranges',
    records: ranges(''),
    lines: [['are none', 'outside', LB_IP, to('yes', L, R2)]],
  },
  {
    title: 'a source range with leading zeros and host bits',
    rule: 'source-ranges',
    records: ranges('198.051.100.007/24'),
    lines: [
      ['is decimal', 'outside', LB_IP, to('yes', L, R2)],
      ['beside', 'other outside', LB_IP, 'drop'],
    ],
  },
];

const WATCHED: readonly Scene[] = [
  {
    title: 'a Service with the label service-proxy-name',
    rule: 'watched',
    records: decoded(
      web({ metadata: { labels: { 'service.kubernetes.io/service-proxy-name': 'other' } } }),
      BOTH,
    ),
    lines: [['is somebody else’s', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'a Service with the label service-proxy-name, empty',
    rule: 'watched',
    records: decoded(web({ metadata: { labels: { 'service.kubernetes.io/service-proxy-name': '' } } }), BOTH),
    lines: [['is somebody else’s too', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'a Service with the label headless and a clusterIP',
    rule: 'watched',
    records: decoded(web({ metadata: { labels: { 'service.kubernetes.io/headless': '' } } }), BOTH),
    lines: [['is served: the label counts on slices', 'pod', CLUSTER_IP, to('no', L, R2)]],
  },
  {
    title: 'a slice with the label headless',
    rule: 'watched',
    records: decoded(web(), endpointSlice({}, { 'service.kubernetes.io/headless': '' })),
    lines: [['does not count', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
  {
    title: 'a slice with the label service-proxy-name',
    rule: 'watched',
    records: decoded(web(), endpointSlice({}, { 'service.kubernetes.io/service-proxy-name': 'other' })),
    lines: [['counts: the label counts on Services', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'an ExternalName Service that has kept its clusterIP',
    rule: 'watched',
    records: decoded(web({ spec: { type: 'ExternalName', externalName: 'a.example' } }), BOTH),
    lines: [['is no frontend', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'a headless Service with external IPs',
    rule: 'watched',
    records: decoded(web({ spec: { clusterIP: 'None', externalIPs: ['198.18.1.1'] } }), BOTH),
    lines: [['is no frontend', 'outside', EXTERNAL_IP, 'pass']],
  },
  {
    title: 'a slice of names',
    rule: 'watched',
    records: decoded(
      web(),
      endpointSlice({ addressType: 'FQDN', endpoints: [{ addresses: ['a.example'] }] }),
    ),
    lines: [['does not count', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
  {
    title: 'a ClusterIP Service with a nodePort left from before',
    rule: 'node-ports',
    records: decoded(web({ spec: { ports: [{ port: 9000, nodePort: 30000 }] } }), BOTH),
    lines: [
      ['listens on no node port', 'outside', NODE_PORT, 'pass'],
      ['is served', 'pod', CLUSTER_IP, to('no', L, R2)],
    ],
  },
  {
    title: 'publishNotReadyAddresses',
    rule: 'readiness',
    records: decoded(
      web({ spec: { publishNotReadyAddresses: true } }),
      endpoints(
        { addresses: ['10.10.1.1'], conditions: { ready: true, serving: false, terminating: false } },
        { addresses: ['10.10.2.2'], conditions: { ready: false, serving: false, terminating: false } },
      ),
    ),
    lines: [['what the slice says counts', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'trafficDistribution without hints',
    rule: 'hints',
    records: decoded(web({ spec: { trafficDistribution: 'PreferSameNode' } }), BOTH),
    lines: [['hints count, not the field', 'pod', CLUSTER_IP, to('no', L, R2)]],
  },
  {
    title: 'PreferSameNode as the slice controller writes it',
    rule: 'hints',
    records: decoded(
      web({ spec: { trafficDistribution: 'PreferSameNode' } }),
      endpoints(
        {
          addresses: ['10.10.1.1'],
          nodeName: 'this',
          hints: { forZones: [{ name: 'east' }], forNodes: [{ name: 'this' }] },
        },
        {
          addresses: ['10.10.2.2'],
          nodeName: 'that',
          hints: { forZones: [{ name: 'east' }], forNodes: [{ name: 'that' }] },
        },
      ),
      {
        kind: 'Node',
        apiVersion: 'v1',
        metadata: { name: 'this', labels: { 'topology.kubernetes.io/zone': 'east' } },
      },
    ),
    lines: [
      ['the endpoint of this node', 'pod', CLUSTER_IP, to('no', L)],
      ['for the node too', 'node', CLUSTER_IP, to('yes', L)],
    ],
  },
  {
    title: 'zone hints on a Node with only the old zone label',
    rule: 'hints',
    records: decoded(
      web(),
      endpoints(
        { addresses: ['10.10.1.1'], hints: { forZones: [{ name: 'west' }] } },
        { addresses: ['10.10.2.2'], hints: { forZones: [{ name: 'east' }] } },
      ),
      {
        kind: 'Node',
        metadata: { name: 'this', labels: { 'failure-domain.beta.kubernetes.io/zone': 'east' } },
      },
    ),
    lines: [['no filter', 'pod', CLUSTER_IP, to('no', L, R2)]],
  },
];

const LENIENT: readonly Scene[] = [
  {
    title: 'nulls wherever there may be some',
    rule: 'leniency',
    records: decoded(
      web({
        metadata: { labels: null, annotations: null, creationTimestamp: null },
        spec: {
          ...{ externalIPs: null, loadBalancerSourceRanges: null, sessionAffinityConfig: null },
          ...{ internalTrafficPolicy: null, healthCheckNodePort: null, clusterIPs: null },
          ports: [{ name: null, protocol: null, port: 9000, nodePort: null, targetPort: null }],
        },
      }),
      endpointSlice({
        ports: [
          { name: null, port: 80, protocol: null, appProtocol: null },
          { name: 'x', port: null },
        ],
        endpoints: [
          {
            addresses: ['10.10.1.1'],
            conditions: null,
            nodeName: null,
            zone: null,
            hints: null,
            targetRef: null,
          },
          {
            addresses: ['10.10.2.2'],
            conditions: { ready: null, serving: null, terminating: null },
            hints: { forZones: null },
          },
        ],
      }),
    ),
    lines: [['mean that nothing is said', 'pod', CLUSTER_IP, to('no', L, R2)]],
  },
  {
    title: 'an empty status and empty lists',
    rule: 'leniency',
    records: decoded(
      web({ spec: { externalIPs: [] }, status: { loadBalancer: {} } }),
      endpointSlice({ endpoints: null }),
    ),
    lines: [['no endpoint', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
  {
    title: 'addresses with leading zeros',
    rule: 'leniency',
    records: decoded(
      web({ spec: { clusterIP: '010.200.001.010', externalIPs: ['198.018.001.001'] } }),
      endpoints({ addresses: ['010.010.001.001'] }, { addresses: ['10.10.2.2'] }),
    ),
    lines: [
      ['are decimal: ClusterIP', 'pod', CLUSTER_IP, to('no', L, R2)],
      ['are decimal: external IP', 'outside', EXTERNAL_IP, to('yes', L, R2)],
    ],
  },
  {
    title: 'an endpoint in two notations',
    rule: 'endpoints',
    records: decoded(web(), endpoints({ addresses: ['10.10.1.1'] }, { addresses: ['10.010.1.01'] })),
    lines: [['is one', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'an endpoint with several addresses',
    rule: 'endpoints',
    records: decoded(web(), endpoints({ addresses: ['10.10.1.1', '10.10.2.2'] })),
    lines: [['the first counts', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'endpoints that are refused alone',
    rule: 'leniency',
    records: decoded(
      web(),
      endpoints(
        { addresses: ['10.10.1.1'] },
        { addresses: [] },
        { addresses: ['x'] },
        { addresses: ['127.0.0.1'] },
        { addresses: ['fd00::1'] },
        {},
      ),
    ),
    lines: [['the others serve', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'external IPs that are refused alone',
    rule: 'leniency',
    records: decoded(web({ spec: { externalIPs: ['', 'x', '127.0.0.1', '198.18.1.1'] } }), BOTH),
    lines: [['the others are served', 'outside', EXTERNAL_IP, to('yes', L, R2)]],
  },
  {
    title: 'serving and terminating, ready left out',
    rule: 'readiness',
    records: decoded(web(), endpoints({ addresses: ['10.10.1.1'], conditions: { terminating: true } })),
    lines: [['ready', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'terminating and not ready, serving left out',
    rule: 'readiness',
    records: decoded(
      web(),
      endpoints({ addresses: ['10.10.1.1'], conditions: { ready: false, terminating: true } }),
    ),
    lines: [['serves as a last resort', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'not ready, nothing else said',
    rule: 'readiness',
    records: decoded(web(), endpoints({ addresses: ['10.10.1.1'], conditions: { ready: false } })),
    lines: [['no endpoint', 'pod', CLUSTER_IP, 'tcp-reset']],
  },
];

export const OBJECTS: readonly Scene[] = [...LOAD_BALANCERS, ...RANGES, ...WATCHED, ...LENIENT];
