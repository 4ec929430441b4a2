/**
 * What every dataplane offers the agent. One dataplane at a time carries new connections; those that came before it
 * carry what they have until it ends (src/agent/handover.ts).
 */
import type { DesiredChange, DesiredState } from '../model/desired.ts';
import type { Address, Family, ObjectKey, Protocol } from '../model/records.ts';
import type { TrafficReader } from './traffic.ts';

export type Mode = 'nft' | 'ipvs' | 'ebpf';

/** One object that the kernel refused, after everything else of its batch went in. */
export interface Refusal {
  /** The service, or '' for state that belongs to no service. */
  readonly service: ObjectKey;
  /** One line: what was refused and the kernel's error. */
  readonly reason: string;
  /** 'otherwise': the service is served all the same, in another way than it asks for. Absent: it is not, or not whole. */
  readonly served?: 'otherwise';
}

export interface ApplyResult {
  /** Kernel objects (set elements, map entries, services, destinations, rules) added, changed or removed. */
  readonly operations: number;
  readonly refusals: readonly Refusal[];
}

export interface VerifyResult {
  /** What was found different from the desired state and repaired, one line each; empty: nothing. */
  readonly repaired: readonly string[];
}

/** A frontend as the kernel holds it now: the row of `triplane get services`. */
export interface ServiceView {
  readonly service: string;
  readonly kind: string;
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
  /** Answers by name: "3 backends", "reject", "drop"; outside only when it differs. */
  readonly inside: string;
  readonly outside: string;
  readonly affinitySeconds: number;
  readonly masquerade: string;
  readonly sourceRanges: number;
}

/** A backend as the kernel holds it now: the row of `triplane get endpoints`. */
export interface EndpointView {
  readonly service: string;
  readonly pool: 'cluster' | 'local';
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
}

/** Something that a mode can do without, and what it got of it on this node. */
export interface Degree {
  /** What it is about: 'tc', 'xdp', 'sockets', 'service_device'. */
  readonly feature: string;
  /** The device, where it differs between devices; else ''. */
  readonly device: string;
  /** In one word: 'tcx', 'clsact', 'native', 'dummy', 'none'. */
  readonly got: string;
  /** Why it is not the best there is; '' where it is. */
  readonly reason: string;
}

/** How full a table of bounded size is. */
export interface TableUse {
  readonly table: string;
  readonly used: number;
  readonly limit: number;
}

/** What a mode counts by itself, where it does. */
export interface Measures {
  readonly tables: readonly TableUse[];
  /** Packets since the tables were made, by what happened to them ('new', 'conns_full'). */
  readonly packets: Readonly<Record<string, number>>;
}

export interface Dataplane {
  readonly mode: Mode;
  /**
   * Begins with what a first start needs and takes time, while the state is not known yet, where a predecessor has left
   * nothing: it carries no traffic, and close() takes it away. What goes wrong is said by start(). Not there: nothing is.
   */
  warm?(): void;
  /**
   * Brings the kernel from whatever a predecessor left to `state`, changing only what differs.
   * Resolves when the kernel has acknowledged all of it.
   */
  start(state: DesiredState): Promise<ApplyResult>;
  /** Brings the kernel from the state after the last call to the one after `change`. Never called before start() is done. */
  apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult>;
  /**
   * Whether the kernel holds what was applied, asked beside other calls, which it does not hold up; changes nothing. False: it does
   * not, or so much changed meanwhile that only verify() can tell. null, or not there: only verify() can in any case.
   */
  survey?(): Promise<boolean> | null;
  /** Compares the kernel with what was applied and repairs what differs. */
  verify(state: DesiredState): Promise<VerifyResult>;
  /** What the mode got of what it can do without, as of now. Not there: the mode needs all that it uses. */
  degrees?(): readonly Degree[];
  /** As of now; read at each scrape of the metrics. Not there: the mode has no tables of its own. */
  measures?(): Measures;
  /** What reads the counters of traffic; null: nothing is counted. Not there: the mode counts nothing. */
  traffic?(): TrafficReader | null;
  /** Releases handles; leaves the kernel as it is. */
  close(): Promise<void>;
}

