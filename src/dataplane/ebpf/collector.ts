/**
 * Collection of what has ended: connections by the kernel's own time-outs, and records that no connection refers to
 * any more. Walks tp_conns in slices without system calls; native/bpf_collect.cc says how an entry goes.
 */
import { readFileSync } from 'node:fs';
import { ABI } from './abi.ts';
import { type Clock, ticksOf } from './clock.ts';
import type { Compiler } from './compiler.ts';
import { GRACE_MS } from './grave.ts';
import { type CollectTables, lifeNative } from './native-life.ts';

/** Sets of tp_conns in one turn of the event loop: 1 MiB, well under a millisecond. */
const SLICE_SETS = 4096;
/** A pass takes so long at least: between its two steps an entry has all the time that a program could want. */
export const PASS_MS = 5000;
/** Not the first one, which comes before it is known what services there are where maps are taken over. */
const SWEEP_EVERY_PASSES = 12;
const SWEEP_AT_PASS = 2;

/** Seconds; the order is shared with native/bpf_collect.cc. */
export const TIMEOUT_FILES = [
  ['tcp_timeout_syn_sent', 120],
  ['tcp_timeout_syn_recv', 60],
  ['tcp_timeout_established', 432_000],
  ['tcp_timeout_close_wait', 3600],
  ['tcp_timeout_time_wait', 120],
  ['tcp_timeout_close', 10],
  ['udp_timeout', 30],
  ['udp_timeout_stream', 120],
  ['sctp_timeout_cookie_wait', 3],
  ['sctp_timeout_established', 210],
  ['sctp_timeout_shutdown_sent', 3],
  ['sctp_timeout_shutdown_ack_sent', 3],
  ['sctp_timeout_closed', 10],
] as const;

/** Of datagrams in both directions, among the time-outs. */
export const UDP_STREAM = TIMEOUT_FILES.length - 1;

/** As conntrack's, so that a connection lives as long in every mode. */
export function readTimeouts(): number[] {
  return TIMEOUT_FILES.map(([name, fallback]) => {
    try {
      const seconds = Number.parseInt(
        readFileSync(`/proc/sys/net/netfilter/nf_conntrack_${name}`, 'utf8'),
        10,
      );
      return seconds > 0 ? seconds : fallback;
    } catch {
      return fallback;
    }
  });
}

export interface Collected {
  /** Entries of tp_conns in use at the end of the last pass. */
  readonly live: number;
  readonly masqueraded: number;
  readonly paired: number;
  readonly freed: number;
  readonly affinities: number;
}

export class Collector {
  readonly #compiler: Compiler;
  readonly #clock: Clock;
  readonly #now: () => number;
  readonly #tables: CollectTables;
  readonly #sets: number;
  readonly #candidates: Uint8Array;
  readonly #counts = new Uint32Array(5);
  #pass = 0;
  #at = 0;
  #startedMs = 0;
  #timer: NodeJS.Timeout | null = null;
  last: Collected = { live: 0, masqueraded: 0, paired: 0, freed: 0, affinities: 0 };

  constructor(compiler: Compiler, clock: Clock, now: () => number) {
    this.#compiler = compiler;
    this.#clock = clock;
    this.#now = now;
    const { maps } = compiler;
    this.#sets = maps.conns.entries;
    this.#candidates = new Uint8Array(maps.pairs.entries);
    this.#tables = {
      conns: maps.conns.bytes,
      pairs: maps.pairs.bytes,
      nat: maps.nat.bytes,
      backends: maps.backends.bytes,
      seed: maps.seed,
      sizes: Uint32Array.of(
        maps.conns.entries,
        maps.pairs.entries,
        maps.nat.entries * ABI.NAT_SLOTS,
        maps.backends.entries,
        maps.frontends.entries,
      ),
      frontendSeen: new Uint32Array(maps.frontends.entries),
      backendSeen: new Uint32Array(maps.backends.entries),
      needed: new Uint32Array(maps.conns.entries),
      timeouts: Uint32Array.from(readTimeouts(), (seconds) => ticksOf(seconds, clock.hz)),
    };
  }

  /** One slice. True: a pass has ended. */
  step(): boolean {
    if (this.#at === 0) {
      this.#pass++;
      this.#startedMs = this.#now();
      this.#counts.fill(0);
      this.#tables.timeouts.set(readTimeouts().map((seconds) => ticksOf(seconds, this.#clock.hz)));
    }
    const sets = Math.min(SLICE_SETS, this.#sets - this.#at);
    lifeNative().bpfCollect(this.#tables, this.#at, sets, this.#clock.ticks(), this.#pass, this.#counts);
    this.#at += sets;
    if (this.#at < this.#sets) return false;
    this.#at = 0;
    this.#end();
    return true;
  }

  /** All slices at once. */
  pass(): void {
    while (!this.step());
  }

  #end(): void {
    lifeNative().bpfCollectEnd(this.#tables, this.#pass, this.#candidates);
    const [live = 0, masqueraded = 0, paired = 0, , freed = 0] = this.#counts;
    let { affinities } = this.last;
    if (this.#pass % SWEEP_EVERY_PASSES === SWEEP_AT_PASS) affinities = this.#sweepAffinities();
    this.last = { live, masqueraded, paired, freed, affinities };
    this.#forget();
    this.#compiler.grave.turn();
  }

  /** Records that were gone before this pass began, and that it met nowhere. */
  #forget(): void {
    const { frontends, backends } = this.#compiler;
    const isOld = (sinceMs: number) => sinceMs + GRACE_MS <= this.#startedMs;
    for (const [entry, sinceMs] of [...frontends.gone])
      if (isOld(sinceMs) && !this.refersToFrontend(entry.index)) frontends.remove(entry);
    for (const [record, { sinceMs }] of [...backends.gone])
      if (isOld(sinceMs) && !this.refersToBackend(record)) backends.forget(record);
  }

  #sweepAffinities(): number {
    const { maps, services, rules } = this.#compiler;
    const limits = new Uint32Array(maps.names.handle.entries);
    for (const ports of services.values())
      for (const { id, desired } of ports)
        limits[id] = desired.affinitySeconds > 0 ? rules.ticks(desired.affinitySeconds) : 0;
    const map = maps.handles.tp_affinities!;
    return lifeNative().bpfSweepAffinities(map.fd, maps.backends.bytes, limits, this.#clock.ticks())[0];
  }

  /** How many passes have begun. */
  get passes(): number {
    return this.#pass;
  }

  refersToFrontend(index: number): boolean {
    return this.#tables.frontendSeen[index] === this.#pass;
  }

  refersToBackend(index: number): boolean {
    return this.#tables.backendSeen[index] === this.#pass;
  }

  /** Goes on by itself, without keeping the process alive. */
  start(): void {
    const slices = Math.ceil(this.#sets / SLICE_SETS);
    this.#timer ??= setInterval(() => this.step(), Math.max(PASS_MS / slices, 10)).unref();
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }
}

/** Connections that tp_conns has room for. */
export function connectionLimit(compiler: Compiler): number {
  return compiler.maps.conns.entries * ABI.CONN_WAYS;
}
