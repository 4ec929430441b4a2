/**
 * What every dataplane offers the agent. One dataplane at a time carries new connections.
 */
import type { DesiredChange, DesiredState } from '../model/desired.ts';
import type { Address, ObjectKey, Protocol } from '../model/records.ts';

export type Mode = 'nft' | 'ipvs' | 'ebpf';

/** One object that the kernel refused, after everything else of its batch went in. */
export interface Refusal {
  /** The service, or '' for state that belongs to no service. */
  readonly service: ObjectKey;
  /** One line: what was refused and the kernel's error. */
  readonly reason: string;
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
   * Brings the kernel from whatever a predecessor left to `state`, changing only what differs.
   * Resolves when the kernel has acknowledged all of it.
   */
  start(state: DesiredState): Promise<ApplyResult>;
  /** Brings the kernel from the state after the last call to the one after `change`. Never called before start() is done. */
  apply(change: DesiredChange, state: DesiredState): Promise<ApplyResult>;
  /** Compares the kernel with what was applied and repairs what differs. */
  verify(state: DesiredState): Promise<VerifyResult>;
  /** What the mode got of what it can do without, as of now. Not there: the mode needs all that it uses. */
  degrees?(): readonly Degree[];
  /** As of now; read at each scrape of the metrics. Not there: the mode has no tables of its own. */
  measures?(): Measures;
  /** Releases handles; leaves the kernel as it is. */
  close(): Promise<void>;
}