/** A client that a sticky service remembers. */
export interface AffinityView {
  /** DesiredPort.name, with which family and protocol. */
  readonly port: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly client: Address;
  readonly backend: { readonly address: Address; readonly port: number };
  /** Until it is forgotten, if the client does not come again. */
  readonly secondsLeft: number;
}

/** Where flows go, as their clients see it. */
export interface FlowTarget {
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
}

export interface Carried {
  /** Connections and datagram flows that still go by it. */
  readonly connections: number;
  /** None is left, and none was under way to be made when it was looked: it can be removed. */
  readonly ended: boolean;
}

/** What stays in the kernel of a dataplane that takes no new connections any more. */
export interface Remains {
  readonly mode: Mode;
  /** Asks the kernel. */
  carried(): Promise<Carried>;
  /** Follows a change of the desired state: flows to backends that have left are to end here, too. */
  apply(change: DesiredChange, state: DesiredState): Promise<void>;
  /**
   * Frontends with connections that netfilter sees untranslated, because they are translated after it. Connection tracking
   * is not to forget those. Not there: it has none.
   */
  untranslated?(): readonly FlowTarget[];
  /** The same as the dataplane's, which goes on counting what it still carries. */
  traffic?(): TrafficReader | null;
  /** Takes everything of it out of the kernel and releases handles. */
  remove(): Promise<void>;
  /** Releases handles; leaves the kernel as it is, so that the same mode may take it up again. */
  close(): Promise<void>;
}

/**
 * A dataplane that another one can follow, or that can follow another one, without a connection being lost.
 *
 * The way from `old` to `next`, each step done before the next begins; `old` serves until next.lead():
 *
 *     old.introduce(); next.prepare(state, old.affinities); next.learnAffinities(old.affinities()); next.lead();
 *     old.retire(state, next.mode)
 *
 * When a step fails, `next` is retired instead, and old.start() puts `old` in order again. An `old` that only a dead
 * process has used is opened, and prepared (ebpf) or not (nft, ipvs), and then takes the same way.
 */
export interface Switchable extends Dataplane {
  /**
   * All that start() does except taking new connections where the mode can hold back: ebpf stands on every hook with
   * TP_S_DRAIN until lead(). A mode that cannot (nft, ipvs) is complete before it takes the first one, and takes it only
   * where the old one stands behind it. May be called again to take up what has changed meanwhile. Connections of
   * others are known from now on, and left alone.
   *
   * `remembered` tells the clients that the old one has by then. A mode that cannot hold back asks before it takes the
   * first connection: netfilter meets what the node's own processes send before the programs of ebpf do.
   */
  prepare(state: DesiredState, remembered?: () => Promise<readonly AffinityView[]>): Promise<ApplyResult>;
  /** New connections come here from now on: one step of the kernel. */
  lead(): void;
  /**
   * Before another dataplane is prepared: makes known what it would otherwise take for new. ebpf tells the kernel's
   * connection tracking of connections that netfilter sees with their frontend; the kernel's modes have nothing to tell.
   */
  introduce(): Promise<void>;
  /**
   * Takes no new connection from now on, and keeps those it has: nft and ipvs leave a keeper (dataplane/nft/keeper.ts),
   * ipvs its virtual services as well, without new connections; ebpf its programs and maps, draining. The dataplane may
   * not be used afterwards; its remains may.
   */
  retire(state: DesiredState, next: Mode): Promise<Remains>;
  /**
   * No other dataplane has connections any more: nothing has to be asked for them, and what introduce() has left for a
   * switch that came to nothing goes.
   */
  alone(): Promise<void>;
  /** Clients that sticky services remember, as the kernel has them now. */
  affinities(): Promise<readonly AffinityView[]>;
  /** Takes over what another one remembered, except where it knows the client itself, and from a later time. */
  learnAffinities(affinities: readonly AffinityView[]): Promise<void>;
}

export function isSwitchable(dataplane: Dataplane): dataplane is Switchable {
  return 'retire' in dataplane;
}
