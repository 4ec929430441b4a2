/** Takes the tables of the nft mode, or of the one beside IPVS, out of the kernel. */
import { openNftSocket } from './native.ts';
import { removeTable } from './remove-table.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';
import { removeTraffic } from './traffic.ts';

const FAMILIES = [4, 6] as const;

/** Removes every table of ours, in both families. Returns the names of those that were there. */
export async function cleanupNft(netns = '', scheme: Scheme = NFT_SCHEME): Promise<string[]> {
  const socket = openNftSocket(netns);
  try {
    const removed: string[] = [];
    for (const family of FAMILIES) {
      for (const table of [scheme.table, scheme.nextTable]) {
        if (await removeTable(socket, family, table)) removed.push(`${family === 4 ? 'ip' : 'ip6'} ${table}`);
      }
    }
    if (scheme === NFT_SCHEME) removed.push(...(await removeTraffic(netns)));
    return removed;
  } finally {
    socket.close();
  }
}
