/** One transaction of a table whose content nobody keeps count of. */
import { TriplaneError } from '../../model/errors.ts';
import type { Family } from '../../model/records.ts';
import type { SetLayout } from './layout.ts';
import { NFPROTO, type NftSocket } from './native.ts';
import { PackedWriter } from './packed.ts';

export interface CommitTarget {
  readonly family: Family;
  readonly table: string;
  /** Of the sets whose elements are written; default: none. */
  readonly layouts?: readonly SetLayout[];
}

/** That what it is about has gone meanwhile is no failure. Throws TP_KERNEL_REFUSED. */
export async function commitTo(
  socket: NftSocket,
  { family, table, layouts = [] }: CommitTarget,
  write: (out: PackedWriter) => void,
): Promise<void> {
  const out = new PackedWriter();
  write(out);
  const answer = await socket.commit(NFPROTO[family], table, layouts, out.take(), false);
  const errno = answer.errno || answer.refused.map((one) => one.errno).join(', ');
  if (errno === '' || errno === 'ENOENT') return;
  throw new TriplaneError('TP_KERNEL_REFUSED', `the kernel refused a change of ${table} (${errno})`);
}
