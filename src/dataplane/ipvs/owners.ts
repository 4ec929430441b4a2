/** What owners in the table mean to IPVS: names of their pools' virtual services, and their addresses. */
import type { DesiredState } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import type { OwnerState } from '../nft/family-table.ts';
import type { PortState } from '../nft/service-elements.ts';
import { markOf } from './marks.ts';
import type { ServiceName } from './packed-ipvs.ts';
import type { WantedPool } from './virtual-services.ts';

export function keyOf({ family, mark }: ServiceName): string {
  return `${family} ${mark}`;
}

/** The same node without services, and without a say on addresses that no service has. */
export function nothingOf({ node }: DesiredState): DesiredState {
  return { services: new Map(), node: { ...node, serviceCIDRs: [] } };
}

export function nameOf({ family, number }: WantedPool): ServiceName {
  return { family, mark: markOf(number) };
}

export function portsOf(state: OwnerState | undefined): readonly PortState[] {
  return state && 'ports' in state ? state.ports : [];
}

/** What our device is to hold of one owner: NodePorts answer on the node's own addresses. */
export function addressesOf(state: OwnerState | undefined): Set<Address> {
  const frontends = portsOf(state).flatMap(({ port }) => port.frontends);
  return new Set(frontends.flatMap(({ kind, address }) => (kind === 'NodePort' ? [] : [address])));
}

/** Whether a pool is among these. */
export function wantedBy(wanted: readonly WantedPool[]): (family: Family, pool: number) => boolean {
  const keys = new Set(wanted.map((pool) => `${pool.family} ${pool.number}`));
  return (family, pool) => keys.has(`${family} ${pool}`);
}
