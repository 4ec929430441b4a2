/**
 * From one Service and its EndpointSlices to its frontends and pools: the rules of kube-proxy's nftables
 * proxier (syncProxyRules) and serviceport.go. Pure; nothing here knows of other services.
 */
import { cidrContains, familyOf, isLoopback, mergeCidrs } from './address.ts';
import type { Answer, Backend, DesiredPort, DesiredService, Frontend, FrontendKind } from './desired.ts';
import {
  choosePools,
  collectEndpoints,
  countLocalReady,
  type Locality,
  orderSlices,
  type PoolNeed,
  type Pools,
  servingBackends,
  shareBackends,
} from './endpoints.ts';
import type {
  Address,
  Cidr,
  Family,
  ObjectKey,
  Protocol,
  ServicePortRecord,
  ServiceRecord,
  SliceRecord,
} from './records.ts';

/** What the rules need to know of this node. */
export interface NodeContext extends Locality {
  /** The addresses on which NodePorts listen, of both families. Loopback addresses are passed over. */
  readonly nodePortAddresses: readonly Address[];
  /** The addresses of this node, of both families; the first of each family is its primary one. */
  readonly nodeAddresses: readonly Address[];
  /** kube-proxy's --masquerade-all: masquerade everything that goes to a ClusterIP. */
  readonly masqueradeAll: boolean;
}

/** What the health check of a load balancer is told (spec.healthCheckNodePort). */
export interface ServiceHealth {
  /** 0: the service has no health check. */
  readonly healthCheckNodePort: number;
  /** Distinct ready endpoint addresses on this node, by family. Not counted without a health check. */
  readonly localReady: Readonly<Record<Family, number>>;
}

/** The backends of one TCP or UDP service port that may keep the flows they have. See conntrack.ts. */
export interface ServingPort {
  /** As DesiredPort's. */
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly backends: readonly Backend[];
}

/** A frontend that two ports of one service claim, which only manifests can say. */
export interface ShadowedFrontend {
  readonly frontend: Frontend;
  /** The name of the DesiredPort that keeps it. */
  readonly by: string;
}

export interface ServiceResult {
  /** null: the service has no frontend. */
  readonly desired: DesiredService | null;
  readonly health: ServiceHealth;
  /** Only TCP and UDP ports. */
  readonly serving: readonly ServingPort[];
  /** Nearly always empty. */
  readonly shadowed: readonly ShadowedFrontend[];
  /** Of the port with the most: endpoints for which its pools have no room; nearly always 0. */
  readonly beyond: number;
}

const NO_HEALTH: ServiceHealth = { healthCheckNodePort: 0, localReady: { 4: 0, 6: 0 } };
const NONE: readonly never[] = [];

/** What one service has in one family: the same for all its ports. */
interface Faces {
  readonly family: Family;
  readonly clusterIP: Address;
  readonly externalIPs: readonly Address[];
  readonly loadBalancerIPs: readonly Address[];
  readonly sourceRanges: readonly Cidr[] | null;
  readonly nodePortAddresses: readonly Address[];
}

/** The key under which frontends of all services are compared: no two may have the same. */
export function frontendKey(address: Address, protocol: Protocol, port: number): string {
  return `${address} ${protocol} ${port}`;
}

function ofFamily(addresses: readonly Address[], family: Family): readonly Address[] {
  if (addresses.length === 0) return NONE;
  return addresses.filter((address, at) => familyOf(address) === family && addresses.indexOf(address) === at);
}

/**
 * Who may reach the load-balancer addresses of one family; null: everybody, which is also so when no range
 * is of this family, or one holds all of it. A request from this node to a load-balancer address that is
 * also a local address has that very address as its source: it may come in if the node may.
 */
function allowedSources(
  service: ServiceRecord,
  family: Family,
  loadBalancerIPs: readonly Address[],
  node: NodeContext,
): readonly Cidr[] | null {
  if (service.sourceRanges.length === 0 || loadBalancerIPs.length === 0) return null;
  const ranges = service.sourceRanges.filter((range) => familyOf(range) === family);
  if (ranges.length === 0 || ranges.some((range) => range.endsWith('/0'))) return null;
  const primary = node.nodeAddresses.find((address) => familyOf(address) === family);
  if (primary !== undefined && ranges.some((range) => cidrContains(range, primary))) {
    const bits = family === 4 ? 32 : 128;
    ranges.push(...loadBalancerIPs.map((address) => `${address}/${bits}` as Cidr));
  }
  return mergeCidrs(ranges);
}

