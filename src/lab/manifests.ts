/** API-shaped objects for the pods and nodes of a lab, and the directory from which its agents read them. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { stringify } from 'yaml';
import type { Family, Protocol } from '../model/records.ts';
import { listed, type NodePlan, type PerFamily } from './plan.ts';

/** A Kubernetes object as the API shows it. */
export interface ApiObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

export interface ServicePortSpec {
  readonly name?: string;
  readonly protocol?: Protocol;
  readonly port: number;
  /** Port of the pods. Default: the same. */
  readonly targetPort?: number;
  readonly nodePort?: number;
}

export interface ServiceSpec {
  readonly name: string;
  /** Default 'default'. */
  readonly namespace?: string;
  /** One per family, the primary first. */
  readonly clusterIPs: readonly string[];
  readonly ports: readonly ServicePortSpec[];
  /** Default 'ClusterIP'. */
  readonly type?: 'ClusterIP' | 'NodePort' | 'LoadBalancer';
  readonly selector?: Readonly<Record<string, string>>;
  readonly externalTrafficPolicy?: 'Cluster' | 'Local';
  readonly internalTrafficPolicy?: 'Cluster' | 'Local';
  /** sessionAffinity: ClientIP with this timeout. */
  readonly affinitySeconds?: number;
  readonly externalIPs?: readonly string[];
  readonly loadBalancerIPs?: readonly string[];
  readonly loadBalancerSourceRanges?: readonly string[];
  readonly healthCheckNodePort?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Leaves out what is undefined, so that the text holds only what was said. */
function said<T extends object>(fields: T): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

function meta(spec: {
  name: string;
  namespace?: string;
  labels?: object;
  annotations?: object;
}): ApiObject['metadata'] {
  const { name, labels, annotations } = spec;
  return said({ name, namespace: spec.namespace ?? 'default', labels, annotations });
}

export function serviceObject(spec: ServiceSpec): ApiObject {
  const affinity = spec.affinitySeconds;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: meta(spec),
    spec: said({
      type: spec.type ?? 'ClusterIP',
      clusterIP: spec.clusterIPs[0],
      clusterIPs: spec.clusterIPs,
      ipFamilies: spec.clusterIPs.map((address) => (address.includes(':') ? 'IPv6' : 'IPv4')),
      selector: spec.selector,
      externalTrafficPolicy: spec.externalTrafficPolicy,
      internalTrafficPolicy: spec.internalTrafficPolicy,
      sessionAffinity: affinity ? 'ClientIP' : 'None',
      sessionAffinityConfig: affinity ? { clientIP: { timeoutSeconds: affinity } } : undefined,
      externalIPs: spec.externalIPs,
      loadBalancerSourceRanges: spec.loadBalancerSourceRanges,
      healthCheckNodePort: spec.healthCheckNodePort,
      ports: spec.ports.map((port) =>
        said({
          name: port.name,
          protocol: port.protocol ?? 'TCP',
          port: port.port,
          targetPort: port.targetPort ?? port.port,
          nodePort: port.nodePort,
        }),
      ),
    }),
    ...(spec.loadBalancerIPs
      ? { status: { loadBalancer: { ingress: spec.loadBalancerIPs.map((ip) => ({ ip })) } } }
      : {}),
  };
}

/** What a slice says of one pod; plans and places of the lab fit. */
export interface EndpointSpec {
  readonly name: string;
  readonly node: string;
  readonly addresses: PerFamily;
  /** 'ready' (default), 'terminating' (serving still), 'stopped' (terminating, not serving), 'unready'. */
  readonly condition?: 'ready' | 'terminating' | 'stopped' | 'unready';
  readonly zone?: string;
  readonly forZones?: readonly string[];
  readonly forNodes?: readonly string[];
}

export interface SliceSpec {
  readonly service: string;
  readonly namespace?: string;
  readonly families: readonly Family[];
  readonly ports: readonly { readonly name?: string; readonly protocol?: Protocol; readonly port: number }[];
  readonly endpoints: readonly EndpointSpec[];
}

const CONDITIONS = {
  ready: { ready: true, serving: true, terminating: false },
  terminating: { ready: false, serving: true, terminating: true },
  stopped: { ready: false, serving: false, terminating: true },
  unready: { ready: false, serving: false, terminating: false },
} as const;

function endpointObject(spec: EndpointSpec, namespace: string, family: Family): object {
  const hints = said({
    forZones: spec.forZones?.map((name) => ({ name })),
    forNodes: spec.forNodes?.map((name) => ({ name })),
  });
  return said({
    addresses: [spec.addresses[family]],
    conditions: CONDITIONS[spec.condition ?? 'ready'],
    nodeName: spec.node,
    zone: spec.zone,
    hints: Object.keys(hints).length ? hints : undefined,
    targetRef: { kind: 'Pod', namespace, name: spec.name },
  });
}

/** One EndpointSlice a family, as the EndpointSlice controller would make them. */
export function sliceObjects(spec: SliceSpec): ApiObject[] {
  const namespace = spec.namespace ?? 'default';
  return spec.families.map((family) => ({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `${spec.service}-ipv${family}`,
      namespace,
      labels: { 'kubernetes.io/service-name': spec.service },
    },
    addressType: family === 4 ? 'IPv4' : 'IPv6',
    ports: spec.ports.map((port) => ({
      name: port.name ?? '',
      protocol: port.protocol ?? 'TCP',
      port: port.port,
    })),
    endpoints: spec.endpoints.map((endpoint) => endpointObject(endpoint, namespace, family)),
  }));
}

export function nodeObject(node: NodePlan, families: readonly Family[]): ApiObject {
  const zone = node.zone ? { 'topology.kubernetes.io/zone': node.zone } : {};
  const podCIDRs = listed(node.podCidrs, families);
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: node.name, labels: { 'kubernetes.io/hostname': node.name, ...zone, ...node.labels } },
    spec: { podCIDR: podCIDRs[0], podCIDRs },
    status: {
      addresses: [
        ...listed(node.addresses, families).map((address) => ({ type: 'InternalIP', address })),
        { type: 'Hostname', address: node.name },
      ],
    },
  };
}

export function yamlText(objects: readonly ApiObject[]): string {
  return objects
    .map((object) => stringify(object, { lineWidth: 0, aliasDuplicateObjects: false }))
    .join('---\n');
}

/** The manifests of one lab: a file a name. Readers never see half a file. */
export class ManifestDir {
  readonly path: string;
  readonly #drafts: string;

  constructor(dir: string, drafts: string) {
    this.path = dir;
    this.#drafts = drafts;
    mkdirSync(dir, { recursive: true });
    mkdirSync(drafts, { recursive: true });
  }

  /** Writes or replaces NAME.yaml; returns its text. */
  write(name: string, objects: readonly ApiObject[]): string {
    return this.writeText(name, yamlText(objects));
  }

  writeText(name: string, text: string): string {
    const draft = path.join(this.#drafts, `${name}.yaml`);
    writeFileSync(draft, text);
    renameSync(draft, this.#file(name));
    return text;
  }

  /** Empty when there is no such file. */
  read(name: string): string {
    try {
      return readFileSync(this.#file(name), 'utf8');
    } catch {
      return '';
    }
  }

  remove(name: string): void {
    rmSync(this.#file(name), { force: true });
  }

  #file(name: string): string {
    return path.join(this.path, `${name}.yaml`);
  }
}
