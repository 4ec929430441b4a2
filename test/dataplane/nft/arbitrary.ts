/** Desired services made by hand: sizes, timeouts and prefix lengths that the model's small world does not have. */
import fc from 'fast-check';
import type {
  Backend,
  DesiredNode,
  DesiredPort,
  DesiredService,
  DesiredState,
  Frontend,
} from '../../../src/model/desired.ts';
import type { Address, Family } from '../../../src/model/records.ts';
import { ip, net } from '../../model/world.ts';
import { stateOf } from '../../support/desired.ts';

const backendAddress: Record<Family, (n: number) => Address> = {
  4: (n) => ip(`10.10.${n >> 4}.${(n & 15) + 1}`),
  6: (n) => ip(`fd00:10:10:${n >> 4}::${(n & 15) + 1}`),
};
const own: Record<Family, (kind: number, service: number) => Address> = {
  4: (kind, service) => ip(`198.18.${kind}.${service + 1}`),
  6: (kind, service) => ip(`2001:db8:18:${kind}::${service + 1}`),
};

function backendList(family: Family, numbers: readonly number[]): Backend[] {
  return [...numbers]
    .sort((a, b) => a - b)
    .map((n) => ({
      address: backendAddress[family](n),
      port: 80 + (n % 3),
      local: n % 2 === 0,
    }));
}

const size = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(0, 1, 2, 3) },
  { weight: 1, arbitrary: fc.nat({ max: 40 }) },
);
const numbers = size.chain((n) => fc.uniqueArray(fc.nat({ max: 63 }), { minLength: n, maxLength: n }));

const rangesOf: Record<Family, fc.Arbitrary<string>> = {
  4: fc
    .tuple(fc.integer({ min: 1, max: 32 }), fc.nat({ max: 255 }))
    .map(([bits, n]) => `203.0.113.${n}/${bits}`),
  6: fc
    .tuple(fc.integer({ min: 1, max: 128 }), fc.nat({ max: 255 }))
    .map(([bits, n]) => `2001:db8::${n.toString(16)}/${bits}`),
};

interface Shape {
  readonly family: Family;
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly affinitySeconds: number;
  readonly cluster: readonly number[];
  readonly local: readonly number[];
  readonly policy: 'Cluster' | 'Local';
  readonly ranges: readonly string[] | null;
  readonly nodePort: boolean;
  readonly masquerade: 'always' | 'node';
}

const shape: fc.Arbitrary<Shape> = fc.constantFrom<Family>(4, 4, 6).chain((family) =>
  fc.record({
    family: fc.constant(family),
    protocol: fc.constantFrom('TCP', 'UDP', 'SCTP'),
    affinitySeconds: fc.constantFrom(0, 0, 10, 10800, 86400),
    cluster: numbers,
    local: numbers,
    policy: fc.constantFrom('Cluster', 'Local'),
    ranges: fc.option(fc.array(rangesOf[family], { maxLength: 6 })),
    nodePort: fc.boolean(),
    masquerade: fc.constantFrom('always', 'node'),
  }),
);

function desiredPort(service: number, port: number, s: Shape, balancer: Address | null): DesiredPort {
  const usesLocal = s.policy === 'Local';
  const inside = s.cluster.length > 0 ? 'cluster' : 'reject';
  const outside = !usesLocal ? inside : s.local.length > 0 ? 'local' : 'drop';
  const base = { protocol: s.protocol, inside, sourceRanges: null } as const;
  const frontends: Frontend[] = [
    {
      ...base,
      address: own[s.family](0, service),
      port: 9000 + port,
      kind: 'ClusterIP',
      outside: inside,
      masquerade: 'strangers',
    },
  ];
  if (s.nodePort)
    frontends.push({
      ...base,
      address: ip(s.family === 4 ? '192.0.2.11' : '2001:db8::11'),
      port: 30000 + 10 * service + port,
      kind: 'NodePort',
      outside,
      masquerade: s.masquerade,
    });
  if (balancer)
    frontends.push({
      ...base,
      address: balancer,
      port: 9000 + port,
      kind: 'LoadBalancer',
      outside,
      masquerade: s.masquerade,
      sourceRanges: s.ranges ? [...new Set(s.ranges.map(net))] : null,
    });
  return {
    name: `ns/s${service}:p${port}`,
    family: s.family,
    protocol: s.protocol,
    affinitySeconds: s.affinitySeconds,
    cluster: backendList(s.family, s.cluster),
    local: usesLocal ? backendList(s.family, s.local) : [],
    frontends,
    settings: {},
  };
}

const SERVICES = 6;
const KEYS = Array.from({ length: SERVICES }, (_, n) => n);

const node: fc.Arbitrary<DesiredNode> = fc.record({
  detector: fc.constantFrom<DesiredNode['detector']>(
    { by: 'cidr', cidrs: [net('10.10.0.0/16'), net('fd00:10:10::/48')] },
    { by: 'cidr', cidrs: [net('10.0.0.0/8'), net('fd00:10:10::/48')] },
    { by: 'cidr', cidrs: [net('10.0.0.0/12'), net('10.16.0.0/15'), net('fd00:10::/32')] },
    { by: 'cidr', cidrs: [net('10.10.0.0/16')] },
    { by: 'bridge', name: 'cni0' },
  ),
  serviceCIDRs: fc.subarray(
    ['10.200.1.0/24', '10.201.0.0/16', '240.0.0.0/4', 'fd00:10:200::/112', 'ff00::/8'].map(net),
  ),
});

/**
 * A state; its balancer addresses go to services at random, so that from one state to the next they pass from
 * hand to hand.
 */
export const arbitraryState: fc.Arbitrary<DesiredState> = fc
  .record({
    node,
    services: fc.tuple(
      ...KEYS.map(() => fc.option(fc.array(shape, { minLength: 1, maxLength: 3 }), { freq: 3 })),
    ),
    balancers: fc.array(fc.nat({ max: 2 }), { minLength: SERVICES, maxLength: SERVICES }),
  })
  .map(({ node: desiredNode, services, balancers }) => {
    const taken = new Set<number>();
    const list: DesiredService[] = [];
    services.forEach((shapes, service) => {
      if (!shapes) return;
      const balancer = balancers[service]!;
      const free = !taken.has(balancer);
      taken.add(balancer);
      list.push({
        key: `ns/s${service}`,
        ports: shapes.map((s, port) =>
          desiredPort(service, port, s, free ? own[s.family](1, balancer) : null),
        ),
      });
    });
    return stateOf(list, desiredNode);
  });
