/**
 * What the agent shows of itself: the narrow read side that health, metrics and the admin socket use, and the
 * few commands that the admin socket passes on. The agent implements it; src/observe only reads.
 */

import type { Config } from '../config/config.ts';
import type { Degree, Measures, Mode } from '../dataplane/dataplane.ts';
import type { ErrorCode } from '../model/errors.ts';
import type { Address, Family, ObjectKey, Protocol } from '../model/records.ts';
import type { ClusterEvent, Problem, RequestEvent, SourceHealth } from '../source/source.ts';
import type { TrafficReport, TrafficSum } from './traffic-meter.ts';

export type {
  ClusterEvent,
  Degree,
  Measures,
  Mode,
  Problem,
  RequestEvent,
  SourceHealth,
  TrafficReport,
  TrafficSum,
};

/** Anything that can be listened to. The function returned ends the subscription. */
export interface Subscribable<T> {
  on(listener: (value: T) => void): () => void;
}

/** A list of callbacks for one kind of event, called in the order of subscription. Listeners must not throw. */
export class Signal<T> implements Subscribable<T> {
  readonly #listeners = new Set<(value: T) => void>();

  on(listener: (value: T) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(value: T): void {
    for (const listener of this.#listeners) listener(value);
  }
}

/** How far the kernel is behind, in one family. Times are milliseconds since the epoch; 0: never, or nothing. */
export interface FamilyProgress {
  /** The kernel last acknowledged everything that was known. */
  readonly lastSyncedMs: number;
  /** The oldest change that is queued and not yet acknowledged; 0: none. */
  readonly oldestQueuedMs: number;
  /** A change was last queued. */
  readonly lastQueuedMs: number;
}

export interface SyncStatus {
  /** The kernel holds the first full state. Never goes back to false while the agent runs. */
  synced(): boolean;
  /** null: this node does not serve the family. */
  progress(family: Family): FamilyProgress | null;
  /** What the kernel still waits for, or why it refused what it was told last; null: nothing stands in the way. */
  holdup(): Holdup | null;
}

/** What keeps the kernel from holding what the cluster says. */
export interface Holdup {
  /** For everybody who may ask whether the node is well: names no path, address or error. */
  readonly brief: string;
  /** For who runs the node; one line. */
  readonly detail: string;
}

/** This node's own Node object, as far as health and `triplane get node` need it. */
export interface NodeStatus {
  readonly name: string;
  /** False while no Node object of this name is known. */
  readonly known: boolean;
  /** Not known although it is to be: it was deleted, or the source has Node objects and none of this name. */
  readonly absent: boolean;
  readonly deleting: boolean;
  /** Keys of the taints. */
  readonly taints: readonly string[];
  readonly zone: string;
  readonly addresses: readonly Address[];
}

export interface ModeStatus {
  /** The mode that carries new connections; '' before one was chosen. */
  readonly mode: Mode | '';
  /** What was asked for: a mode or 'auto'. */
  readonly requested: Mode | 'auto';
  /** One line: why this mode. */
  readonly reason: string;
  /** The mode that a switch is under way to; '': none is. */
  readonly switching: Mode | '';
  /** Former modes that still carry connections. */
  readonly draining: readonly { readonly mode: Mode; readonly connections: number }[];
  /** One line: why the last switch that was tried failed; '': it did not. */
  readonly failure: string;
  /** What the mode got of what it can do without. */
  readonly degrees: readonly Degree[];
}

/** Sizes of the desired state and of what could not be done. */
export interface Counts {
  readonly services: number;
  readonly frontends: number;
  readonly backends: number;
  /** Changes of records that are not in the kernel yet. */
  readonly serviceChangesPending: number;
  readonly endpointChangesPending: number;
  /** Services with a Local policy, and endpoints somewhere but none on this node, by policy and family. */
  readonly noLocalEndpoints: readonly {
    readonly policy: 'internal' | 'external';
    readonly family: Family;
    readonly services: number;
  }[];
}

/** What one service with a healthCheckNodePort answers. */
export interface HealthCheckService {
  readonly service: ObjectKey;
  /** The port to listen on. */
  readonly port: number;
  /** Ready backends on this node: what it answers at addresses of this family. */
  readonly localReady: Readonly<Record<Family, number>>;
}

/** All health check servers that should run now, and where. */
export interface HealthCheckPlan {
  readonly services: readonly HealthCheckService[];
  /**
   * The addresses that NodePorts listen on now. `0.0.0.0` and `::` stand for every address of their family.
   */
  readonly addresses: readonly Address[];
}

/** One application of changes to the kernel. */
export interface SyncEvent {
  /** 'full': start or verification of everything; 'partial': a change. */
  readonly scope: 'full' | 'partial';
  readonly families: readonly Family[];
  readonly durationMs: number;
  readonly ok: boolean;
  readonly mode: Mode;
  /** Kernel objects added, changed or removed. */
  readonly operations: number;
  /** Objects that the kernel refused. */
  readonly refusals: number;
  /** Milliseconds since the epoch at which the endpoint changes in it were triggered (SliceRecord.triggerMs, without 0). */
  readonly triggersMs: readonly number[];
}

/** Changes that a source delivered and that were queued. */
export interface ChangeEvent {
  readonly services: number;
  readonly endpoints: number;
}

export interface ConntrackEvent {
  readonly family: Family;
  readonly deleted: number;
  readonly durationMs: number;
}

/** Drift that verification found and repaired. */
export interface RepairEvent {
  readonly mode: Mode;
  /** One line for each thing that differed. */
  readonly repaired: readonly string[];
}

export interface AgentEvents {
  readonly onSync: Subscribable<SyncEvent>;
  readonly onChanges: Subscribable<ChangeEvent>;
  readonly onConntrack: Subscribable<ConntrackEvent>;
  readonly onRepair: Subscribable<RepairEvent>;
  readonly onMode: Subscribable<ModeStatus>;
  readonly onHealthChecks: Subscribable<HealthCheckPlan>;
  readonly onRequest: Subscribable<RequestEvent>;
}

/** Everything that can be read from a running agent. */
export interface AgentStatus extends SyncStatus {
  readonly events: AgentEvents;
  /** Milliseconds since the epoch. */
  readonly startedMs: number;
  node(): NodeStatus;
  mode(): ModeStatus;
  /** How full the mode's tables are, and what its programs count. */
  measures(): Measures;
  /** What the kernel has counted of the traffic of services, as of some seconds ago at most. */
  traffic(): Promise<TrafficReport>;
  counts(): Counts;
  healthChecks(): HealthCheckPlan;
  /** Objects that are refused at this moment. */
  problems(): readonly Problem[];
  sources(): readonly SourceHealth[];
}

/** A packet that somebody asks about. */
export interface ExplainRequest {
  readonly source: Address;
  readonly destination: Address;
  readonly port: number;
  readonly protocol: Protocol;
  /** Who sends it; 'unknown': the agent tells by the source address. */
  readonly from: 'node' | 'pod' | 'outside' | 'unknown';
  /** The interface through which it arrives, for detectors by interface; '' when nobody said. */
  readonly interfaceName: string;
}

/** What happens to the packet, as decide() says, in a form that goes over a socket and into a terminal. */
export interface Explanation {
  readonly action: 'forward' | 'reject' | 'drop' | 'pass';
  /** One line, such as "goes to one of 3 backends of default/web:http, masqueraded". */
  readonly outcome: string;
  /** Backends that may answer; empty unless the action is forward. */
  readonly backends: readonly {
    readonly address: Address;
    readonly port: number;
    readonly local: boolean;
    readonly masquerade: boolean;
  }[];
  /** The steps that led there, in order, one line each. */
  readonly because: readonly string[];
}

export interface SwitchResult {
  readonly from: Mode | '';
  readonly to: Mode;
  /** Connections that stay on the old dataplane until they end. */
  readonly draining: number;
  readonly durationMs: number;
}

/** What the admin socket may ask the agent to do. Both throw TriplaneError. */
export interface AgentControl {
  explain(request: ExplainRequest): Promise<Explanation>;
  switchMode(mode: Mode | 'auto'): Promise<SwitchResult>;
}

/** An error as it goes over the admin socket. `code` is '' for one that was not raised on purpose. */
export interface WireError {
  readonly code: ErrorCode | '';
  readonly message: string;
}

/** The part of a logger that the agent uses; pino's fits. Fields first, then a message without a newline. */
export interface Log {
  error(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  info(fields: object, message: string): void;
  debug(fields: object, message: string): void;
  trace(fields: object, message: string): void;
}

/** An agent that `triplane run` has started. */
export interface RunningAgent {
  readonly status: AgentStatus;
  readonly control: AgentControl;
  /**
   * Resolves when the agent has ended by itself (with --init-only: when that is done) or was stopped; rejects
   * with a TriplaneError when it cannot go on.
   */
  readonly ended: Promise<void>;
  /** Tells the users of the cluster, as an Event about the Node or a Service. In the background; never throws. */
  announce(event: ClusterEvent): void;
  /** Takes over what can be changed live (options.ts, `change`); the rest of the new Config is not looked at. */
  reconfigure(config: Config): Promise<void>;
  /** Ends the agent; traffic goes on by what the kernel holds. Safe to call twice. */
  stop(): Promise<void>;
}

/**
 * Starts an agent and returns at once, before the first state is in, so that /healthz can say so. Throws
 * TriplaneError when it cannot even start (privilege, lock, source unusable).
 */
export type StartAgent = (config: Config, log: Log) => Promise<RunningAgent>;
