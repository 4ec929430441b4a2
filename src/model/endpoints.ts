/**
 * From the EndpointSlices of a service to the backends of one of its ports: the rules of kube-proxy's
 * endpointslicecache.go and topology.go (Kubernetes 1.36, with PreferSameTrafficDistribution, which is on
 * by default there).
 */
import { addressSortKey } from './address.ts';
import type { Backend } from './desired.ts';
import type { EndpointRecord, Family, Protocol, SliceRecord } from './records.ts';

/** One endpoint of one service port: duplicates across slices are one already. */
export interface Endpoint {
  readonly record: EndpointRecord;
  readonly port: number;
}

/** Where the model runs, as far as the choice of endpoints depends on it. */
export interface Locality {
  /** Name of this node. Empty: no endpoint is local. */
  readonly name: string;
  /** Zone of this node; empty when unknown. */
  readonly zone: string;
}

/** Which pools a service port may need. */
export type PoolNeed = 'cluster' | 'local' | 'both';

export interface Pools {
  /** Sorted by address bytes, then port. Empty when not needed. */
  readonly cluster: readonly Backend[];
  readonly local: readonly Backend[];
  /** Whether any node has a usable endpoint, even if this one may not use it. */
  readonly any: boolean;
  /** Endpoints of the larger pool beyond BACKENDS_MAX: they get no new connections from here. */
  readonly beyond: number;
}

const NO_BACKENDS: readonly Backend[] = [];

/**
 * The most backends of a pool. Slots and member ids of nft mode stand in the 16 bits of a port, and a pool that is
 * replaced whole needs ids for the old and the new ones (src/dataplane/nft/pool.ts). Without a limit, whoever may write
 * EndpointSlices could stop the proxy of every node. Ten times more than any cluster of Kubernetes' tested size has.
 */
export const BACKENDS_MAX = 32_767;

/** Slices in the byte order of their names, so that nothing depends on the order in which they came. */
export function orderSlices(slices: readonly SliceRecord[]): readonly SliceRecord[] {
  for (let i = 1; i < slices.length; i++) {
    if (slices[i]!.name < slices[i - 1]!.name) {
      return [...slices].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    }
  }
  return slices;
}

interface Candidate extends Endpoint {
  readonly sortKey: string;
  readonly arrival: number;
}

function compareCandidates(a: Candidate, b: Candidate): number {
  if (a.sortKey !== b.sortKey) return a.sortKey < b.sortKey ? -1 : 1;
  return a.port - b.port || a.arrival - b.arrival;
}

/**
 * Makes one endpoint of those with the same address and port. A running pod wins over a terminating one,
 * whose address may have been given away again; among running ones the later wins, among terminating ones
 * the earlier. (kube-proxy leaves the order of slices to chance; here it is the order of their names.)
 */
function foldDuplicates(sorted: readonly Candidate[]): Endpoint[] {
  const folded: Endpoint[] = [];
  let last: Candidate | null = null;
  for (const next of sorted) {
    if (last && last.sortKey === next.sortKey && last.port === next.port) {
      if (!next.record.terminating) folded[folded.length - 1] = next;
    } else {
      folded.push(next);
    }
    last = next;
  }
  return folded;
}

/**
 * The endpoints of one service port in one family, sorted by address bytes, then port; no duplicates.
 *
 * @param slices of the service, ordered by orderSlices()
 * @param portName the name of the service port: it is what slices and services are matched by, not the number
 */
export function collectEndpoints(
  slices: readonly SliceRecord[],
  family: Family,
  portName: string,
  protocol: Protocol,
): Endpoint[] {
  const candidates: Candidate[] = [];
  for (const slice of slices) {
    if (slice.family !== family) continue;
    for (const port of slice.ports) {
      if (port.name !== portName || port.protocol !== protocol || port.port === 0) continue;
      for (const record of slice.endpoints) {
        const sortKey = addressSortKey(record.address);
        candidates.push({ record, port: port.port, sortKey, arrival: candidates.length });
      }
    }
  }
  return foldDuplicates(candidates.sort(compareCandidates));
}

/** A missing node name never makes an endpoint local, not even on a node without a name. */
export function isLocal(record: EndpointRecord, node: Locality): boolean {
  return node.name !== '' && record.nodeName === node.name;
}

/** What answers when nothing is ready: it is being deleted, and still serves. */
function isLastResort(record: EndpointRecord): boolean {
  return !record.ready && record.serving && record.terminating;
}

