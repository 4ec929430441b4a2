/** What the kernel counts of the traffic of services, in whichever mode. docs/traffic-metrics.md says where. */
import type { DesiredState } from '../model/desired.ts';

/** 'off': nothing is counted, and nothing stands in a packet's way for it. */
export type TrafficLevel = 'off' | 'connections' | 'traffic';

export interface TrafficSettings {
  readonly level: TrafficLevel;
  /** 'endpoint': each endpoint of a service port is counted by itself, too. */
  readonly by: 'service' | 'endpoint';
}

export const NO_TRAFFIC: TrafficSettings = { level: 'off', by: 'service' };

/**
 * Since it began. 'in' is toward the service, 'out' back to the client. A packet is one that the kernel's network stack
 * sees, so what the device or GRO has put together is one; bytes are those from the IP header on. Where the level is
 * 'connections', packets and bytes are 0.
 */
export interface TrafficCounts {
  readonly connections: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
}

export const COUNTS = ['connections', 'packetsIn', 'bytesIn', 'packetsOut', 'bytesOut'] as const;

/** One counter of the kernel. */
export interface TrafficCell extends TrafficCounts {
  /** Tells it from the others of its reader. One that stands lower than it did was made anew, and began at 0. */
  readonly cell: string;
  /** DesiredPort.name. */
  readonly port: string;
  /** formatSocket() of it; '': it is not known by endpoint. */
  readonly endpoint: string;
}

/** What reads the counters of a dataplane, and goes on doing so while it drains. */
export interface TrafficReader {
  readonly mode: 'nft' | 'ipvs' | 'ebpf';
  /** All counters that have moved since they were made. `state`: what the services are now. */
  read(state: DesiredState): Promise<readonly TrafficCell[]>;
}
