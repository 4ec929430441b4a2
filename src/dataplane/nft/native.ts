/** The addon's nftables part, typed. Arguments are checked here, once; C++ asserts the rest. */

import type { Family } from '../../model/records.ts';
import { loadNative } from '../../node/native.ts';
import type { SetLayout } from './layout.ts';
import type { SumChanges } from './set-sums.ts';

/** NFPROTO_IPV4, NFPROTO_IPV6 of linux/netfilter.h. */
export const NFPROTO: Record<Family, number> = { 4: 2, 6: 10 };

export interface CommitAnswer {
  /** Error of the exchange itself, e.g. 'EMSGSIZE'; '' when it went well. */
  readonly errno: string;
  /** Operations that the kernel refused (then nothing was applied); owner -1: it cannot be told whose. */
  readonly refused: readonly { readonly errno: string; readonly owner: number }[];
  /** Hashes added minus those removed. */
  readonly sums: SumChanges;
}

export interface DumpAnswer {
  /** Sums of hashes (set-sums.ts). */
  readonly shares: BigUint64Array;
  readonly count: number;
  /** Elements that are not laid out as ours. */
  readonly strange: number;
  readonly packed: Uint8Array;
}

export interface NameAnswer {
  /** -1: there is no such table. Bit 0: dormant. */
  readonly tableFlags: number;
  readonly chains: readonly string[];
  readonly sets: readonly string[];
}

export interface NftSocket {
  commit(
    family: number,
    table: string,
    layouts: readonly SetLayout[],
    operations: Uint8Array,
    oneElementAMessage: boolean,
  ): Promise<CommitAnswer>;
  dumpElements(
    family: number,
    table: string,
    layouts: readonly SetLayout[],
    set: number,
    sumsOnly: boolean,
    /** Taken as it is when a commit has crossed it: elements may be missing, or there twice. Otherwise taken anew. */
    crossed?: boolean,
  ): Promise<DumpAnswer>;
  dumpRules(family: number, table: string): Promise<readonly { chain: string; hash: string }[]>;
  dumpNames(family: number, table: string): Promise<NameAnswer>;
  generation(): Promise<number>;
  sendBufferBytes(): number;
  portId(): number;
  close(): void;
}

export interface NftMonitor {
  /** Leaves the kernel's notification group; what happens until resume() is not told. */
  pause(): void;
  resume(): void;
  close(): void;
}

interface NftNative {
  nftSums(family: number, layouts: readonly SetLayout[], operations: Uint8Array): SumChanges;
  NftSocket: new (netns: string) => NftSocket;
  NftMonitor: new (netns: string, tablePrefix: string, onChange: (portId: number) => void) => NftMonitor;
}

/** The sums of the hashes of packed element operations, as commit() would give. */
export function sumsOf(family: Family, layouts: readonly SetLayout[], operations: Uint8Array): SumChanges {
  return (loadNative() as unknown as NftNative).nftSums(NFPROTO[family], layouts, operations);
}

/** A netlink socket in the network namespace at `netns` ('' is the current one). */
export function openNftSocket(netns: string): NftSocket {
  return new (loadNative() as unknown as NftNative).NftSocket(netns);
}

/** Does `work` with a socket that is closed after it. */
export async function withNftSocket<T>(netns: string, work: (socket: NftSocket) => Promise<T>): Promise<T> {
  const socket = openNftSocket(netns);
  try {
    return await work(socket);
  } finally {
    socket.close();
  }
}

export function openNftMonitor(
  netns: string,
  tablePrefix: string,
  onChange: (portId: number) => void,
): NftMonitor {
  return new (loadNative() as unknown as NftNative).NftMonitor(netns, tablePrefix, onChange);
}
