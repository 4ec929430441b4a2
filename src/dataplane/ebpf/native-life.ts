/** The addon's functions for what outlives a process: links, pins, the clock, collection, sockets. */
import { loadNative } from '../../node/native.ts';

export interface LinkInfo {
  readonly id: number;
  readonly type: number;
  /** Id of the program. */
  readonly program: number;
  /** 0: its device is gone, or it has none. */
  readonly ifindex: number;
  readonly attachType: number;
  /** Id of the cgroup; 0: it is gone, somebody has detached the link, or it is none of a cgroup. */
  readonly cgroup: number;
}

/** What one pass over tp_conns works on (native/bpf_collect.cc). */
export interface CollectTables {
  readonly conns: Uint8Array;
  readonly pairs: Uint8Array;
  readonly nat: Uint8Array;
  readonly backends: Uint8Array;
  readonly seed: Uint8Array;
  /** Sets of tp_conns, buckets of tp_pairs, slots of tp_nat, backends, frontends. */
  readonly sizes: Uint32Array;
  readonly frontendSeen: Uint32Array;
  readonly backendSeen: Uint32Array;
  readonly needed: Uint32Array;
  readonly timeouts: Uint32Array;
}

export interface LifeNative {
  bpfLinkInfo(link: number): LinkInfo;
  bpfProgramId(program: number): number;
  bpfMapInfo(map: number): {
    id: number;
    type: number;
    keyBytes: number;
    valueBytes: number;
    entries: number;
    name: string;
  };
  bpfMapsNamed(name: string): number[];
  bpfMapById(id: number): number;
  bpfIsBpffs(path: string): boolean;
  bpfMountBpffs(path: string): void;
  bpfUnmount(path: string): void;
  /** Numbers of enum bpf_prog_type and enum bpf_func_id (linux/bpf.h). */
  bpfHasHelper(type: number, helper: number): boolean;
  /** A program's descriptor; the caller closes it. */
  bpfClockOpen(shift: number): number;
  /** The low 32 bits of jiffies64 >> shift. */
  bpfClockRead(program: number): number;
  /** 0n: the kernel cannot tell. */
  netnsCookie(netns: string): bigint;
  bpfCollect(
    tables: CollectTables,
    fromSet: number,
    sets: number,
    now: number,
    pass: number,
    counts: Uint32Array,
  ): void;
  bpfCollectEnd(tables: CollectTables, pass: number, candidates: Uint8Array): void;
  /** `old`: [tp_conns, tp_backends] of each draining generation. Gives how many slots are reserved. */
  bpfReserveNat(nat: Uint8Array, seed: Uint8Array, old: readonly (readonly Uint8Array[])[]): number;
  /** [kept, deleted] */
  bpfSweepAffinities(fd: number, backends: Uint8Array, limits: Uint32Array, now: number): [number, number];
  /** Rows of 64 bytes (src/dataplane/ebpf/sockets.ts says their layout). */
  sockTranslated(peers: number): Promise<Uint8Array>;
  /** Writes cookies into the map; resolves to how many. */
  sockRememberUdp(before: number): Promise<number>;
  /** [namespaces, destroyed] */
  sockDestroyUdp(peers: number, gone: Uint8Array): Promise<[number, number]>;
}

export function lifeNative(): LifeNative {
  return loadNative() as unknown as LifeNative;
}
