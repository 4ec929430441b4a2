/** What stands in the tables for the desired state: the rows that the compiler keeps in mind. */
import type { DesiredPort } from '../../model/desired.ts';
import type { Address, Cidr, Family, ObjectKey } from '../../model/records.ts';
import type { Place } from './frontend-index.ts';

/** A record of tp_frontends with its slot in tp_index. */
export interface FrontendEntry {
  readonly index: number;
  readonly slot: number;
  readonly place: Place;
  readonly key: string;
  readonly address: Address;
  readonly port: number;
  /** IANA number; 0: the address itself, for undefined ports. */
  readonly proto: number;
  readonly family: Family;
  /** null: withdrawn (its established connections still need it), or an address, which has many owners. */
  owner: PortEntry | null;
  /** Of an address: cluster IPs of how many ports it is. */
  uses: number;
}

/** Source ranges: rows of tp_ranges under one id. Frontends with the same ranges share them. */
export interface Guard {
  readonly id: number;
  readonly key: string;
  readonly family: Family;
  readonly cidrs: readonly Cidr[];
  uses: number;
  /** Its rows are in the map. */
  written: boolean;
}

/** A DesiredPort in the tables. Made anew with each change of its service. */
export interface PortEntry {
  /** tp_frontend.service. */
  readonly id: number;
  readonly service: ObjectKey;
  readonly desired: DesiredPort;
  /** Records of desired.cluster and desired.local, in their order. */
  readonly cluster: PoolEntry;
  readonly local: PoolEntry;
  /** Of desired.frontends, in their order. */
  readonly frontends: readonly FrontendEntry[];
  readonly guards: readonly (Guard | null)[];
  /** Its cluster IPs. */
  readonly addresses: readonly FrontendEntry[];
}

export interface PoolEntry {
  readonly records: readonly number[];
  /** First of its slots in tp_pool_slots; -1: it is empty. */
  readonly base: number;
}

export const NO_POOL: PoolEntry = { records: [], base: -1 };

export function frontendKey(address: Address, port: number, proto: number): string {
  return `${address} ${port} ${proto}`;
}

/** A table has no room for what a service needs. */
export class TableFull extends Error {}
