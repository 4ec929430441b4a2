/** The clusters of the bench as objects: many services that nobody calls, and a few that are called. */
import type { Family } from '../../src/model/records.ts';

/** Ports of the load program's server, and of the pod that answers with its name. */
export const ECHO_PORT = 8080;
export const SWALLOW_PORT = 8081;
export const NAME_PORT = 9090;
/** The service's ports for them. */
export const SERVICE_PORTS = { echo: 80, swallow: 81, name: 82 } as const;
const NODE_PORT_FIRST = 30_000;
/** What the EndpointSlice controller puts into one slice at most by default. */
const SLICE_ENDPOINTS_MAX = 100;
/** Of a service that nobody calls, where nothing else is asked for. */
export const FAKE_ENDPOINTS = 10;
const NAMESPACES = 50;

export interface Backend {
  readonly node: string;
  readonly addresses: Readonly<Partial<Record<Family, string>>>;
}

function v4(base: number, index: number): string {
  const value = (base + index) >>> 0;
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}
/** In RFC 5952's form: the API server takes no other. */
function v6(prefix: string, index: number): string {
  const [high, low] = [(index + 1) >>> 16, (index + 1) & 0xffff];
  return `${prefix}::${high === 0 ? '' : `${high.toString(16)}:`}${low.toString(16)}`;
}

/** Of service number `index`; 10.201.0.0 upwards. */
export function clusterIp(family: Family, index: number): string {
  return family === 4 ? v4(0x0ac90000, index + 1) : v6('fd00:201', index);
}
/** Load-balancer addresses of called services: 198.18.0.0/15 is for benchmarks (RFC 2544, RFC 5180). */
export function balancerIp(family: Family, index: number): string {
  return family === 4 ? v4(0xc6120000, index + 1) : v6('2001:2', index);
}
/** Of the service that stands at `place` in the list of called ones. */
export function nodePort(place: number): number {
  return NODE_PORT_FIRST + place;
}

const PORTS = [
  { name: 'echo', protocol: 'TCP', port: SERVICE_PORTS.echo, targetPort: ECHO_PORT },
  { name: 'echo-udp', protocol: 'UDP', port: SERVICE_PORTS.echo, targetPort: ECHO_PORT },
  { name: 'swallow', protocol: 'TCP', port: SERVICE_PORTS.swallow, targetPort: SWALLOW_PORT },
  { name: 'name', protocol: 'TCP', port: SERVICE_PORTS.name, targetPort: NAME_PORT },
] as const;

const serviceName = (index: number) => `service-${index}`;
const namespaceOf = (index: number) => `team-${index % NAMESPACES}`;

/** `status` undefined: nothing is said of it. */
function service(index: number, families: readonly Family[], spec: object, status?: object): object {
  const ips = families.map((family) => clusterIp(family, index));
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: serviceName(index), namespace: namespaceOf(index) },
    spec: {
      ...{ clusterIP: ips[0], clusterIPs: ips, ipFamilies: families.map((family) => `IPv${family}`) },
      ipFamilyPolicy: families.length > 1 ? 'RequireDualStack' : 'SingleStack',
      ...spec,
    },
    ...(status && { status }),
  };
}

/** A service of type ClusterIP with one port. */
function idleService(index: number, families: readonly Family[]): object {
  const ports = [{ name: 'echo', protocol: 'TCP', port: 80, targetPort: 8080 }];
  return service(index, families, { type: 'ClusterIP', ports });
}

/** A service with every port and, at its place in the list of called ones, a NodePort and a balancer address. */
function calledService(index: number, place: number, families: readonly Family[]): object {
  const ports = PORTS.map((port) =>
    port.name.startsWith('echo') ? { ...port, nodePort: nodePort(place) } : port,
  );
  const ingress = families.map((family) => ({ ip: balancerIp(family, index) }));
  // Those node ports that are asked for, and no others.
  const spec = { type: 'LoadBalancer', allocateLoadBalancerNodePorts: false, ports };
  return service(index, families, spec, { loadBalancer: { ingress } });
}

interface Endpoint {
  readonly addresses: readonly string[];
  readonly nodeName: string;
  readonly conditions: { readonly ready: boolean };
}

/** The slices of a service with these backends. */
export function slices(
  index: number,
  families: readonly Family[],
  backends: readonly Backend[],
  ports: readonly { readonly name: string; readonly protocol: string; readonly port: number }[],
): object[] {
  const objects: object[] = [];
  for (const family of families) {
    const endpoints: Endpoint[] = backends.map(({ node, addresses }) => ({
      addresses: [addresses[family]!],
      nodeName: node,
      conditions: { ready: true },
    }));
    for (let at = 0; at === 0 || at < endpoints.length; at += SLICE_ENDPOINTS_MAX) {
      objects.push({
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: {
          name: `${serviceName(index)}-v${family}-${at / SLICE_ENDPOINTS_MAX}`,
          namespace: namespaceOf(index),
          labels: { 'kubernetes.io/service-name': serviceName(index) },
        },
        addressType: `IPv${family}`,
        ports,
        endpoints: endpoints.slice(at, at + SLICE_ENDPOINTS_MAX),
      });
    }
  }
  return objects;
}

const IDLE_PORTS = [{ name: 'echo', protocol: 'TCP', port: 8080 }];
const CALLED_PORTS = PORTS.map(({ name, protocol, targetPort }) => ({ name, protocol, port: targetPort }));

/** Backends that are nowhere: on other nodes, in a part of the pod network that the lab does not use. */
export function fakeBackends(index: number, count: number): Backend[] {
  return Array.from({ length: count }, (_, at) => {
    const pod = index * count + at;
    return { node: `other-${pod % 100}`, addresses: { 4: v4(0x0a800000, pod + 1), 6: v6('fd00:128', pod) } };
  });
}

/** The numbers of the first, the middle and the last of so many services, each once. */
export function calledAmong(services: number): number[] {
  return [...new Set([0, services >> 1, services - 1])];
}

export interface ClusterSize {
  readonly services: number;
  /** Of each service that nobody calls. */
  readonly endpoints: number;
}

export interface ClusterSpec extends Partial<ClusterSize> {
  readonly services: number;
  readonly families: readonly Family[];
  readonly backends: readonly Backend[];
}

/** Every Service and EndpointSlice of the cluster. */
export function clusterObjects({ services, endpoints, families, backends }: ClusterSpec): object[] {
  const called = calledAmong(services);
  const objects: object[] = [];
  for (let index = 0; index < services; index++) {
    const place = called.indexOf(index);
    if (place >= 0) {
      objects.push(calledService(index, place, families), ...slices(index, families, backends, CALLED_PORTS));
      continue;
    }
    const fake = fakeBackends(index, endpoints ?? FAKE_ENDPOINTS);
    objects.push(idleService(index, families), ...slices(index, families, fake, IDLE_PORTS));
  }
  return objects;
}

/** A called service that is no part of clusterObjects(), for changes: number `index`, with these backends. */
export function changingObjects(
  index: number,
  families: readonly Family[],
  backends: readonly Backend[],
): object[] {
  return [calledService(index, 3, families), ...slices(index, families, backends, CALLED_PORTS)];
}
