/** The changes that benches make to a synthetic cluster, one after the other, each undone by a later one. */
import type { RecordChange } from '../../src/model/records.ts';
import { podsOf, removalOf, type Size, serviceWithSlices, slicesOf, sparePod } from './cluster.ts';

export type ChangeKind =
  | 'service added'
  | 'service removed'
  | 'endpoint changed'
  | 'endpoint added'
  | 'endpoint removed';

/** Up to so many endpoints, adding a service counts as one change. */
const SMALL_ENDPOINTS_MAX = 100;

/** One round of every kind of change; null: puts back what was there, and is not looked at. `random`: [0, 1). */
export function stepsOf(
  size: Size,
  round: number,
  random: () => number,
): (readonly [ChangeKind | null, RecordChange[]])[] {
  // A service of a thousand endpoints is no small change; one of its endpoints is.
  const isSmall = size.endpoints <= SMALL_ENDPOINTS_MAX;
  const fresh = size.services + (round % 1000);
  const some = Math.floor(random() * size.services);
  const pods = podsOf(size, some);
  const spare = sparePod(size, round);
  const replaced = pods.with(Math.floor(random() * pods.length), spare);
  return [
    ...(isSmall ? [['service added', serviceWithSlices(size, fresh)] as const] : []),
    ['endpoint changed', changedSlices(size, some, replaced, pods)],
    [null, changedSlices(size, some, pods, replaced)],
    ['endpoint added', changedSlices(size, some, [...pods, spare], pods)],
    ['endpoint removed', changedSlices(size, some, pods, [...pods, spare])],
    ...(isSmall ? [['service removed', removalOf(size, fresh)] as const] : []),
  ];
}

/** Only slices that differ are delivered, as a source does; one that lost its last endpoint comes empty. */
export function changedSlices(size: Size, service: number, now: number[], before: number[]): RecordChange[] {
  const old = new Map(slicesOf(size, service, before).map((change) => [sliceName(change), change]));
  const changes = slicesOf(size, service, now).filter((change) => {
    const previous = old.get(sliceName(change));
    old.delete(sliceName(change));
    return JSON.stringify(previous) !== JSON.stringify(change);
  });
  for (const change of old.values()) {
    if (change.op === 'set' && change.record.kind === 'EndpointSlice')
      changes.push({ op: 'set', record: { ...change.record, endpoints: [] } });
  }
  return changes;
}

function sliceName(change: RecordChange): string {
  return change.op === 'set' && change.record.kind === 'EndpointSlice' ? change.record.name : '';
}
