/** What a run found, as it stands in the JSON file. A later version of this program must read it. */
import type { Family } from '../../src/model/records.ts';
import type { Machine, Quietness } from '../support/quiet.ts';
import type { Ratio } from '../support/ratio.ts';
import type { TargetKind } from './lane.ts';
import { isPlain, type LaneMode } from './lane-mode.ts';

export const FORMAT = 1;

export type DataKind = 'tcp' | 'udp' | 'tcp-rr' | 'udp-rr' | 'stream';

/** One kind of call in one lane, against the same call through plain routing in the same rounds. */
export interface DataRow extends Ratio {
  readonly mode: LaneMode;
  readonly services: number;
  readonly target: TargetKind;
  /** 'first', 'middle' or 'last' of the services; '' where there is no choice. */
  readonly which: string;
  readonly family: Family;
  readonly kind: DataKind;
  /** Processor time of one call (both ends and the node share one processor), in us; of one MiB for 'stream'. */
  readonly us: number;
  /** Of connect() for tcp, of the exchange otherwise, in us; null for 'stream'. */
  readonly p50: number | null;
  readonly p99: number | null;
  readonly p999: number | null;
  /** [latency in us, share of calls up to it], for plots. */
  readonly curve: readonly (readonly [number, number])[];
  /** Calls that had no answer, and were made again. Absent: none. */
  readonly failed?: number;
}

/** How evenly new connections are spread over the backends. */
export interface EvennessRow {
  readonly mode: LaneMode;
  readonly calls: number;
  readonly counts: readonly number[];
  readonly chiSquare: number;
  /** How likely so uneven a result is when every backend is as likely as the other. */
  readonly probability: number;
}

/** The control path in one mode at one size. Times in ms. */
export interface ControlRow {
  readonly mode: LaneMode;
  readonly services: number;
  readonly endpoints: number;
  /** From starting the program to the first answer through the last service. */
  readonly coldMs: number;
  /** From the changed file to a client's first answer by the new backend. */
  readonly changeMs: {
    readonly p50: number;
    readonly p99: number;
    readonly max: number;
    readonly count: number;
  };
  readonly residentMiB: number;
  /** Share of one processor when nothing changes. */
  readonly idleCpu: number;
  /** 100 changes a second: how long after the last one its answer was there, and the agent's share of a processor. */
  readonly stream: { readonly seconds: number; readonly lagMs: number; readonly cpu: number } | null;
}

/**
 * What a packet costs in the BPF programs, by test run (xdp, tc) or as a live frame over a veth (wire). The ratio is to
 * the same run of a program that only writes the packet.
 */
export interface PacketRow extends Ratio {
  readonly hook: 'xdp' | 'tc' | 'wire';
  readonly family: Family;
  /** Open connections. */
  readonly flows: number;
  readonly what: 'to the backend' | 'back' | 'new connection' | 'no service' | 'no service, NAT port';
  /** Beyond what the bare program takes, in ns a packet. */
  readonly ns: number;
}

/** A rolling update of a large service while it is called. */
export interface RollingRow {
  readonly mode: LaneMode;
  readonly endpoints: number;
  /** Requests a second: 400, or fewer where the machine cannot answer them. Absent in files of before it was kept: 400. */
  readonly rate?: number;
  readonly requests: number;
  readonly failed: number;
  readonly seconds: number;
}

/** How a cost grows: cost = base + slope * services, by least squares. */
export interface GrowthRow {
  readonly mode: LaneMode;
  readonly cost: string;
  readonly unit: string;
  readonly base: number;
  /** For each 1,000 services. */
  readonly slope: number;
  /** 1: it doubles with the services; 2: it grows fourfold; 0: not at all. Null with fewer than two sizes from 100 on. */
  readonly exponent: number | null;
  /** The largest size to the smallest one; absent of what was measured once at each, and in older files. */
  readonly factor?: Ratio;
}

/** What a run was asked for, so that it can be done again, and a row that it should have is missed. */
export interface Asked {
  readonly sizes: readonly number[];
  readonly modes: readonly LaneMode[];
  readonly families: readonly Family[];
  readonly parts: readonly string[];
  readonly endpoints: readonly number[];
  readonly packetFlows: readonly number[];
  readonly rounds: number;
  readonly calls: number;
  /** Its version; null: none was measured. */
  readonly kubeProxy: string | null;
}

export interface Result {
  readonly format: number;
  /** Absent in files of before it was kept. */
  readonly asked?: Asked;
  readonly program: string;
  readonly startedAt: string;
  readonly seconds: number;
  readonly machine: Machine;
  readonly quietness: Quietness;
  /** Why a mode is not among the lanes. */
  readonly skipped: readonly { readonly mode: string; readonly reason: string }[];
  /** Ratios of plain routing against plain routing: what differs less than this is noise. */
  readonly noise: Ratio;
  readonly data: readonly DataRow[];
  readonly evenness: readonly EvennessRow[];
  readonly perPacket: readonly PacketRow[];
  /** Where the control path begins. */
  readonly source: 'manifests' | 'API server';
  readonly control: readonly ControlRow[];
  readonly rolling: readonly RollingRow[];
  readonly growth: readonly GrowthRow[];
}

/** Rows that can be compared with each other have the same name. */
export function dataName(
  row: Pick<DataRow, 'mode' | 'services' | 'target' | 'which' | 'family' | 'kind'>,
): string {
  const which = row.which === '' ? '' : ` (${row.which})`;
  const services = isPlain(row.mode) ? '' : ` ${row.services}`;
  return `${row.kind} IPv${row.family} ${row.target}${which}, ${row.mode}${services}`;
}

/** Six digits are more than any figure here is worth, and half of the file. */
const short = (_: string, value: unknown) =>
  typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;

/** The file of a run: one line for each row, so that two of them can be told apart by a diff. */
export function resultJson(result: Result): string {
  const line = (value: unknown) => JSON.stringify(value, short);
  const fields = Object.entries(result).map(([name, value]) =>
    Array.isArray(value) && value.length > 0
      ? `${JSON.stringify(name)}: [\n  ${value.map(line).join(',\n  ')}\n ]`
      : `${JSON.stringify(name)}: ${line(value)}`,
  );
  return `{\n ${fields.join(',\n ')}\n}\n`;
}
