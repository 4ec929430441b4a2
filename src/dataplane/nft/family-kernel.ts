/**
 * One family's table in the kernel: planned changes go in, what the kernel holds comes out. One request at a
 * time; callers await each other through NftDataplane.
 */

import type { DesiredNode, DesiredService } from '../../model/desired.ts';
import { TriplaneError } from '../../model/errors.ts';
import type { Family, ObjectKey } from '../../model/records.ts';
import type { Refusal } from '../dataplane.ts';
import { FamilyTable, type Segment } from './family-table.ts';
import { type CommitAnswer, NFPROTO, type NftSocket } from './native.ts';
import { NO_OWNER, PackedWriter } from './packed.ts';
import { writeChainRemoval } from './pick-classes.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';

/** A netlink message around an element, beside the packed bytes: headers and attribute headers, at most. */
const NETLINK_OVERHEAD = 3;
/** Elements of one transaction; the kernel holds a transaction record for each until the commit. */
const BATCH_BYTES_MAX = 24 << 20;
/** A batch in which the kernel refuses one object after the other is given up after so many. */
const REFUSALS_MAX = 1000;

export interface OwnerChange {
  readonly owner: ObjectKey;
  /** null: gone. The owner '' takes a DesiredNode. */
  readonly next: DesiredService | DesiredNode | null;
}

export interface FamilyResult {
  operations: number;
  readonly refusals: Refusal[];
}

/** Objects outside of nftables that the elements lead to: there before them, gone only after them. */
export interface Companion {
  before(family: Family, segments: readonly Segment[], result: FamilyResult): Promise<void>;
  /** The highest number of a pool that may still be in use there. */
  lastPool(family: Family): number;
  /** Only of what the kernel took. */
  after(family: Family, segments: readonly Segment[], result: FamilyResult): Promise<void>;
}

export class FamilyKernel {
  readonly family: Family;
  readonly proto: number;
  readonly table: FamilyTable;
  readonly socket: NftSocket;
  /** The table that commits go to. */
  name: string;
  readonly companion: Companion | undefined;
  /** By set: the sum over the elements that the kernel should hold. */
  sums: BigUint64Array;

  constructor(family: Family, socket: NftSocket, scheme: Scheme = NFT_SCHEME, companion?: Companion) {
    this.family = family;
    this.proto = NFPROTO[family];
    this.table = new FamilyTable(family, scheme);
    this.name = scheme.table;
    this.companion = companion;
    if (companion) this.table.numbers.startAfter(companion.lastPool(family));
    this.socket = socket;
    this.sums = new BigUint64Array(this.table.layouts.length);
  }

  /** Applies changes; what the kernel refuses is left as it was and named. */
  async apply(changes: readonly OwnerChange[]): Promise<FamilyResult> {
    const result: FamilyResult = { operations: 0, refusals: [] };
    const limit = Math.min(this.socket.sendBufferBytes() / 2, BATCH_BYTES_MAX) / NETLINK_OVERHEAD;
    let from = 0;
    while (from < changes.length) {
      const segments: Segment[] = [];
      let bytes = 0;
      while (from < changes.length && (bytes < limit || segments.length === 0)) {
        const segment = this.plan(changes[from++]!);
        bytes += packedSize(segment);
        segments.push(segment);
      }
      await this.commitSegments(segments, result);
    }
    return result;
  }

  private plan(change: OwnerChange): Segment {
    return change.owner === ''
      ? this.table.planNode(change.next as DesiredNode)
      : this.table.planService(change.owner, change.next as DesiredService | null);
  }

  private async commitSegments(segments: readonly Segment[], result: FamilyResult): Promise<void> {
    let left = segments;
    await this.companion?.before(this.family, segments, result);
    for (let round = 0; left.some(hasWork); round++) {
      const batch = this.table.write(left);
      const answer = await this.send(batch.bytes, 'shared');
      if (answer.errno === '' && answer.refused.length === 0) {
        this.table.done(left);
        result.operations += batch.operations;
        await this.companion?.after(this.family, left, result);
        return;
      }
      const bad = await this.whoIsRefused(batch.bytes, answer);
      this.table.undo(left);
      if (bad.size === 0 || round >= REFUSALS_MAX) throw kernelRefused(answer);
      const good: Segment[] = [];
      for (const [place, segment] of left.entries()) {
        const errno = bad.get(place);
        if (errno === undefined) good.push(this.replan(segment));
        else
          result.refusals.push({
            service: segment.owner,
            reason: `the kernel refused its nftables elements (${errno})`,
          });
      }
      left = good;
    }
    this.table.done(left);
    await this.companion?.after(this.family, left, result);
  }