function facesOf(service: ServiceRecord, clusterIP: Address, node: NodeContext): Faces {
  const family = familyOf(clusterIP);
  const loadBalancerIPs = ofFamily(service.loadBalancerIPs, family);
  const hasNodePort = service.ports.some((port) => port.nodePort !== 0);
  return {
    family,
    clusterIP,
    externalIPs: ofFamily(service.externalIPs, family),
    loadBalancerIPs,
    sourceRanges: allowedSources(service, family, loadBalancerIPs, node),
    nodePortAddresses: hasNodePort
      ? ofFamily(node.nodePortAddresses, family).filter((address) => !isLoopback(address))
      : NONE,
  };
}

/**
 * externalTrafficPolicy counts only for services that are meant to be reached from outside; a load-balancer
 * status that a ClusterIP service has kept does not make it one (pkg/api/v1/service ExternalPolicyLocal).
 */
function isExternallyLocal(service: ServiceRecord): boolean {
  const meantForOutside = service.type !== 'ClusterIP' || service.externalIPs.length > 0;
  return meantForOutside && service.externalPolicy === 'Local';
}

function poolNeed(service: ServiceRecord, faces: Faces, nodePort: number): PoolNeed {
  const external = nodePort !== 0 || faces.externalIPs.length > 0 || faces.loadBalancerIPs.length > 0;
  const cluster = service.internalPolicy === 'Cluster' || external;
  const local = service.internalPolicy === 'Local' || (external && isExternallyLocal(service));
  if (cluster && local) return 'both';
  return cluster ? 'cluster' : 'local';
}

/** What one service port answers through each kind of frontend. */
interface Answers {
  readonly internal: Answer;
  readonly externalInside: Answer;
  readonly externalOutside: Answer;
}

function answersOf(service: ServiceRecord, pools: Pools): Answers {
  if (!pools.any) return { internal: 'reject', externalInside: 'reject', externalOutside: 'reject' };
  const whenLocal: Answer = pools.local.length > 0 ? 'local' : 'drop';
  return {
    internal: service.internalPolicy === 'Local' ? whenLocal : 'cluster',
    // Traffic from inside is treated as if it went out to the load balancer and came back somewhere else.
    externalInside: 'cluster',
    externalOutside: isExternallyLocal(service) ? whenLocal : 'cluster',
  };
}

/**
 * The frontends of one port. When a service gives itself one address twice, the later kind of these wins:
 * ClusterIP, ExternalIP, LoadBalancer (so that its source ranges hold); a NodePort never does.
 */
function frontendsOf(
  service: ServiceRecord,
  port: ServicePortRecord,
  faces: Faces,
  answers: Answers,
  node: NodeContext,
): Frontend[] {
  const { protocol } = port;
  const external = (kind: FrontendKind, address: Address, number: number): Frontend => ({
    address,
    port: number,
    protocol,
    kind,
    inside: answers.externalInside,
    outside: answers.externalOutside,
    masquerade: isExternallyLocal(service) ? 'node' : 'always',
    sourceRanges: kind === 'LoadBalancer' ? faces.sourceRanges : null,
  });
  const internal: Frontend = {
    address: faces.clusterIP,
    port: port.port,
    protocol,
    kind: 'ClusterIP',
    inside: answers.internal,
    outside: answers.internal,
    masquerade: node.masqueradeAll ? 'always' : 'strangers',
    sourceRanges: null,
  };
  const { externalIPs, loadBalancerIPs } = faces;
  const frontends: Frontend[] = [];
  if (!externalIPs.includes(faces.clusterIP) && !loadBalancerIPs.includes(faces.clusterIP)) {
    frontends.push(internal);
  }
  for (const address of externalIPs) {
    if (!loadBalancerIPs.includes(address)) frontends.push(external('ExternalIP', address, port.port));
  }
  for (const address of loadBalancerIPs) frontends.push(external('LoadBalancer', address, port.port));
  if (port.nodePort === 0) return frontends.slice();
  for (const address of faces.nodePortAddresses) {
    const taken = port.nodePort === port.port && frontends.some((frontend) => frontend.address === address);
    if (!taken) frontends.push(external('NodePort', address, port.nodePort));
  }
  // A copy has no spare room, which ten thousand lists of two would otherwise keep.
  return frontends.slice();
}

/**
 * The port with these of its frontends, and only the pools that they refer to; null without frontends.
 * Returns the port itself when nothing changes.
 */
