/**
 * The traffic policies as a grid: who sends, to which kind of frontend, over which protocol and family. What is to
 * come out is written here by hand and not asked of decide(); TCP over IPv4 stands in conformance.ts.
 */
import type { ServiceRecord, SliceRecord } from '../../src/model/records.ts';
import type { Expectation, Line, Rule, Scene, Sender } from './scenes.ts';
import { ip, service, slice } from './world.ts';

/** Backend numbers (1 is on this node), and who is masqueraded; or how the packet ends. */
type Cell = readonly [backends: string, masquerade: 'yes' | 'no' | 'hairpin'] | 'reject' | 'drop';
/** To the ClusterIP, and to every external address. */
type Row = Readonly<
  Record<'pod' | 'node' | 'outside' | 'backend 1', readonly [internal: Cell, external: Cell]>
>;

interface Policy {
  readonly title: string;
  readonly rule: Rule;
  readonly over: Partial<ServiceRecord>;
  readonly backends: readonly number[];
  readonly row: Row;
}

const POLICIES: readonly Policy[] = [
  {
    title: 'Cluster',
    rule: 'external-cluster',
    over: {},
    backends: [1, 2, 3],
    row: {
      pod: [
        ['123', 'no'],
        ['123', 'yes'],
      ],
      node: [
        ['123', 'yes'],
        ['123', 'yes'],
      ],
      outside: [
        ['123', 'yes'],
        ['123', 'yes'],
      ],
      'backend 1': [
        ['123', 'hairpin'],
        ['123', 'yes'],
      ],
    },
  },
  {
    title: 'externally Local',
    rule: 'external-local',
    over: { externalPolicy: 'Local' },
    backends: [1, 2, 3],
    row: {
      pod: [
        ['123', 'no'],
        ['123', 'no'],
      ],
      node: [
        ['123', 'yes'],
        ['123', 'yes'],
      ],
      outside: [
        ['123', 'yes'],
        ['1', 'no'],
      ],
      'backend 1': [
        ['123', 'hairpin'],
        ['123', 'hairpin'],
      ],
    },
  },
  {
    title: 'externally Local without a local endpoint',
    rule: 'external-local',
    over: { externalPolicy: 'Local' },
    backends: [2, 3],
    row: {
      pod: [
        ['23', 'no'],
        ['23', 'no'],
      ],
      node: [
        ['23', 'yes'],
        ['23', 'yes'],
      ],
      outside: [['23', 'yes'], 'drop'],
      'backend 1': [
        ['23', 'no'],
        ['23', 'no'],
      ],
    },
  },
  {
    title: 'internally Local',
    rule: 'internal-local',
    over: { internalPolicy: 'Local' },
    backends: [1, 2, 3],
    row: {
      pod: [
        ['1', 'no'],
        ['123', 'yes'],
      ],
      node: [
        ['1', 'yes'],
        ['123', 'yes'],
      ],
      outside: [
        ['1', 'yes'],
        ['123', 'yes'],
      ],
      'backend 1': [
        ['1', 'hairpin'],
        ['123', 'yes'],
      ],
    },
  },
  {
    title: 'internally Local without a local endpoint',
    rule: 'internal-local',
    over: { internalPolicy: 'Local' },
    backends: [2, 3],
    row: {
      pod: ['drop', ['23', 'yes']],
      node: ['drop', ['23', 'yes']],
      outside: ['drop', ['23', 'yes']],
      'backend 1': ['drop', ['23', 'yes']],
    },
  },
  {
    title: 'no endpoint',
    rule: 'no-endpoint',
    over: { externalPolicy: 'Local', internalPolicy: 'Local' },
    backends: [],
    row: {
      pod: ['reject', 'reject'],
      node: ['reject', 'reject'],
      outside: ['reject', 'reject'],
      'backend 1': ['reject', 'reject'],
    },
  },
];

const FAMILIES = {
  4: {
    clusterIP: '10.200.1.10',
    backend: (n: number) => `10.10.${n === 1 ? 1 : 2}.${n}`,
    externals: {
      'external IP': '198.18.1.1 9000',
      'load-balancer IP': '198.18.0.1 9000',
      NodePort: '192.0.2.11 30000',
    },
  },
  6: {
    clusterIP: 'fd00:10:200::10',
    backend: (n: number) => `fd00:10:10:${n === 1 ? 1 : 2}::${n}`,
    externals: {
      'external IP': '2001:db8:18:1::1 9000',
      'load-balancer IP': '2001:db8:18::1 9000',
      NodePort: '2001:db8::11 30000',
    },
  },
} as const;

function expectation(cell: Cell, protocol: 'TCP' | 'UDP', family: 4 | 6): Expectation {
  if (cell === 'drop') return 'drop';
  if (cell === 'reject') return protocol === 'TCP' ? 'tcp-reset' : 'port-unreachable';
  const [backends, masquerade] = cell;
  return { to: [...backends].map((n) => `${FAMILIES[family].backend(Number(n))} 80`), masquerade };
}

function sceneOf(
  { title, rule, over, backends, row }: Policy,
  protocol: 'TCP' | 'UDP',
  family: 4 | 6,
): Scene {
  const { clusterIP, backend, externals } = FAMILIES[family];
  const addressOf = (text: string) => ip(text.split(' ')[0]!);
  const record = service({
    type: 'LoadBalancer',
    clusterIPs: [ip(clusterIP)],
    externalIPs: [addressOf(externals['external IP'])],
    loadBalancerIPs: [addressOf(externals['load-balancer IP'])],
    ports: [{ name: '', protocol, port: 9000, nodePort: 30000 }],
    ...over,
  });
  const ports: SliceRecord['ports'] = [{ name: '', protocol, port: 80 }];
  const records = backends.length === 0 ? [record] : [record, slice(backends.map(backend), { ports })];
  const lines = Object.entries(row).flatMap(([from, [internal, external]]): Line[] => [
    [
      `${from} to ClusterIP`,
      from as Sender,
      `${clusterIP} 9000/${protocol}`,
      expectation(internal, protocol, family),
    ],
    ...Object.entries(externals).map(
      ([kind, to]): Line => [
        `${from} to ${kind}`,
        from as Sender,
        `${to}/${protocol}`,
        expectation(external, protocol, family),
      ],
    ),
  ]);
  return { title: `${title}, ${protocol} over IPv${family}`, rule, records, lines };
}

export const GRID: readonly Scene[] = POLICIES.flatMap((policy) => [
  sceneOf(policy, 'UDP', 4),
  sceneOf(policy, 'TCP', 6),
  sceneOf(policy, 'UDP', 6),
]);