  /** The same change once more, now that others are taken out of the batch. */
  private replan(segment: Segment): Segment {
    const { owner, after } = segment;
    if (owner === '') return this.table.planNode((after as { node: DesiredNode }).node);
    const ports = after && 'ports' in after ? after.ports.map((p) => p.port) : [];
    return this.table.planService(owner, ports.length > 0 ? { key: owner, ports } : null);
  }

  /** Places in the batch of those that were refused. Empty: the whole table is in another state than we believe. */
  private async whoIsRefused(bytes: Buffer, answer: CommitAnswer): Promise<Map<number, string>> {
    let refused = answer.refused;
    if (answer.errno === '' && refused.some((r) => r.owner < 0)) {
      // This kernel does not say which element of a message it means: ask with one element a message.
      const again = await this.send(bytes, 'single');
      refused = again.refused;
    }
    const bad = new Map<number, string>();
    for (const { owner, errno } of refused) if (owner >= 0 && owner !== NO_OWNER) bad.set(owner, errno);
    return bad;
  }

  /** Sends one batch; on success the expected sums follow. */
  async send(bytes: Buffer, messages: 'shared' | 'single'): Promise<CommitAnswer> {
    const answer = await this.socket.commit(
      this.proto,
      this.name,
      this.table.layouts,
      bytes,
      messages === 'single',
    );
    if (answer.errno === '' && answer.refused.length === 0) {
      answer.sums.forEach((sum, set) => {
        this.sums[set] = BigInt.asUintN(64, this.sums[set]! + sum);
      });
    }
    return answer;
  }

  /** Sends a batch that must succeed. */
  async must(write: (out: PackedWriter) => void): Promise<void> {
    const out = new PackedWriter();
    write(out);
    const answer = await this.send(out.take(), 'shared');
    if (answer.errno !== '' || answer.refused.length > 0) throw kernelRefused(answer);
  }

  /** Deletes chains that no pool uses any more. A kernel that still counts a reference keeps the chain for the next time. */
  async deleteIdleChains(): Promise<void> {
    const { idle } = this.table.picks;
    for (const name of [...idle]) {
      const out = new PackedWriter();
      writeChainRemoval(out, name);
      const answer = await this.send(out.take(), 'shared');
      const gone = answer.refused.some((r) => r.errno === 'ENOENT');
      if (answer.errno === '' && (answer.refused.length === 0 || gone)) idle.delete(name);
    }
  }
}

function hasWork(segment: Segment): boolean {
  const { difference } = segment;
  return difference ? difference.removed.length + difference.added.length > 0 : segment.after !== undefined;
}

/** Bytes an element takes in the packing, about; enough to keep a batch well under the socket's buffer. */
const ELEMENT_BYTES = 56;

function packedSize(segment: Segment): number {
  const { difference, after } = segment;
  if (difference) return ELEMENT_BYTES * (difference.removed.length + difference.added.length);
  if (!after || 'node' in after) return ELEMENT_BYTES;
  let elements = 0;
  for (const { port } of after.ports) {
    elements += 3 * (port.cluster.length + port.local.length) + 4 * port.frontends.length;
    for (const frontend of port.frontends) elements += frontend.sourceRanges?.length ?? 0;
  }
  return ELEMENT_BYTES * elements;
}

function kernelRefused(answer: CommitAnswer): TriplaneError {
  const errno = answer.errno || [...new Set(answer.refused.map((r) => r.errno))].join(', ');
  return new TriplaneError('TP_KERNEL_REFUSED', `the kernel refused an nftables transaction (${errno})`, {
    cause: answer,
  });
}
