/** Node (v1) -> NodeRecord. */
import type { Address, NodeRecord } from '../../model/records.ts';
import { NEVER_SERVED, readAddress, readCidr, readEntries, unique } from './addresses.ts';
import { isRaw, listAt, objectAt, type Raw, Refused, show, textAt } from './check.ts';
import type { Decoded } from './decoded.ts';
import { guarded, type Meta, readSettings } from './identity.ts';
import { intern } from './intern.ts';
import { isLabelValue, isQualifiedName } from './names.ts';

const ZONE_LABEL = 'topology.kubernetes.io/zone';

/** InternalIP before ExternalIP, as the API server and kube-proxy prefer them; the order is else kept. */
function readAddresses(status: Raw, faults: string[]): readonly Address[] {
  const list = listAt(status, 'addresses', 'status.addresses');
  const ofType = (type: string) =>
    readEntries(list, 'status.addresses', faults, (entry, path) =>
      isRaw(entry) && entry.type === type
        ? readAddress(entry.address, `${path}.address`, NEVER_SERVED)
        : null,
    );
  return unique([...ofType('InternalIP'), ...ofType('ExternalIP')]);
}

function readZone(meta: Meta, faults: string[]): string {
  const zone = textAt(meta.labels, ZONE_LABEL, `metadata.labels[${ZONE_LABEL}]`);
  if (zone === '' || isLabelValue(zone)) return intern(zone);
  faults.push(`metadata.labels[${ZONE_LABEL}] is ${show(zone)}, not a label value`);
  return '';
}

function readTaint(entry: unknown, path: string): string {
  const key = isRaw(entry) ? entry.key : entry;
  if (!isRaw(entry) || typeof key !== 'string' || !isQualifiedName(key)) {
    throw new Refused(`${path}.key is ${show(key)}, not a qualified name`);
  }
  return key;
}

function readNode(meta: Meta): Decoded<NodeRecord> {
  const faults: string[] = [];
  const spec = objectAt(meta.raw, 'spec', 'spec');
  const single = textAt(spec, 'podCIDR', 'spec.podCIDR');
  const several = listAt(spec, 'podCIDRs', 'spec.podCIDRs');
  const podCIDRs = several.length === 0 && single !== '' ? [single] : several;
  const metadata = objectAt(meta.raw, 'metadata', 'metadata');
  const record: NodeRecord = {
    kind: 'Node',
    name: meta.name,
    uid: meta.uid,
    zone: readZone(meta, faults),
    addresses: readAddresses(objectAt(meta.raw, 'status', 'status'), faults),
    podCIDRs: unique(readEntries(podCIDRs, 'spec.podCIDRs', faults, readCidr)),
    deleting: textAt(metadata, 'deletionTimestamp', 'metadata.deletionTimestamp') !== '',
    taints: readEntries(listAt(spec, 'taints', 'spec.taints'), 'spec.taints', faults, readTaint),
    settings: readSettings(meta, faults),
  };
  return { outcome: 'record', record, faults };
}

/** A Node as the API or a manifest has it. Never throws. */
export function decodeNode(raw: unknown): Decoded<NodeRecord> {
  return guarded('Node', raw, readNode);
}
