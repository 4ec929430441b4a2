/**
 * The desired state: what the kernel is to do, with every Kubernetes rule already settled. Dataplanes
 * compile changes of it; they know nothing of Services or EndpointSlices.
 */
import type { Address, Cidr, Family, ObjectKey, Protocol } from './records.ts';

export interface Backend {
  readonly address: Address;
  readonly port: number;
  /** The endpoint runs on this node. */
  readonly local: boolean;
}

export type FrontendKind = 'ClusterIP' | 'NodePort' | 'ExternalIP' | 'LoadBalancer';

/**
 * What answers a packet: one of the two pools of its service port, or nobody.
 * 'reject': TCP reset or ICMP port unreachable. 'drop': silence.
 */
export type Answer = 'cluster' | 'local' | 'reject' | 'drop';

/**
 * When the source address is replaced by this node's:
 * - 'always';
 * - 'strangers': unless the source is a pod (as the local detector says; if it can say nothing: never);
 * - 'node': only for the node's own processes (the source is an address of this node).
 * Hairpin (a backend that reaches itself) is always masqueraded and not said here.
 */
export type Masquerade = 'always' | 'strangers' | 'node';

export interface Frontend {
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
  readonly kind: FrontendKind;
  /** For traffic of pods (as the local detector says) and of the node itself. */
  readonly inside: Answer;
  /** For all other traffic. Differs from `inside` only with externalTrafficPolicy: Local. */
  readonly outside: Answer;
  readonly masquerade: Masquerade;
  /** Sources that may connect, pods and the node included; null: everybody. Only on LoadBalancer addresses. */
  readonly sourceRanges: readonly Cidr[] | null;
}

/**
 * One port of one service in one family: the unit that owns pools, affinity and frontends.
 * Affinity is per client and DesiredPort, whichever frontend was used.
 */
export interface DesiredPort {
  /** "namespace/name:port" with the port's name, or "namespace/name" if it has none. Unique with protocol and family. */
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  /** 0: none. */
  readonly affinitySeconds: number;
  /** Backends for Answer 'cluster', sorted by address bytes, then port; no duplicates. Empty if unused. */
  readonly cluster: readonly Backend[];
  /** Backends for Answer 'local', likewise. Empty if unused. */
  readonly local: readonly Backend[];
  readonly frontends: readonly Frontend[];
  /** IPVS scheduler and weights by annotation, and the like: passed through for the modes that know them. */
  readonly settings: Readonly<Record<string, string>>;
}

/** Everything of one service. A service with no frontend has no DesiredService. */
export interface DesiredService {
  readonly key: ObjectKey;
  readonly ports: readonly DesiredPort[];
}

/** How traffic of pods is told from other traffic (kube-proxy's --detect-local-mode). */
export type LocalDetector =
  /** Source within these (cluster CIDR, or this node's pod CIDRs). Never overlapping, sorted. */
  | { readonly by: 'cidr'; readonly cidrs: readonly Cidr[] }
  /** Arrives through this interface. */
  | { readonly by: 'bridge'; readonly name: string }
  /** Arrives through an interface whose name starts so. */
  | { readonly by: 'prefix'; readonly prefix: string }
  /** Cannot be told: nobody counts as a pod, and 'strangers' masquerades nobody. */
  | { readonly by: 'none' };

/** A pod of this node that wants its traffic served as packets, and not by what stands at its sockets. */
export interface OptOut {
  readonly pod: ObjectKey;
  /** By which kubelet names the pod's cgroup. */
  readonly cgroupUid: string;
}

/** What does not belong to one service. */
export interface DesiredNode {
  readonly detector: LocalDetector;
  /** Known ServiceCIDRs: their addresses that no service has are dropped. Never overlapping, sorted. */
  readonly serviceCIDRs: readonly Cidr[];
  /** Sorted by name. Not there: none. What a packet experiences is the same: only a mode with socket programs looks. */
  readonly optOuts?: readonly OptOut[];
}

/** A change of desired state. Services named in `remove` are gone; in `set`, new or replaced whole. */
export interface DesiredChange {
  readonly set: readonly DesiredService[];
  readonly remove: readonly ObjectKey[];
  /** Present when it changed. */
  readonly node?: DesiredNode;
}

/** The whole of it, as a view: dataplanes may hold on to it but never write. */
export interface DesiredState {
  readonly services: ReadonlyMap<ObjectKey, DesiredService>;
  readonly node: DesiredNode;
}
