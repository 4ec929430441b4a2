/**
 * Which external IPs services may have. Whoever may write a Service could else have traffic for any address sent to
 * pods of their own (CVE-2020-8554).
 */
import { cidrContains } from './address.ts';
import type { Address, Cidr, ServiceRecord } from './records.ts';

export interface Admitted {
  readonly record: ServiceRecord;
  readonly refused: readonly Address[];
}

const NONE: readonly never[] = [];

/** The record without the external IPs outside of all ranges. `allowed` undefined: every one may be. */
export function admitExternalIPs(record: ServiceRecord, allowed: readonly Cidr[] | undefined): Admitted {
  if (allowed === undefined || record.externalIPs.length === 0) return { record, refused: NONE };
  const may = (address: Address) => allowed.some((cidr) => cidrContains(cidr, address));
  const refused = record.externalIPs.filter((address) => !may(address));
  if (refused.length === 0) return { record, refused };
  return { record: { ...record, externalIPs: record.externalIPs.filter(may) }, refused };
}
