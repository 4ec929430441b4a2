/**
 * The compact records that every source delivers, whatever it reads from. They hold only what the model
 * needs: 10,000 slices of 10 endpoints are 14 MiB as these records and 66 MiB as API objects.
 *
 * Records are already *checked*: a source refuses a malformed object by name (see errors.ts) and delivers
 * nothing for it. Strings that name things (namespace, name, port name) match the Kubernetes rules for
 * names (RFC 1123 labels and subdomains), so they hold no quote, no space and no control character.
 */

export type Protocol = 'TCP' | 'UDP' | 'SCTP';
export type Family = 4 | 6;
/** A canonical address in text: IPv4 dotted decimal, IPv6 as in RFC 5952. Made only by parseAddress(). */
export type Address = string & { readonly __address: unique symbol };
/** A canonical CIDR in text, host bits zero. Made only by parseCidr(). */
export type Cidr = string & { readonly __cidr: unique symbol };
/** "namespace/name". */
export type ObjectKey = string;

export interface ServicePortRecord {
  /** Empty when the service has one unnamed port. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** 0 when the service has none. */
  readonly nodePort: number;
}

export interface ServiceRecord {
  readonly kind: 'Service';
  readonly namespace: string;
  readonly name: string;
  /** Empty when the source has none (manifests). */
  readonly uid: string;
  /** Milliseconds since the epoch, 0 when unknown. Decides who keeps a frontend that two services claim. */
  readonly createdMs: number;
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer';
  /** 1 or 2, at most one of each family; never "None". */
  readonly clusterIPs: readonly Address[];
  readonly externalIPs: readonly Address[];
  /** Addresses from status.loadBalancer.ingress whose ipMode is absent or VIP. */
  readonly loadBalancerIPs: readonly Address[];
  /** Canonical, never overlapping only by accident: as given. Empty: no restriction. */
  readonly sourceRanges: readonly Cidr[];
  readonly ports: readonly ServicePortRecord[];
  readonly externalPolicy: 'Cluster' | 'Local';
  readonly internalPolicy: 'Cluster' | 'Local';
  /** Session affinity by client address, in seconds; 0: none. */
  readonly affinitySeconds: number;
  /** 0 when there is none. */
  readonly healthCheckNodePort: number;
  /** Annotations with the prefix `triplane.dev/` only, without the prefix. */
  readonly settings: Readonly<Record<string, string>>;
}

export interface EndpointRecord {
  /** addresses[0], canonical. */
  readonly address: Address;
  /** Empty when unknown. */
  readonly nodeName: string;
  /** A missing `ready` means true, and so does a missing `serving` (kube-proxy's endpointslicecache.go). */
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  /** Empty when unknown. */
  readonly zone: string;
  readonly zoneHints: readonly string[];
  readonly nodeHints: readonly string[];
}

export interface SlicePortRecord {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
}

export interface SliceRecord {
  readonly kind: 'EndpointSlice';
  readonly namespace: string;
  readonly name: string;
  /** From the label kubernetes.io/service-name; a slice without it is not delivered. */
  readonly serviceName: string;
  /** FQDN slices are not delivered. */
  readonly family: Family;
  readonly ports: readonly SlicePortRecord[];
  readonly endpoints: readonly EndpointRecord[];
  /** Annotation endpoints.kubernetes.io/last-change-trigger-time in milliseconds since the epoch, 0: none. */
  readonly triggerMs: number;
}

export interface NodeRecord {
  readonly kind: 'Node';
  readonly name: string;
  readonly uid: string;
  /** Label topology.kubernetes.io/zone; empty when absent. */
  readonly zone: string;
  /** Status addresses of type InternalIP, then ExternalIP, in their order. */
  readonly addresses: readonly Address[];
  readonly podCIDRs: readonly Cidr[];
  /** metadata.deletionTimestamp is set. */
  readonly deleting: boolean;
  /** Keys of the taints. */
  readonly taints: readonly string[];
  /** Annotations with the prefix `triplane.dev/` only, without the prefix. */
  readonly settings: Readonly<Record<string, string>>;
}

export interface ServiceCidrRecord {
  readonly kind: 'ServiceCIDR';
  readonly name: string;
  readonly cidrs: readonly Cidr[];
}

/** A pod that has the label triplane.dev/socket-lb; others are not delivered, nor those that have ended. */
export interface PodRecord {
  readonly kind: 'Pod';
  readonly namespace: string;
  readonly name: string;
  /** By which kubelet names the pod's cgroup: the UID, of a mirror pod that of the static pod behind it. */
  readonly cgroupUid: string;
  /** Empty while it is not scheduled. */
  readonly nodeName: string;
  /** 'default': the label says something else than "off". */
  readonly socketLb: 'off' | 'default';
}

export type ClusterRecord = ServiceRecord | SliceRecord | NodeRecord | ServiceCidrRecord | PodRecord;
export type RecordKind = ClusterRecord['kind'];

/** One change of cluster state. `key` is "namespace/name", or "name" for Node and ServiceCIDR. */
export type RecordChange =
  | { readonly op: 'set'; readonly record: ClusterRecord }
  | { readonly op: 'delete'; readonly kind: RecordKind; readonly key: ObjectKey };

/** The key under which a record is stored: "namespace/name", or "name" for cluster-wide kinds. */
export function keyOf(record: ClusterRecord): ObjectKey {
  return 'namespace' in record ? `${record.namespace}/${record.name}` : record.name;
}
