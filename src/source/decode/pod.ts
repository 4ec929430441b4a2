/** Pod (v1) -> PodRecord, of those that have our label. */
import type { PodRecord } from '../../model/records.ts';
import { objectAt, Refused, show, textAt } from './check.ts';
import type { Decoded } from './decoded.ts';
import { guarded, type Meta } from './identity.ts';
import { intern } from './intern.ts';
import { isSubdomain, isUid } from './names.ts';

/** A pod with it set to "off" is left alone by the programs at sockets. A label, so that a watch can select by it. */
export const SOCKET_LB_LABEL = 'triplane.dev/socket-lb';

/**
 * kubelet makes a static pod out of a file, under a UID of its own, and the API server holds a mirror of it under another
 * one; both annotations of the mirror are the first (pkg/kubelet/config/common.go, pkg/kubelet/pod/mirror_client.go).
 */
const MIRROR_ANNOTATION = 'kubernetes.io/config.mirror';
const HASH_ANNOTATION = 'kubernetes.io/config.hash';

function readCgroupUid({ uid, annotations }: Meta): string {
  const isMirror = Object.hasOwn(annotations, MIRROR_ANNOTATION);
  const name = isMirror ? `metadata.annotations[${HASH_ANNOTATION}]` : 'metadata.uid';
  const value = isMirror ? textAt(annotations, HASH_ANNOTATION, name) : uid;
  if (value === '' || !isUid(value))
    throw new Refused(`${name} is ${show(value === '' ? null : value)}, and the pod's cgroup is named by it`);
  return value;
}

function readPod(meta: Meta): Decoded<PodRecord> {
  const label = textAt(meta.labels, SOCKET_LB_LABEL, `metadata.labels[${SOCKET_LB_LABEL}]`);
  const phase = textAt(objectAt(meta.raw, 'status', 'status'), 'phase', 'status.phase');
  if (!Object.hasOwn(meta.labels, SOCKET_LB_LABEL) || phase === 'Succeeded' || phase === 'Failed')
    return { outcome: 'ignored', kind: 'Pod', key: meta.key };
  const nodeName = textAt(objectAt(meta.raw, 'spec', 'spec'), 'nodeName', 'spec.nodeName');
  if (nodeName !== '' && !isSubdomain(nodeName))
    throw new Refused(`spec.nodeName is ${show(nodeName)}, not an RFC 1123 subdomain`);
  const record: PodRecord = {
    kind: 'Pod',
    namespace: meta.namespace,
    name: meta.name,
    cgroupUid: readCgroupUid(meta),
    nodeName: intern(nodeName),
    socketLb: label === 'off' ? 'off' : 'default',
  };
  const fault = `metadata.labels[${SOCKET_LB_LABEL}] is ${show(label)}, which means nothing; only "off" does`;
  return { outcome: 'record', record, faults: label === 'off' ? [] : [fault] };
}

/** A Pod as the API or a manifest has it. Never throws. */
export function decodePod(raw: unknown): Decoded<PodRecord> {
  return guarded('Pod', raw, readPod);
}
