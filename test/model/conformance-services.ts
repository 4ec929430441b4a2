/**
 * Scenes in which several things that the other scenes show one by one come together, as they do in clusters. All of
 * them were first played on a real kube-proxy (test/conformance/kube-proxy.test.ts).
 */
import { BOTH, balanced, decoded, endpointSlice, endpoints, type Json, web } from './objects.ts';
import type { Expectation, Scene } from './scenes.ts';

const CLUSTER_IP = '10.200.1.10 9000';
const LB_IP = '198.18.0.1 9000';
const EXTERNAL_IP = '198.18.1.1 9000';
const NODE_PORT = '192.0.2.11 30000';
const L = '10.10.1.1 80';
const L4 = '10.10.1.4 80';
const R2 = '10.10.2.2 80';
const R3 = '10.10.2.3 80';
const to = (masquerade: 'yes' | 'no' | 'hairpin', ...backends: string[]): Expectation => ({
  to: backends,
  masquerade,
});
const sticky = (masquerade: 'yes' | 'no', ...backends: string[]): Expectation => ({
  to: backends,
  masquerade,
  sticky: true,
});

const here = (n: number, over: Json = {}) => ({ addresses: [`10.10.1.${n}`], nodeName: 'this', ...over });
const there = (n: number, over: Json = {}) => ({ addresses: [`10.10.2.${n}`], nodeName: 'that', ...over });
const conditions = (ready: boolean, serving: boolean, terminating: boolean) => ({
  conditions: { ready, serving, terminating },
});
const TERMINATING = conditions(false, true, true);
const NOT_READY = conditions(false, false, false);
const hints = (zones: readonly string[], nodes: readonly string[] = []) => ({
  hints: { forZones: zones.map((name) => ({ name })), forNodes: nodes.map((name) => ({ name })) },
});
const named = (name: string, ports: readonly Json[], ...list: readonly Json[]) =>
  endpointSlice({
    metadata: { name, namespace: 'default', labels: { 'kubernetes.io/service-name': 'web' } },
    ports,
    endpoints: list,
  });
const NODE_IN_EAST: Json = {
  kind: 'Node',
  apiVersion: 'v1',
  metadata: { name: 'this', labels: { 'topology.kubernetes.io/zone': 'east' } },
};

const PORTS: readonly Scene[] = [
  {
    title: 'slices with other sets of ports',
    rule: 'ports',
    records: decoded(
      web({
        spec: {
          ports: [
            { name: 'http', port: 9000 },
            { name: 'https', port: 9001 },
            { name: 'admin', port: 9002 },
          ],
        },
      }),
      named('web-a', [{ name: 'http', port: 80 }], here(1)),
      named(
        'web-b',
        [
          { name: 'http', port: 8080 },
          { name: 'https', port: 443 },
        ],
        there(2),
      ),
    ),
    lines: [
      ['a port of both, with two numbers', 'pod', CLUSTER_IP, to('no', L, '10.10.2.2 8080')],
      ['a port of one', 'pod', '10.200.1.10 9001', to('no', '10.10.2.2 443')],
      ['a port of none is refused', 'pod', '10.200.1.10 9002', 'tcp-reset'],
    ],
  },
  {
    title: 'one pod by two numbers of one port name',
    rule: 'ports',
    records: decoded(
      web(),
      named('web-a', [{ name: '', port: 80 }], here(1)),
      named('web-b', [{ name: '', port: 8080 }], here(1)),
    ),
    lines: [
      ['is two backends', 'pod', CLUSTER_IP, to('no', L, '10.10.1.1 8080')],
      ['each of which is masqueraded to itself', 'backend 1', CLUSTER_IP, to('hairpin', L, '10.10.1.1 8080')],
    ],
  },
  {
    title: 'two service ports with one target',
    rule: 'ports',
    records: decoded(
      web({
        spec: {
          ports: [
            { name: 'a', port: 9000 },
            { name: 'b', port: 9001 },
          ],
        },
      }),
      named(
        'web-a',
        [
          { name: 'a', port: 80 },
          { name: 'b', port: 80 },
        ],
        here(1),
      ),
    ),
    lines: [
      ['the one', 'pod', CLUSTER_IP, to('no', L)],
      ['the other', 'pod', '10.200.1.10 9001', to('no', L)],
    ],
  },
  {
    title: 'TCP and UDP on one NodePort, endpoints for TCP alone',
    rule: 'node-ports',
    records: decoded(
      web({
        spec: {
          type: 'NodePort',
          ports: [
            { name: 't', port: 9000, nodePort: 30000 },
            { name: 'u', port: 9000, nodePort: 30000, protocol: 'UDP' },
          ],
        },
      }),
      named('web-a', [{ name: 't', port: 80 }], here(1)),
    ),
    lines: [
      ['TCP', 'outside', NODE_PORT, to('yes', L)],
      ['UDP is refused', 'outside', `${NODE_PORT}/UDP`, 'port-unreachable'],
      ['UDP to the ClusterIP is refused', 'pod', `${CLUSTER_IP}/UDP`, 'port-unreachable'],
      ['the other address of the node is untouched', 'outside', '192.0.2.111 30000/UDP', 'pass'],
    ],
  },
  {
    title: 'a headless Service of type NodePort',
    rule: 'watched',
    records: decoded(
      web({ spec: { type: 'NodePort', clusterIP: 'None', ports: [{ port: 9000, nodePort: 30000 }] } }),
      BOTH,
    ),
    lines: [['listens on no node port', 'outside', NODE_PORT, 'pass']],
  },
];

