/** The smallest state that makes a dataplane use everything it has: both families, affinity, both pools, ranges. */
import type { Backend, DesiredPort, DesiredState, Frontend } from '../model/desired.ts';
import type { Address, Cidr, Family } from '../model/records.ts';

/** RFC 5737 and RFC 3849: for documentation, never routed. */
const PLACES: Record<
  Family,
  { readonly service: string; readonly backends: readonly string[]; readonly range: string }
> = {
  4: { service: '192.0.2.1', backends: ['198.51.100.1', '198.51.100.2'], range: '203.0.113.0/24' },
  6: { service: '2001:db8:1::1', backends: ['2001:db8:2::1', '2001:db8:2::2'], range: '2001:db8:3::/64' },
};

function portOf(family: Family, port: number, affinitySeconds: number): DesiredPort {
  const { service, backends, range } = PLACES[family];
  const cluster: Backend[] = backends.map((address, at) => ({
    address: address as Address,
    port: 8080,
    local: at === 0,
  }));
  const frontend: Frontend = {
    address: service as Address,
    port,
    protocol: 'TCP',
    kind: 'LoadBalancer',
    inside: 'cluster',
    outside: 'local',
    masquerade: 'node',
    sourceRanges: [range as Cidr],
  };
  const local = cluster.slice(0, 1);
  const name = `probe/probe:${port}`;
  return {
    name,
    family,
    protocol: 'TCP',
    affinitySeconds,
    cluster,
    local,
    frontends: [frontend],
    settings: {},
  };
}

const NODE: DesiredState['node'] = {
  detector: { by: 'cidr', cidrs: ['198.51.100.0/24' as Cidr, '2001:db8:2::/64' as Cidr] },
  serviceCIDRs: [],
};

/** @param families '4': an IPv4-only state, for kernels without IPv6 */
export function sampleState(families: readonly Family[], affinitySeconds: number): DesiredState {
  const ports = families.map((family) => portOf(family, affinitySeconds > 0 ? 81 : 80, affinitySeconds));
  return { services: new Map([['probe/probe', { key: 'probe/probe', ports }]]), node: NODE };
}