/**
 * Which hints count: those for nodes if every ready endpoint has one and one of them names this node, else
 * those for zones by the same rule, else none (KEP-2433, KEP-3015).
 */
function hintsThatCount(endpoints: readonly Endpoint[], node: Locality): 'node' | 'zone' | 'none' {
  let allForNodes = true;
  let allForZones = true;
  let thisNode = false;
  let thisZone = false;
  for (const { record } of endpoints) {
    if (!record.ready) continue;
    if (record.nodeHints.length === 0) allForNodes = false;
    else if (record.nodeHints.includes(node.name)) thisNode = true;
    if (record.zoneHints.length === 0) allForZones = false;
    else if (record.zoneHints.includes(node.zone)) thisZone = true;
  }
  if (allForNodes && thisNode) return 'node';
  return allForZones && thisZone ? 'zone' : 'none';
}

function clusterMembers(endpoints: readonly Endpoint[], node: Locality): Endpoint[] {
  const hints = hintsThatCount(endpoints, node);
  const ready = endpoints.filter(({ record }) => {
    if (!record.ready) return false;
    if (hints === 'node') return record.nodeHints.includes(node.name);
    return hints === 'none' || record.zoneHints.includes(node.zone);
  });
  return ready.length > 0 ? ready : endpoints.filter(({ record }) => isLastResort(record));
}

function localMembers(endpoints: readonly Endpoint[], node: Locality): Endpoint[] {
  const local = endpoints.filter(({ record }) => isLocal(record, node));
  const ready = local.filter(({ record }) => record.ready);
  return ready.length > 0 ? ready : local.filter(({ record }) => isLastResort(record));
}

function toBackends(endpoints: readonly Endpoint[], node: Locality): readonly Backend[] {
  if (endpoints.length === 0) return NO_BACKENDS;
  return endpoints.map(({ record, port }) => ({
    address: record.address,
    port,
    local: isLocal(record, node),
  }));
}

/** Whether two lists of backends are the same, in order. */
export function sameBackends(a: readonly Backend[], b: readonly Backend[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    const left = a[i]!;
    const right = b[i]!;
    if (left.address !== right.address || left.port !== right.port || left.local !== right.local)
      return false;
  }
  return true;
}

/** The other list when it says the same, so that equal pools are stored once. */
export function shareBackends(list: readonly Backend[], other: readonly Backend[]): readonly Backend[] {
  return sameBackends(list, other) ? other : list;
}

/**
 * The pools of one service port.
 *
 * @param endpoints from collectEndpoints()
 */
export function choosePools(endpoints: readonly Endpoint[], need: PoolNeed, node: Locality): Pools {
  const any = endpoints.some(({ record }) => record.ready || isLastResort(record));
  if (!any) return { cluster: NO_BACKENDS, local: NO_BACKENDS, any, beyond: 0 };
  const allCluster = need === 'local' ? [] : clusterMembers(endpoints, node);
  const allLocal = need === 'cluster' ? [] : localMembers(endpoints, node);
  const cluster = toBackends(allCluster.slice(0, BACKENDS_MAX), node);
  const local = toBackends(allLocal.slice(0, BACKENDS_MAX), node);
  const beyond = Math.max(allCluster.length, allLocal.length, BACKENDS_MAX) - BACKENDS_MAX;
  return { cluster, local: shareBackends(local, cluster), any, beyond };
}

/**
 * The backends that may go on with the flows they have: all that serve, whatever the policies, hints and
 * terminations say about new ones. A UDP flow to any other backend is stale.
 */
export function servingBackends(endpoints: readonly Endpoint[], node: Locality): readonly Backend[] {
  return toBackends(
    endpoints.filter(({ record }) => record.serving || record.ready),
    node,
  );
}

/**
 * How many distinct addresses of this family are ready on this node: what a load balancer's health check
 * asks for. Terminating endpoints may still serve, but the check must fail so that the balancer turns away.
 *
 * @param slices of the service, ordered by orderSlices()
 */
export function countLocalReady(slices: readonly SliceRecord[], family: Family, node: Locality): number {
  const seenPorts = new Set<string>();
  const addresses = new Set<string>();
  for (const slice of slices) {
    if (slice.family !== family) continue;
    for (const { name, protocol } of slice.ports) {
      const port = `${protocol} ${name}`;
      if (seenPorts.has(port)) continue;
      seenPorts.add(port);
      for (const { record } of collectEndpoints(slices, family, name, protocol)) {
        if (record.ready && isLocal(record, node)) addresses.add(record.address);
      }
    }
  }
  return addresses.size;
}