const BALANCERS: readonly Scene[] = [
  {
    title: 'source ranges, ipMode Proxy beside VIP',
    rule: 'load-balancer',
    records: decoded(
      balanced({ loadBalancerSourceRanges: ['198.51.100.0/24'] }, [
        { ip: '198.18.0.21', ipMode: 'Proxy' },
        { ip: '198.18.0.2', ipMode: 'VIP' },
      ]),
      BOTH,
    ),
    // No address that another scene serves: ipvs keeps one while connections with it end.
    lines: [
      ['Proxy: not guarded either', 'other outside', '198.18.0.21 9000', 'pass'],
      ['VIP: within', 'outside', '198.18.0.2 9000', to('yes', L, R2)],
      ['VIP: beside', 'other outside', '198.18.0.2 9000', 'drop'],
    ],
  },
  {
    title: 'ipMode Proxy with externalTrafficPolicy: Local',
    rule: 'load-balancer',
    records: decoded(
      balanced({ externalTrafficPolicy: 'Local' }, [{ ip: '198.18.0.21', ipMode: 'Proxy' }]),
      BOTH,
    ),
    lines: [
      ['a pod goes out to the balancer', 'pod', '198.18.0.21 9000', 'pass'],
      ['so does the node', 'node', '198.18.0.21 9000', 'pass'],
    ],
  },
  {
    title: 'the load-balancer address is an address of the node',
    rule: 'load-balancer',
    records: decoded(balanced({ externalTrafficPolicy: 'Local' }, [{ ip: '192.0.2.11' }]), BOTH),
    lines: [
      ['outside', 'outside', '192.0.2.11 9000', to('no', L)],
      ['a pod', 'pod', '192.0.2.11 9000', to('no', L, R2)],
      ['the node', 'node', '192.0.2.11 9000', to('yes', L, R2)],
      ['its NodePort', 'outside', NODE_PORT, to('no', L)],
      ['another port of the node passes', 'outside', '192.0.2.11 30001', 'pass'],
    ],
  },
  {
    title: 'an external IP that is an address of the node',
    rule: 'external-cluster',
    records: decoded(web({ spec: { externalIPs: ['192.0.2.111'] } }), BOTH),
    lines: [
      ['outside', 'outside', '192.0.2.111 9000', to('yes', L, R2)],
      ['the node itself', 'node', '192.0.2.111 9000', to('yes', L, R2)],
      ['the node, from this address', 'node as second', '192.0.2.111 9000', to('yes', L, R2)],
      ['another port of the node passes', 'outside', '192.0.2.111 30001', 'pass'],
    ],
  },
  {
    title: 'an external IP that is an address of the node, without endpoints',
    rule: 'no-endpoint',
    records: decoded(web({ spec: { externalIPs: ['192.0.2.111'] } })),
    lines: [
      ['outside', 'outside', '192.0.2.111 9000', 'tcp-reset'],
      ['pod', 'pod', '192.0.2.111 9000', 'tcp-reset'],
      ['the node', 'node', '192.0.2.111 9000', 'tcp-reset'],
    ],
  },
  {
    title: 'two load-balancer ports, only one with endpoints',
    rule: 'no-endpoint',
    records: decoded(
      balanced({
        externalTrafficPolicy: 'Local',
        ports: [
          { name: 'a', port: 9000, nodePort: 30000 },
          { name: 'b', port: 9001, nodePort: 30001 },
        ],
      }),
      named('web-a', [{ name: 'a', port: 80 }], here(1), there(2)),
    ),
    lines: [
      ['the one', 'outside', LB_IP, to('no', L)],
      ['the other', 'outside', '198.18.0.1 9001', 'tcp-reset'],
      ['the NodePort of the other', 'outside', '192.0.2.11 30001', 'tcp-reset'],
      ['the NodePort of the other, from the node', 'node', '192.0.2.11 30001', 'tcp-reset'],
    ],
  },
  {
    title: 'source ranges of one of two services with one load-balancer IP',
    rule: 'source-ranges',
    records: decoded(
      balanced({ loadBalancerSourceRanges: ['198.51.100.0/24'] }),
      {
        ...balanced({ clusterIP: '10.200.1.20', ports: [{ port: 9001, nodePort: 30001 }] }),
        metadata: { namespace: 'default', name: 'open' },
      },
      BOTH,
      endpointSlice({
        metadata: {
          name: 'open-1',
          namespace: 'default',
          labels: { 'kubernetes.io/service-name': 'open' },
        },
      }),
    ),
    lines: [
      ['guards the one', 'other outside', LB_IP, 'drop'],
      ['not the other', 'other outside', '198.18.0.1 9001', to('yes', L)],
    ],
  },
];

