/** What triplane-pod says of requests: the JSON lines of native/lab/job.c, typed. */

export type Outcome = 'ok' | 'refused' | 'reset' | 'timeout' | 'unreachable' | 'wrong' | 'error';
export type CallProtocol = 'tcp' | 'udp' | 'sctp' | 'http';

export interface RequestResult {
  readonly number: number;
  readonly outcome: Outcome;
  /** The pod that answered. */
  readonly name?: string;
  /** The address and port that it saw. */
  readonly peer?: string;
  readonly peerPort?: number;
  /** HTTP status. */
  readonly status?: number;
  /** The errno's name, or what was wrong. */
  readonly detail?: string;
  readonly localPort: number;
  readonly latencyUs: number;
  /** Start and end: CLOCK_REALTIME and CLOCK_MONOTONIC in milliseconds. */
  readonly startRealMs: number;
  readonly startMonoMs: number;
  readonly realMs: number;
  readonly monoMs: number;
}

export interface LatencyUs {
  readonly min: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface CallSummary {
  readonly total: number;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  /** Answers by pod; start of the first and the last request that it answered, CLOCK_REALTIME ms. */
  readonly pods: Readonly<Record<string, number>>;
  readonly firstMs: Readonly<Record<string, number>>;
  readonly lastMs: Readonly<Record<string, number>>;
  /** Answers by the source address that the pod saw. */
  readonly peers: Readonly<Record<string, number>>;
  readonly latencyUs: LatencyUs;
  readonly startRealMs: number;
  readonly elapsedMs: number;
  /** Requests of an open-loop load that were due but had no room among those in flight. */
  readonly skipped: number;
  /** Of a hold: lines or datagrams answered, and datagram flows that changed to another pod. */
  readonly exchanges: number;
  readonly moved: number;
}

export interface CallResult extends CallSummary {
  /** Each request of calls of at most 100 (or with detail 'each'); only failures otherwise, at most 10,000. */
  readonly requests: readonly RequestResult[];
}

export interface LoadInterval {
  readonly realMs: number;
  readonly monoMs: number;
  readonly inflight: number;
  readonly pods: Readonly<Record<string, number>>;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  readonly latencyUs: LatencyUs;
}

export interface Established {
  readonly open: number;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  readonly pods: Readonly<Record<string, number>>;
}

/** One line of a job, tagged. */
export type PodEvent =
  | ({ readonly event: 'request' | 'failure' | 'moved' } & RequestResult)
  | ({ readonly event: 'interval' } & LoadInterval)
  | ({ readonly event: 'established' } & Established)
  | ({ readonly event: 'done' } & CallSummary)
  | { readonly event: 'error'; readonly reason: string };

export interface CommonOptions {
  /** Default 1000. */
  readonly timeoutMs?: number;
  readonly bind?: string;
  readonly sourcePort?: number;
  /** Who closes a stream first, and how. 'rst' (default) leaves no TIME_WAIT anywhere. */
  readonly close?: 'rst' | 'fin' | 'server';
  /** UDP: 'unconnected' sockets also check that the answer comes from the address asked. Default 'connected'. */
  readonly socket?: 'connected' | 'unconnected';
  /** HTTP. Default "/". */
  readonly path?: string;
}

export interface CallOptions extends CommonOptions {
  /** Default 1. */
  readonly count?: number;
  /** Default 1. */
  readonly concurrency?: number;
  /** 'each': every request in the result. Default: each up to 100 requests. */
  readonly detail?: 'each' | 'failures';
}

export interface LoadOptions extends CommonOptions {
  /** Requests a second, whether or not they are answered; without it a closed loop of `concurrency` (default 4). */
  readonly rate?: number;
  readonly concurrency?: number;
  /** Default 200. */
  readonly intervalMs?: number;
  /** The load ends by itself after this. Default 60,000. */
  readonly durationMs?: number;
  readonly onInterval?: (interval: LoadInterval) => void;
  readonly onFailure?: (failure: RequestResult) => void;
}

export interface HoldOptions extends CommonOptions {
  /** Default 1. */
  readonly connections?: number;
  /** A line goes over every connection once in this time. Default 200. */
  readonly intervalMs?: number;
  readonly durationMs?: number;
  readonly onFailure?: (failure: RequestResult) => void;
}

const MAX_EACH = 100;

function flag(name: string, value: string | number | undefined): string[] {
  return value === undefined ? [] : [name, String(value)];
}

function commonArgs(options: CommonOptions): string[] {
  return [
    ...flag('--timeout-ms', options.timeoutMs),
    ...flag('--bind', options.bind),
    ...flag('--source-port', options.sourcePort),
    ...flag('--close', options.close),
    ...(options.socket === 'unconnected' ? ['--unconnected'] : []),
    ...flag('--path', options.path),
  ];
}

export function callArgs(
  protocol: CallProtocol,
  address: string,
  port: number,
  options: CallOptions,
): string[] {
  const each =
    options.detail === 'each' || (options.detail === undefined && (options.count ?? 1) <= MAX_EACH);
  return [
    ...['call', protocol, address, String(port), ...commonArgs(options)],
    ...flag('--count', options.count),
    ...flag('--concurrency', options.concurrency),
    ...(each ? ['--each'] : []),
  ];
}

export function loadArgs(
  protocol: CallProtocol,
  address: string,
  port: number,
  options: LoadOptions,
): string[] {
  return [
    ...['load', protocol, address, String(port), ...commonArgs(options)],
    ...flag('--rate', options.rate),
    ...flag('--concurrency', options.concurrency),
    ...flag('--interval-ms', options.intervalMs),
    ...flag('--duration-ms', options.durationMs),
  ];
}

export function holdArgs(
  protocol: CallProtocol,
  address: string,
  port: number,
  options: HoldOptions,
): string[] {
  return [
    ...['hold', protocol, address, String(port), ...commonArgs(options)],
    ...flag('--connections', options.connections),
    ...flag('--interval-ms', options.intervalMs),
    ...flag('--duration-ms', options.durationMs),
  ];
}