export function withFrontends(port: DesiredPort, frontends: readonly Frontend[]): DesiredPort | null {
  if (frontends.length === 0) return null;
  const refersTo = (answer: Answer) =>
    frontends.some((frontend) => frontend.inside === answer || frontend.outside === answer);
  const cluster = refersTo('cluster') ? port.cluster : NONE;
  const local = refersTo('local') ? port.local : NONE;
  const same =
    frontends.length === port.frontends.length &&
    cluster.length === port.cluster.length &&
    local.length === port.local.length;
  return same ? port : { ...port, cluster, local, frontends };
}

function portName(service: ServiceRecord, port: ServicePortRecord): string {
  const key = `${service.namespace}/${service.name}`;
  return port.name === '' ? key : `${key}:${port.name}`;
}

function draftPort(
  service: ServiceRecord,
  port: ServicePortRecord,
  faces: Faces,
  pools: Pools,
  node: NodeContext,
): DesiredPort {
  return {
    name: portName(service, port),
    family: faces.family,
    protocol: port.protocol,
    affinitySeconds: service.affinitySeconds,
    cluster: pools.cluster,
    local: pools.local,
    frontends: frontendsOf(service, port, faces, answersOf(service, pools), node),
    settings: service.settings,
  };
}

/** Who keeps a frontend that two ports of the same service claim: an explicit address, else the earlier port. */
function ownDuplicates(ports: readonly DesiredPort[]): Map<Frontend, DesiredPort> {
  const owners = new Map<string, { port: DesiredPort; frontend: Frontend }>();
  const losers = new Map<Frontend, DesiredPort>();
  for (const port of ports) {
    for (const frontend of port.frontends) {
      const key = frontendKey(frontend.address, frontend.protocol, frontend.port);
      const owner = owners.get(key);
      if (owner === undefined) {
        owners.set(key, { port, frontend });
      } else if (owner.frontend.kind === 'NodePort' && frontend.kind !== 'NodePort') {
        owners.set(key, { port, frontend });
        losers.set(owner.frontend, port);
      } else {
        losers.set(frontend, owner.port);
      }
    }
  }
  return losers;
}

/** Gives every frontend to one port, and drops what no frontend refers to. */
function settle(key: ObjectKey, drafts: readonly DesiredPort[]): Pick<ServiceResult, 'desired' | 'shadowed'> {
  const losers = drafts.length > 1 ? ownDuplicates(drafts) : new Map<Frontend, DesiredPort>();
  const ports: DesiredPort[] = [];
  for (const draft of drafts) {
    const kept = losers.size > 0 ? draft.frontends.filter((f) => !losers.has(f)) : draft.frontends;
    const port = withFrontends(draft, kept);
    if (port) ports.push(port);
  }
  const shadowed = [...losers].map(([frontend, port]) => ({ frontend, by: port.name }));
  return { desired: ports.length > 0 ? { key, ports: ports.slice() } : null, shadowed };
}

function healthOf(service: ServiceRecord, slices: readonly SliceRecord[], node: NodeContext): ServiceHealth {
  if (service.healthCheckNodePort === 0 || service.type !== 'LoadBalancer' || !isExternallyLocal(service)) {
    return NO_HEALTH;
  }
  return {
    healthCheckNodePort: service.healthCheckNodePort,
    localReady: { 4: countLocalReady(slices, 4, node), 6: countLocalReady(slices, 6, node) },
  };
}

/**
 * What one service is to do on this node, as if it were the only one.
 *
 * @param unordered all EndpointSlices of the service, of both families, in any order
 */
export function computeService(
  service: ServiceRecord,
  unordered: readonly SliceRecord[],
  node: NodeContext,
): ServiceResult {
  const slices = orderSlices(unordered);
  const drafts: DesiredPort[] = [];
  const serving: ServingPort[] = [];
  let beyond = 0;
  for (const clusterIP of service.clusterIPs) {
    const faces = facesOf(service, clusterIP, node);
    for (const port of service.ports) {
      const endpoints = collectEndpoints(slices, faces.family, port.name, port.protocol);
      const pools = choosePools(endpoints, poolNeed(service, faces, port.nodePort), node);
      beyond = Math.max(beyond, pools.beyond);
      const draft = draftPort(service, port, faces, pools, node);
      drafts.push(draft);
      if (port.protocol === 'SCTP') continue;
      const backends = shareBackends(servingBackends(endpoints, node), draft.cluster);
      serving.push({ name: draft.name, family: draft.family, protocol: port.protocol, backends });
    }
  }
  const { desired, shadowed } = settle(`${service.namespace}/${service.name}`, drafts);
  return {
    desired,
    health: healthOf(service, slices, node),
    serving: serving.length > 0 ? serving : NONE,
    shadowed,
    beyond,
  };
}