const POLICIES: readonly Scene[] = [
  {
    title: 'internalTrafficPolicy: Local, the local endpoint is not ready',
    rule: 'internal-local',
    records: decoded(
      web({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints(here(1, NOT_READY), there(2)),
    ),
    lines: [['a pod is dropped', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'internalTrafficPolicy: Local, the local endpoint terminates',
    rule: 'internal-local',
    records: decoded(
      web({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints(here(1, TERMINATING), there(2)),
    ),
    lines: [['it serves on', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'internalTrafficPolicy: Local, all terminate and none is here',
    rule: 'internal-local',
    records: decoded(
      web({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints(there(2, TERMINATING), there(3, TERMINATING)),
    ),
    lines: [['a pod is dropped', 'pod', CLUSTER_IP, 'drop']],
  },
  {
    title: 'externalTrafficPolicy: Local, one local endpoint terminates, the other is not ready',
    rule: 'readiness',
    records: decoded(
      balanced({ externalTrafficPolicy: 'Local' }),
      endpoints(here(1, NOT_READY), here(4, TERMINATING), there(2)),
    ),
    lines: [
      ['outside', 'outside', LB_IP, to('no', L4)],
      ['outside by NodePort', 'outside', NODE_PORT, to('no', L4)],
      ['a pod gets what is ready', 'pod', LB_IP, to('no', R2)],
      ['so does the node', 'node', LB_IP, to('yes', R2)],
      ['the ClusterIP', 'pod', CLUSTER_IP, to('no', R2)],
    ],
  },
  {
    title: 'internalTrafficPolicy: Local with hints for another zone',
    rule: 'hints',
    records: decoded(
      web({ spec: { internalTrafficPolicy: 'Local', trafficDistribution: 'PreferSameZone' } }),
      endpoints(here(1, hints(['west'])), there(2, hints(['east']))),
      NODE_IN_EAST,
    ),
    lines: [['hints do not count', 'pod', CLUSTER_IP, to('no', L)]],
  },
  {
    title: 'PreferSameNode, the endpoint of this node is not ready',
    rule: 'hints',
    records: decoded(
      web({ spec: { trafficDistribution: 'PreferSameNode' } }),
      endpoints(
        here(1, { ...NOT_READY, ...hints(['east'], ['this']) }),
        there(2, hints(['east'], ['that'])),
        there(3, hints(['west'], ['third'])),
      ),
      NODE_IN_EAST,
    ),
    lines: [['falls back to the zone', 'pod', CLUSTER_IP, to('no', R2)]],
  },
  {
    title: 'PreferSameNode, the endpoint of this node terminates',
    rule: 'hints',
    records: decoded(
      web({ spec: { trafficDistribution: 'PreferSameNode' } }),
      endpoints(
        here(1, { ...TERMINATING, ...hints(['east'], ['this']) }),
        there(2, hints(['west'], ['that'])),
      ),
      NODE_IN_EAST,
    ),
    lines: [['falls back to all', 'pod', CLUSTER_IP, to('no', R2)]],
  },
  {
    title: 'hints of a Cluster load balancer',
    rule: 'hints',
    records: decoded(
      balanced({ trafficDistribution: 'PreferClose' }),
      endpoints(here(1, hints(['west'])), there(2, hints(['east'])), there(3, hints(['east']))),
      NODE_IN_EAST,
    ),
    lines: [
      ['count for it, too', 'outside', LB_IP, to('yes', R2, R3)],
      ['count for its NodePort', 'outside', NODE_PORT, to('yes', R2, R3)],
    ],
  },
  {
    title: 'affinity with internalTrafficPolicy: Local',
    rule: 'affinity',
    records: decoded(
      balanced({
        internalTrafficPolicy: 'Local',
        sessionAffinity: 'ClientIP',
        sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } },
      }),
      endpoints(here(1), here(4), there(2)),
    ),
    lines: [
      ['a pod by ClusterIP', 'pod', CLUSTER_IP, sticky('no', L, L4)],
      ['an outside client by NodePort', 'outside', NODE_PORT, sticky('yes', L, L4, R2)],
      ['the same one by load-balancer IP', 'outside', LB_IP, sticky('yes', L, L4, R2)],
    ],
  },
  {
    title: 'affinity without a timeout',
    rule: 'affinity',
    records: decoded(web({ spec: { sessionAffinity: 'ClientIP', externalIPs: ['198.18.1.1'] } }), BOTH),
    lines: [
      ['is for three hours', 'pod', CLUSTER_IP, sticky('no', L, R2)],
      ['whichever address', 'pod', EXTERNAL_IP, sticky('yes', L, R2)],
    ],
  },
  {
    title: 'a ClusterIP outside of every ServiceCIDR',
    rule: 'undefined-port',
    records: decoded(web({ spec: { clusterIP: '10.200.9.9' } }), BOTH),
    lines: [
      ['is served', 'pod', '10.200.9.9 9000', to('no', L, R2)],
      ['its undefined port is refused', 'pod', '10.200.9.9 80', 'tcp-reset'],
      ['the address beside passes', 'pod', '10.200.9.8 9000', 'pass', 'untouched'],
    ],
  },
];

const NODE6 = '2001:db8::11';
const OWN = '192.0.2.11 30001';
const OWN6 = `${NODE6} 30001`;
const OWN_PORTS = [
  { name: 'tcp', port: 30001, protocol: 'TCP' },
  { name: 'udp', port: 30001, protocol: 'UDP' },
];
const ownWeb = (spec: Json = {}) =>
  web({
    spec: {
      type: 'LoadBalancer',
      ...{ clusterIP: '10.200.1.10', clusterIPs: ['10.200.1.10', 'fd00:10:200::10'] },
      ...{ ipFamilies: ['IPv4', 'IPv6'], ipFamilyPolicy: 'RequireDualStack' },
      ports: [
        { name: 'tcp', port: 9000, nodePort: 30000 },
        { name: 'udp', port: 9000, nodePort: 30000, protocol: 'UDP' },
      ],
      ...spec,
    },
    status: { loadBalancer: { ingress: [{ ip: '198.18.0.1' }, { ip: '2001:db8:18::1' }] } },
  });
const ownSlices = [
  endpointSlice({ ports: OWN_PORTS, endpoints: [{ addresses: ['192.0.2.11'], nodeName: 'this' }] }),
  endpointSlice({
    metadata: { name: 'web-6', namespace: 'default', labels: { 'kubernetes.io/service-name': 'web' } },
    addressType: 'IPv6',
    ports: OWN_PORTS,
    endpoints: [{ addresses: [NODE6], nodeName: 'this' }],
  }),
];

/** Pods on the host network (an ingress controller, an API server). What is delivered here passes no postrouting. */
const HOST_NETWORK: readonly Scene[] = [
  {
    title: "an endpoint on the node's own network",
    rule: 'host-network',
    records: decoded(ownWeb(), ...ownSlices),
    lines: [
      ['a pod by ClusterIP', 'pod', CLUSTER_IP, to('no', OWN)],
      ['a pod by ClusterIP, UDP', 'pod', `${CLUSTER_IP}/UDP`, to('no', OWN)],
      ['a pod by ClusterIP, IPv6', 'pod', 'fd00:10:200::10 9000', to('no', OWN6)],
      ['a pod of another node by ClusterIP', 'remote pod', CLUSTER_IP, to('no', OWN)],
      ['a stranger by ClusterIP', 'outside', CLUSTER_IP, to('no', OWN)],
      ['an outside client by NodePort', 'outside', NODE_PORT, to('no', OWN)],
      ['an outside client by NodePort, UDP', 'outside', `${NODE_PORT}/UDP`, to('no', OWN)],
      ['an outside client by NodePort, IPv6', 'outside', `${NODE6} 30000`, to('no', OWN6)],
      ['an outside client by NodePort, IPv6, UDP', 'outside', `${NODE6} 30000/UDP`, to('no', OWN6)],
      ['an outside client by load-balancer IP', 'outside', LB_IP, to('no', OWN)],
      ['a pod by NodePort', 'pod', NODE_PORT, to('no', OWN)],
      ['a pod by load-balancer IP', 'pod', LB_IP, to('no', OWN)],
      ['a pod of another node by NodePort', 'remote pod', NODE_PORT, to('no', OWN)],
      ['the node by ClusterIP', 'node', CLUSTER_IP, to('hairpin', OWN)],
      ['the node by ClusterIP, UDP', 'node', `${CLUSTER_IP}/UDP`, to('hairpin', OWN)],
      ['the node by ClusterIP, IPv6', 'node', 'fd00:10:200::10 9000', to('hairpin', OWN6)],
      ['the node by NodePort', 'node', NODE_PORT, to('yes', OWN)],
      ['the node by load-balancer IP', 'node', LB_IP, to('yes', OWN)],
    ],
  },
  {
    title: "an endpoint on the node's own network, externalTrafficPolicy Local",
    rule: 'host-network',
    records: decoded(ownWeb({ externalTrafficPolicy: 'Local' }), ...ownSlices),
    lines: [
      ['an outside client by NodePort', 'outside', NODE_PORT, to('no', OWN)],
      ['an outside client by load-balancer IP, UDP', 'outside', `${LB_IP}/UDP`, to('no', OWN)],
      ['a pod by NodePort', 'pod', NODE_PORT, to('no', OWN)],
      ['the node by NodePort', 'node', NODE_PORT, to('hairpin', OWN)],
    ],
  },
];

export const SERVICES: readonly Scene[] = [...PORTS, ...BALANCERS, ...POLICIES, ...HOST_NETWORK];
