/** The UID of an object that an event is about: `kubectl describe` shows only events that carry it. */
import { isRaw } from '../decode/check.ts';
import type { ClusterEvent } from '../source.ts';
import type { Cluster } from './cluster.ts';
import { get, type RequestLimits } from './request.ts';

const BYTES_MAX = 4 * 1024 * 1024;

function pathOf(about: ClusterEvent['about']): string {
  const [namespace, name] = about.kind === 'Node' ? ['', about.name] : about.key.split('/', 2);
  const of =
    about.kind === 'Node' ? '/api/v1/nodes' : `/api/v1/namespaces/${encodeURIComponent(namespace!)}/services`;
  return `${of}?${new URLSearchParams({ fieldSelector: `metadata.name=${name}` })}`;
}

/**
 * '' when there is no such object. A list with a field selector, because `list` is the right that the agent has: the
 * server reads one key for it. Throws like get().
 */
export async function uidOf(
  cluster: Cluster,
  about: ClusterEvent['about'],
  limits: RequestLimits,
): Promise<string> {
  const answer = await get(cluster, pathOf(about), limits);
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of answer.chunks) {
      parts.push(chunk);
      bytes += chunk.length;
      if (bytes > BYTES_MAX) return '';
    }
  } finally {
    answer.close();
  }
  const list: unknown = JSON.parse(Buffer.concat(parts).toString());
  const [object] = isRaw(list) && Array.isArray(list.items) ? (list.items as unknown[]) : [];
  const metadata = isRaw(object) && isRaw(object.metadata) ? object.metadata : {};
  return typeof metadata.uid === 'string' ? metadata.uid : '';
}
