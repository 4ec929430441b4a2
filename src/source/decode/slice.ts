/** EndpointSlice (discovery.k8s.io/v1) -> SliceRecord, with the rules of kube-proxy's endpointslicecache.go. */
import { familyOf } from '../../model/address.ts';
import type { EndpointRecord, Family, SlicePortRecord, SliceRecord } from '../../model/records.ts';
import { NEVER_BACKEND, readAddress, readEntries } from './addresses.ts';
import {
  flagAt,
  integerAt,
  isRaw,
  listAt,
  objectAt,
  type Raw,
  Refused,
  show,
  textAt,
  wordAt,
} from './check.ts';
import type { Decoded } from './decoded.ts';
import { guarded, type Meta } from './identity.ts';
import { intern } from './intern.ts';
import { isLabel, isLabelValue, isSubdomain } from './names.ts';

const HEADLESS_LABEL = 'service.kubernetes.io/headless';
const SERVICE_LABEL = 'kubernetes.io/service-name';
const TRIGGER_ANNOTATION = 'endpoints.kubernetes.io/last-change-trigger-time';
const PORT = { min: 1, max: 65_535 };
const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
const NO_HINTS: readonly string[] = [];

/** A port without a number means "all ports", which no proxy can serve: kube-proxy passes over it. */
function readPort(value: unknown, path: string): SlicePortRecord | null {
  if (!isRaw(value)) throw new Refused(`${path} is ${show(value)}, not an object`);
  const name = textAt(value, 'name', `${path}.name`);
  if (name !== '' && !isLabel(name)) {
    throw new Refused(`${path}.name is ${show(name)}, not an RFC 1123 label`);
  }
  const port = integerAt(value, 'port', `${path}.port`, { min: 0, max: PORT.max }) ?? 0;
  const protocol = wordAt(value, 'protocol', `${path}.protocol`, PROTOCOLS, 'TCP');
  return port === 0 ? null : { name: intern(name), protocol, port };
}

/** Bad hints are dropped, not the endpoint: without hints traffic goes to all endpoints. */
function readHints(
  hints: Raw,
  field: 'forZones' | 'forNodes',
  context: { readonly path: string; readonly faults: string[] },
): readonly string[] {
  const path = `${context.path}.hints.${field}`;
  const list = listAt(hints, field, path);
  if (list.length === 0) return NO_HINTS;
  const isGood = field === 'forZones' ? isLabelValue : isSubdomain;
  return readEntries(list, path, context.faults, (entry, entryPath) => {
    const name = isRaw(entry) ? entry.name : entry;
    if (!isRaw(entry) || typeof name !== 'string' || !isGood(name)) {
      throw new Refused(`${entryPath}.name is ${show(name)}, not a valid name`);
    }
    return intern(name);
  });
}

/** A name of a place (node, zone); a bad one reads as unknown, which only costs locality. */
function readPlace(
  value: unknown,
  path: string,
  faults: string[],
  isGood: (text: string) => boolean,
): string {
  if (value === undefined || value === null || value === '') return '';
  if (typeof value === 'string' && isGood(value)) return intern(value);
  faults.push(`${path} is ${show(value)}, not a valid name`);
  return '';
}

function readEndpoint(entry: unknown, path: string, family: Family, faults: string[]): EndpointRecord {
  if (!isRaw(entry)) throw new Refused(`${path} is ${show(entry)}, not an object`);
  const addresses = listAt(entry, 'addresses', `${path}.addresses`);
  if (addresses.length === 0) throw new Refused(`${path}.addresses is empty`);
  const address = readAddress(addresses[0], `${path}.addresses[0]`, NEVER_BACKEND);
  if (familyOf(address) !== family) {
    throw new Refused(
      `${path}.addresses[0] is ${show(address)}, not of the slice's addressType IPv${family}`,
    );
  }
  const conditions = objectAt(entry, 'conditions', `${path}.conditions`);
  const hints = objectAt(entry, 'hints', `${path}.hints`);
  return {
    address,
    nodeName: readPlace(entry.nodeName, `${path}.nodeName`, faults, isSubdomain),
    ready: flagAt(conditions, 'ready', `${path}.conditions.ready`) ?? true,
    // As kube-proxy: a missing `serving` means true, whatever `ready` says.
    serving: flagAt(conditions, 'serving', `${path}.conditions.serving`) ?? true,
    terminating: flagAt(conditions, 'terminating', `${path}.conditions.terminating`) ?? false,
    zone: readPlace(entry.zone, `${path}.zone`, faults, isLabelValue),
    zoneHints: readHints(hints, 'forZones', { path, faults }),
    nodeHints: readHints(hints, 'forNodes', { path, faults }),
  };
}

/** For a metric only: a malformed time reads as none, as in kube-proxy. */
function readTrigger(meta: Meta): number {
  const text = meta.annotations[TRIGGER_ANNOTATION];
  const time = typeof text === 'string' && text.length <= 40 ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? 0 : time;
}

function isIgnored(meta: Meta): boolean {
  if (Object.hasOwn(meta.labels, HEADLESS_LABEL)) return true;
  const service = Object.hasOwn(meta.labels, SERVICE_LABEL) ? meta.labels[SERVICE_LABEL] : '';
  return service === '' || service === null || meta.raw.addressType === 'FQDN';
}

function readSlice(meta: Meta): Decoded<SliceRecord> {
  const service = meta.labels[SERVICE_LABEL];
  if (typeof service !== 'string' || !isLabel(service)) {
    throw new Refused(`metadata.labels[${SERVICE_LABEL}] is ${show(service)}, not an RFC 1123 label`);
  }
  const type = textAt(meta.raw, 'addressType', 'addressType');
  if (type !== 'IPv4' && type !== 'IPv6') throw new Refused(`addressType is ${show(type)}, not IPv4 or IPv6`);
  const family: Family = type === 'IPv6' ? 6 : 4;
  const faults: string[] = [];
  const ports = listAt(meta.raw, 'ports', 'ports')
    .map((port, i) => readPort(port, `ports[${i}]`))
    .filter((port) => port !== null);
  const endpoints = readEntries(
    listAt(meta.raw, 'endpoints', 'endpoints'),
    'endpoints',
    faults,
    (entry, path) => readEndpoint(entry, path, family, faults),
  );
  const record: SliceRecord = {
    kind: 'EndpointSlice',
    namespace: meta.namespace,
    name: meta.name,
    serviceName: intern(service),
    family,
    ports,
    endpoints,
    triggerMs: readTrigger(meta),
  };
  return { outcome: 'record', record, faults };
}

/** An EndpointSlice as the API or a manifest has it. Never throws. */
export function decodeSlice(raw: unknown): Decoded<SliceRecord> {
  return guarded('EndpointSlice', raw, (meta) =>
    isIgnored(meta) ? { outcome: 'ignored', kind: 'EndpointSlice', key: meta.key } : readSlice(meta),
  );
}
