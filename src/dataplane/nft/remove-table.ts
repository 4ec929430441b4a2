/** Takes a table out of the kernel. */
import type { Family } from '../../model/records.ts';
import { writeNamed, writeTableFlags } from './chains.ts';
import { commitTo } from './commit.ts';
import { NFPROTO, type NftSocket } from './native.ts';
import { OP } from './packed.ts';

/** NFT_TABLE_F_DORMANT of linux/netfilter/nf_tables.h. */
const DORMANT = 1;

/**
 * False: there is no such table. Throws TP_KERNEL_REFUSED.
 *
 * In two transactions. In one, packets go on to meet the old rules for a while after the elements of maps have gone and before
 * the hooks have (nf_tables_commit(): chains that are deleted keep their rules in both generations): what no map leads anywhere
 * is refused as an undefined port of a ClusterIP, although another mode already serves it. Asleep, the table is whole for
 * whoever is still in it.
 */
export async function removeTable(socket: NftSocket, family: Family, table: string): Promise<boolean> {
  const { tableFlags } = await socket.dumpNames(NFPROTO[family], table);
  if (tableFlags < 0) return false;
  const target = { family, table };
  if ((tableFlags & DORMANT) === 0)
    await commitTo(socket, target, (out) => writeTableFlags(out, table, tableFlags | DORMANT));
  await commitTo(socket, target, (out) => writeNamed(out, OP.delTable, table));
  return true;
}
