/** The words that the conformance table is written in. */
import type { ModelConfig, NodeFacts } from '../../src/model/change.ts';
import type { Packet } from '../../src/model/decide.ts';
import type { ClusterRecord, Protocol } from '../../src/model/records.ts';
import { FACTS, ip } from './world.ts';

export type Expectation =
  | {
      /** "address port" of every backend that may be picked, sorted. */
      readonly to: readonly string[];
      /** 'hairpin': only when the backend is the source itself. */
      readonly masquerade: 'yes' | 'no' | 'hairpin';
      /** All flows of this client to this service port get one and the same of them, whichever address they use. */
      readonly sticky?: true;
    }
  | 'tcp-reset'
  | 'port-unreachable'
  | 'drop'
  | 'pass';

/** What docs/conformance.md counts rows by. */
export const RULES = {
  'cluster-ip': 'ClusterIP: every backend; who is no pod is masqueraded',
  'masquerade-all': '--masquerade-all',
  'undefined-port': 'an undefined port of a ClusterIP is rejected',
  'service-cidr': 'an unallocated address of a known ServiceCIDR is dropped',
  untouched: 'what is no service is left alone',
  ports: 'ports are told apart by protocol, and matched by name',
  'external-cluster': 'externalTrafficPolicy: Cluster is always masqueraded',
  'external-local':
    'externalTrafficPolicy: Local: local backends and the own address for outside clients, short cut for pods and node',
  'internal-local': 'internalTrafficPolicy: Local, for the ClusterIP alone',
  'no-endpoint': 'no endpoint anywhere is rejected',
  'node-ports': 'where NodePorts listen',
  'source-ranges': 'loadBalancerSourceRanges',
  'load-balancer': 'load-balancer addresses: ipMode, class, status',
  readiness: 'ready, serving and terminating endpoints',
  hints: 'topology hints for nodes and zones',
  endpoints: 'which endpoints count: duplicates, several addresses, nodes, namespaces',
  'host-network': "endpoints on this node's own network are reached with the client's own address",
  hairpin: 'a backend that reaches itself is masqueraded',
  affinity: 'session affinity, whichever address was used',
  families: 'dual stack',
  detector: '--detect-local-mode',
  contested: 'one address and port of two services',
  watched: 'which Services and EndpointSlices count at all',
  leniency: 'null fields, old address syntax, entries that are refused alone',
} as const;
export type Rule = keyof typeof RULES;

export interface ConformanceRow {
  readonly name: string;
  readonly rule: Rule;
  readonly records: readonly ClusterRecord[];
  readonly config: Partial<ModelConfig>;
  readonly facts: NodeFacts;
  readonly packet: Packet;
  readonly expect: Expectation;
}

/** Who sends: [how it comes in, IPv4 address, IPv6 address, interface]. */
const SENDERS = {
  pod: ['pod', '10.10.1.99', 'fd00:10:10:1::99', 'cni0'],
  'remote pod': ['outside', '10.10.2.99', 'fd00:10:10:2::99', 'eth0'],
  node: ['node', '192.0.2.11', '2001:db8::11', undefined],
  outside: ['outside', '198.51.100.7', '2001:db8:f::7', 'eth0'],
  'other outside': ['outside', '203.0.113.7', '2001:db8:e::7', 'eth0'],
  'backend 1': ['pod', '10.10.1.1', 'fd00:10:10:1::1', 'cni0'],
  'node as second': ['node', '192.0.2.111', '2001:db8::11', undefined],
  'node as LB': ['node', '198.18.0.1', '2001:db8:18::1', undefined],
} as const;
export type Sender = keyof typeof SENDERS;

/** "address port/protocol"; TCP when it is not said. */
export function packet(from: Sender, to: string): Packet {
  const [, address, port, protocol] = /^(\S+) (\d+)(?:\/(\w+))?$/.exec(to)!;
  const family = address!.includes(':') ? 6 : 4;
  const [kind, source4, source6, name] = SENDERS[from];
  return {
    family,
    protocol: (protocol ?? 'TCP') as Protocol,
    source: ip(family === 6 ? source6 : source4),
    destination: ip(address!),
    port: Number(port),
    from: kind,
    ...(name === undefined ? {} : { interface: name }),
  };
}

/** The scene's rule unless the line says another. */
export type Line = [name: string, from: Sender, to: string, expect: Expectation, rule?: Rule];

export interface Scene {
  readonly title: string;
  readonly rule: Rule;
  readonly records: readonly ClusterRecord[];
  readonly config?: Partial<ModelConfig>;
  readonly facts?: NodeFacts;
  readonly lines: readonly Line[];
}

/** Every line of every scene as a row. */
export function rowsOf(scenes: readonly Scene[]): ConformanceRow[] {
  return scenes.flatMap((scene) =>
    scene.lines.map(([name, from, to, expect, rule]) => ({
      name: `${scene.title}: ${name}`,
      rule: rule ?? scene.rule,
      records: scene.records,
      config: scene.config ?? {},
      facts: scene.facts ?? FACTS,
      packet: packet(from, to),
      expect,
    })),
  );
}
