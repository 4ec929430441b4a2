/**
 * Thousands of Services, written into etcd as the server itself would: through the server each takes an address from its
 * allocator, 80 a second on two cores; so they take a few seconds. The server stores protobuf and reads JSON as well
 * (k8s.io/apimachinery/pkg/runtime/serializer/recognizer), and learns of them by its own watch of etcd.
 */
import { randomUUID } from 'node:crypto';
import type { ControlPlane } from './control-plane.ts';

/** etcd's --max-txn-ops. */
const OPERATIONS_MAX = 128;
/** Within the server's range, whose allocator takes any address that no IPAddress object has. */
const addressAt = (index: number) => `10.129.${index >> 8}.${index & 255}`;

type Stored = readonly [key: string, object: object];

/** Copies of the Service `template`, which the server made, under each of `names`, with an IPAddress object for each. */
export async function multiplyService(
  plane: ControlPlane,
  template: string,
  names: readonly string[],
): Promise<void> {
  const { body: service } = await plane.call('GET', `/api/v1/namespaces/default/services/${template}`);
  const at = `/apis/networking.k8s.io/v1/ipaddresses/${service.spec.clusterIP}`;
  const { body: claim } = await plane.call('GET', at);
  const copies = names.flatMap((name, index): Stored[] => {
    const address = addressAt(index + 1);
    const spec = { ...service.spec, clusterIP: address, clusterIPs: [address] };
    const parentRef = { ...claim.spec.parentRef, name };
    return [
      [`ipaddresses/${address}`, renamed({ ...claim, spec: { parentRef } }, address)],
      [`services/specs/default/${name}`, renamed({ ...service, spec }, name)],
    ];
  });
  for (let first = 0; first < copies.length; first += OPERATIONS_MAX)
    await put(plane.etcdUrl, copies.slice(first, first + OPERATIONS_MAX));
}

/** The version of an object is etcd's own, and none is stored in it. */
function renamed(object: { metadata: object }, name: string): object {
  return { ...object, metadata: { ...object.metadata, name, uid: randomUUID(), resourceVersion: undefined } };
}

async function put(etcdUrl: string, objects: readonly Stored[]): Promise<void> {
  const base64 = (text: string) => Buffer.from(text).toString('base64');
  const success = objects.map(([key, object]) => ({
    requestPut: { key: base64(`/registry/${key}`), value: base64(JSON.stringify(object)) },
  }));
  const answer = await fetch(`${etcdUrl}/v3/kv/txn`, { method: 'POST', body: JSON.stringify({ success }) });
  if (!answer.ok) throw new Error(`etcd refuses ${objects.length} objects: ${await answer.text()}`);
}
