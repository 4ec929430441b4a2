/** Which rules there are for packets that are forwarded, whoever made them. Reads chains only, never rules. */
import { readFileSync } from 'node:fs';
import { loadNative } from './native.ts';

/** A base chain of nftables; iptables in its newer build has such chains as well. */
export interface BaseChain {
  /** NFPROTO_* of linux/netfilter.h. */
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** 'filter', 'nat' or 'route'. */
  readonly type: string;
  /** NF_INET_* of linux/netfilter.h. */
  readonly hook: number;
  /** 0: drop, 1: accept. */
  readonly policy: number;
  readonly rules: number;
}

interface NetfilterNative {
  nftBaseChains(netns: string): Promise<BaseChain[]>;
}

/** @param netns path of a network namespace; '': the current one */
export function readBaseChains(netns: string): Promise<BaseChain[]> {
  return (loadNative() as unknown as NetfilterNative).nftBaseChains(netns);
}

/** Tables of iptables in its older build, which exist once somebody has used them: "ip filter". */
export function readLegacyTables(): string[] {
  return ['ip', 'ip6'].flatMap((family) => {
    try {
      const names = readFileSync(`/proc/net/${family}_tables_names`, 'utf8').split('\n');
      return names.filter((name) => name !== '').map((name) => `${family} ${name}`);
    } catch {
      return [];
    }
  });
}
