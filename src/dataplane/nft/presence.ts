/** What of ours is in nftables, for whoever comes after. */
import { KEEPER_TABLE } from './keeper.ts';
import { NFPROTO, openNftSocket } from './native.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';

const FAMILIES = [4, 6] as const;

/** Whether tables of the scheme are there. */
export function areTablesThere(netns: string, { table, nextTable }: Scheme): Promise<boolean> {
  return isOneThere(netns, [table, nextTable]);
}

/** Whether tables of ours are there, or what keeps the connections of some that were. */
export function isNftThere(netns = ''): Promise<boolean> {
  return isOneThere(netns, [NFT_SCHEME.table, NFT_SCHEME.nextTable, KEEPER_TABLE]);
}

async function isOneThere(netns: string, tables: readonly string[]): Promise<boolean> {
  const socket = openNftSocket(netns);
  try {
    for (const family of FAMILIES)
      for (const table of tables)
        if ((await socket.dumpNames(NFPROTO[family], table)).tableFlags >= 0) return true;
    return false;
  } finally {
    socket.close();
  }
}
