/** Everything that is known of one service: what ClusterModel keeps. */
import type { DesiredService, Frontend } from './desired.ts';
import type { Address, ObjectKey, ServiceRecord, SliceRecord } from './records.ts';
import type { ServiceHealth, ServiceResult, ServingPort } from './service.ts';

const NONE: readonly never[] = [];

/** The record and the slices of a service (either may come first), what it claims and what it gets. */
export interface Entry {
  readonly key: ObjectKey;
  record: ServiceRecord | null;
  createdMs: number;
  slices: SliceRecord[];
  /** What the service would get if it were the only one; null: nothing. */
  claimed: DesiredService | null;
  /** Computed with `claimed`. */
  serving: readonly ServingPort[];
  /** Computed with `claimed`; null: no health check. */
  health: ServiceHealth | null;
  /** What it did get at the last produce(), and what served then. */
  desired: DesiredService | null;
  servedBefore: readonly ServingPort[];
  /** 0: none. */
  triggerMs: number;
  shadowed: ServiceResult['shadowed'];
  /** External IPs that it may not have. */
  refused: readonly Address[];
  /** As ServiceResult's. */
  beyond: number;
  /** The reason of its problem; '': none. */
  problem: string;
}

export function newEntry(key: ObjectKey): Entry {
  return {
    key,
    record: null,
    createdMs: 0,
    slices: [],
    claimed: null,
    serving: NONE,
    health: null,
    desired: null,
    servedBefore: NONE,
    triggerMs: 0,
    shadowed: NONE,
    refused: NONE,
    beyond: 0,
    problem: '',
  };
}

export function frontendsOf(service: DesiredService | null): readonly Frontend[] {
  if (service === null) return NONE;
  return service.ports.length === 1
    ? service.ports[0]!.frontends
    : service.ports.flatMap((port) => port.frontends);
}

/** Whether two lists claim the same, so that the index of claims need not be touched. */
export function sameClaims(a: readonly Frontend[], b: readonly Frontend[]): boolean {
  return (
    a.length === b.length &&
    a.every((one, at) => {
      const other = b[at]!;
      return (
        one.address === other.address &&
        one.port === other.port &&
        one.protocol === other.protocol &&
        (one.kind === 'NodePort') === (other.kind === 'NodePort')
      );
    })
  );
}
