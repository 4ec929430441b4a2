/** Who an object is: its checked name, and the outcome that carries this name when the rest is malformed. */
import type { ObjectKey, RecordKind } from '../../model/records.ts';
import { isRaw, objectAt, oneLine, type Raw, Refused, show, textAt, timeAt } from './check.ts';
import type { Decoded } from './decoded.ts';
import { intern } from './intern.ts';
import { isLabel, isLabelValue, isSubdomain, isUid } from './names.ts';

export interface Identity {
  /** '' for cluster-wide kinds. */
  readonly namespace: string;
  readonly name: string;
  readonly key: ObjectKey;
}

/** The metadata that all kinds share, read once. */
export interface Meta extends Identity {
  readonly uid: string;
  readonly createdMs: number;
  readonly labels: Raw;
  readonly annotations: Raw;
  readonly raw: Raw;
}

const NAMESPACED: Readonly<Record<RecordKind, boolean>> = {
  Service: true,
  EndpointSlice: true,
  Node: false,
  ServiceCIDR: false,
  Pod: true,
};

/** Reads namespace and name only, as much as a deletion needs. Throws Refused. */
export function readIdentity(kind: RecordKind, raw: unknown): Identity {
  if (!isRaw(raw)) throw new Refused(`is ${show(raw)}, not an object`);
  const metadata = objectAt(raw, 'metadata', 'metadata');
  const name = textAt(metadata, 'name', 'metadata.name');
  const goodName = kind === 'Service' ? isLabel(name) : isSubdomain(name);
  if (!goodName) {
    const wanted = kind === 'Service' ? 'an RFC 1123 label' : 'an RFC 1123 subdomain';
    throw new Refused(`metadata.name is ${show(name)}, not ${wanted}`);
  }
  if (!NAMESPACED[kind]) return { namespace: '', name, key: name };
  // Manifests may leave the namespace out; kubectl would put the object into "default", and so do we.
  const namespace = textAt(metadata, 'namespace', 'metadata.namespace') || 'default';
  if (!isLabel(namespace)) {
    throw new Refused(`metadata.namespace is ${show(namespace)}, not an RFC 1123 label`);
  }
  return { namespace: intern(namespace), name, key: `${namespace}/${name}` };
}

function readMeta(identity: Identity, raw: Raw): Meta {
  const metadata = objectAt(raw, 'metadata', 'metadata');
  const uid = textAt(metadata, 'uid', 'metadata.uid');
  if (!isUid(uid)) throw new Refused(`metadata.uid is ${show(uid)}, not a UID`);
  return {
    ...identity,
    uid,
    createdMs: timeAt(metadata, 'creationTimestamp', 'metadata.creationTimestamp'),
    labels: objectAt(metadata, 'labels', 'metadata.labels'),
    annotations: objectAt(metadata, 'annotations', 'metadata.annotations'),
    raw,
  };
}

function refusedName(kind: RecordKind, raw: unknown): string {
  const metadata = isRaw(raw) && isRaw(raw.metadata) ? raw.metadata : {};
  const namespace = typeof metadata.namespace === 'string' ? `${show(metadata.namespace)} / ` : '';
  return `${kind} ${namespace}${show(metadata.name)}`;
}

/** Runs a decoder and turns what it throws into the outcome 'refused'. */
export function guarded<D extends Decoded>(
  kind: RecordKind,
  raw: unknown,
  decode: (meta: Meta) => D,
): D | Decoded<never> {
  let identity: Identity | null = null;
  try {
    identity = readIdentity(kind, raw);
    return decode(readMeta(identity, raw as Raw));
  } catch (error) {
    // Anything but Refused is a fault of ours (say, a getter in a hostile object); it must not end the agent.
    const reason = error instanceof Refused ? error.message : `cannot be read: ${oneLine(String(error))}`;
    return {
      outcome: 'refused',
      kind,
      key: identity?.key ?? null,
      object: identity ? `${kind} ${identity.key}` : refusedName(kind, raw),
      reason,
    };
  }
}

const SETTINGS_PREFIX = 'triplane.dev/';
const SETTING_VALUE = /^[A-Za-z0-9 ._:;,=+/-]{0,256}$/;

/** Annotations of ours, without the prefix. A bad one is refused alone: it tunes, it does not route. */
export function readSettings(meta: Meta, faults: string[]): Readonly<Record<string, string>> {
  const settings: Record<string, string> = {};
  for (const name of Object.keys(meta.annotations)) {
    if (!name.startsWith(SETTINGS_PREFIX)) continue;
    const value = meta.annotations[name];
    const key = name.slice(SETTINGS_PREFIX.length);
    if (!isLabelValue(key)) faults.push(`metadata.annotations: ${show(name)} is no valid name`);
    else if (typeof value !== 'string' || !SETTING_VALUE.test(value)) {
      faults.push(`metadata.annotations[${name}] is ${show(value)}, not plain text`);
    } else settings[key] = value;
  }
  return settings;
}
