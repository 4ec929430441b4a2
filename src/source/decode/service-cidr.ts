/** ServiceCIDR (networking.k8s.io/v1, KEP-1880) -> ServiceCidrRecord. */
import type { ServiceCidrRecord } from '../../model/records.ts';
import { readCidr, readEntries, unique } from './addresses.ts';
import { listAt, objectAt } from './check.ts';
import type { Decoded } from './decoded.ts';
import { guarded } from './identity.ts';

/** A ServiceCIDR as the API or a manifest has it. Never throws. */
export function decodeServiceCidr(raw: unknown): Decoded<ServiceCidrRecord> {
  return guarded('ServiceCIDR', raw, (meta): Decoded<ServiceCidrRecord> => {
    const faults: string[] = [];
    const list = listAt(objectAt(meta.raw, 'spec', 'spec'), 'cidrs', 'spec.cidrs');
    const cidrs = unique(readEntries(list, 'spec.cidrs', faults, readCidr));
    return { outcome: 'record', record: { kind: 'ServiceCIDR', name: meta.name, cidrs }, faults };
  });
}
