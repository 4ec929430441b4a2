/** What goes into the model beside records, and what comes out of it. */
import type { StaleFlow } from './conntrack.ts';
import type { DesiredChange } from './desired.ts';
import type { DetectConfig } from './detector.ts';
import type { ModelProblem } from './problem.ts';
import type { Address, Cidr, ObjectKey } from './records.ts';
import type { ServiceHealth } from './service.ts';

/** The part of the configuration that decides over traffic. */
export interface ModelConfig extends DetectConfig {
  readonly nodeName: string;
  readonly masqueradeAll: boolean;
  /** Configured ServiceCIDRs; those of ServiceCIDR records are added. */
  readonly serviceCIDRs: readonly Cidr[];
  /** The ranges that external IPs must be in; absent: they may be any. */
  readonly externalIPCidrs?: readonly Cidr[];
}

/** What the agent finds out about this machine, and tells anew when it changes. */
export interface NodeFacts {
  /** As NodeContext's: where NodePorts listen. */
  readonly nodePortAddresses: readonly Address[];
  /** As NodeContext's: the first of each family is the primary one. */
  readonly nodeAddresses: readonly Address[];
}

/** When the change of endpoints happened that is now part of a service's desired state. */
export interface Trigger {
  readonly key: ObjectKey;
  /** Milliseconds since the epoch; the oldest since the last produce(). */
  readonly triggerMs: number;
}

export interface HealthChange {
  readonly key: ObjectKey;
  /** null: the service has no health check any more. */
  readonly health: ServiceHealth | null;
}

/** A change of desired state with what else follows from the same records. */
export interface ModelChange extends DesiredChange {
  /** For the latency of network programming, also of services whose desired state stayed the same. */
  readonly triggers: readonly Trigger[];
  /** UDP flows to clear from conntrack once the change is in the kernel. */
  readonly staleFlows: readonly StaleFlow[];
  /** TCP clients that nobody has answered may be left with a backend that is gone: see mayStrand(). */
  readonly strandsTcp: boolean;
  readonly health: readonly HealthChange[];
  /** New, or with another reason than before. */
  readonly problems: readonly ModelProblem[];
  /** Objects whose problem is gone. */
  readonly problemsGone: readonly string[];
}
