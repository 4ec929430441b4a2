/**
 * One family's table in the kernel: planned changes go in, what the kernel holds comes out. One request at a
 * time; callers await each other through NftDataplane.
 */

import type { DesiredNode, DesiredService } from '../../model/desired.ts';
import { TriplaneError } from '../../model/errors.ts';
import type { Family, ObjectKey } from '../../model/records.ts';
import type { Refusal } from '../dataplane.ts';
import { type Batch, FamilyTable, type Segment } from './family-table.ts';
import { type CommitAnswer, NFPROTO, type NftSocket } from './native.ts';
import { NO_OWNER, PackedWriter } from './packed.ts';
import { writeChainRemoval } from './pick-classes.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';
import { SetSums } from './set-sums.ts';

/** A netlink message around an element, beside the packed bytes: headers and attribute headers, at most. */
const NETLINK_OVERHEAD = 3;
/**
 * Packed bytes of one transaction, some 20,000 elements. The kernel holds a transaction record for each until
 * the commit, and a notification of a whole page for each while anybody on the machine listens to nftables
 * (even in another network namespace, as its listeners are not kept apart): 80 MB at a time. Planning one batch while the kernel takes
 * the one before needs several of them, too.
 */
const BATCH_BYTES_MAX = 1 << 20;
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

interface Prepared {
  readonly segments: readonly Segment[];
  readonly batch: Batch;
  /** Where the next batch begins. */
  readonly to: number;
}

/** A batch on its way; its answer is null when there was nothing to send. */
interface Flight extends Prepared {
  readonly answer: Promise<CommitAnswer | null>;
}

/** Which table it is, and what hangs on it; default: the nft mode's own. */
export interface TableKind {
  readonly scheme?: Scheme;
  /** Of the table, where it is not the scheme's usual one. */
  readonly name?: string;
  readonly companion?: Companion | undefined;
}

export class FamilyKernel {
  readonly family: Family;
  readonly proto: number;
  readonly table: FamilyTable;
  readonly socket: NftSocket;
  /** The name of the table that commits go to. */
  readonly name: string;
  readonly companion: Companion | undefined;
  /** Over the elements that the kernel should hold. */
  readonly sums: SetSums;
  /** Begins and ends of commits, counted: who looks meanwhile may see neither what was nor what is to be. */
  commits = 0;

  constructor(family: Family, socket: NftSocket, kind: TableKind = {}) {
    const { scheme = NFT_SCHEME, name = scheme.table, companion } = kind;
    this.family = family;
    this.name = name;
    this.proto = NFPROTO[family];
    this.table = new FamilyTable(family, scheme, name);
    this.companion = companion;
    if (companion) this.table.numbers.startAfter(companion.lastPool(family));
    this.socket = socket;
    this.sums = new SetSums(this.table.layouts.length);
  }

  /** Applies changes; what the kernel refuses is left as it was and named. */
  async apply(changes: readonly OwnerChange[]): Promise<FamilyResult> {
    const result: FamilyResult = { operations: 0, refusals: [] };
    let from = 0;
    let flying: Flight | null = null;
    while (from < changes.length || flying) {
      const next: Prepared | null = from < changes.length ? await this.prepare(changes, from, flying) : null;
      if (flying && !(await this.landed(flying, result))) {
        // What was planned on top of a batch that did not go in is planned anew after that one is settled.
        if (next) this.table.undo(next.segments, next.batch);
        await this.commitSmaller(flying, result);
        flying = null;
        continue;
      }
      flying = next ? this.depart(next, result) : null;
      if (next) from = next.to;
    }
    this.table.settle();
    return result;
  }

  /** Plans and packs changes from `from` on, as many as fit into one transaction. */
  private async prepare(
    changes: readonly OwnerChange[],
    from: number,
    flying: Flight | null,
  ): Promise<Prepared> {
    try {
      return this.pack(changes, from);
    } catch (error) {
      // The socket serves one request at a time: nobody may find it busy with one that is not awaited.
      await flying?.answer;
      throw error;
    }
  }

  private pack(changes: readonly OwnerChange[], from: number): Prepared {
    const limit = Math.min(this.batchBytesMax(), BATCH_BYTES_MAX);
    const segments: Segment[] = [];
    let bytes = 0;
    while (from < changes.length && (bytes < limit || segments.length === 0)) {
      const segment = this.plan(changes[from++]!);
      bytes += packedSize(segment);
      segments.push(segment);
    }
    return { segments, batch: this.table.write(segments), to: from };
  }

  private depart(prepared: Prepared, result: FamilyResult): Flight {
    const answer = this.sendAfterCompanion(prepared, result);
    // It is awaited only after the next batch is planned; a failure in between is not unhandled.
    answer.catch(() => {});
    return { ...prepared, answer };
  }

  private async sendAfterCompanion(
    { segments, batch }: Prepared,
    result: FamilyResult,
  ): Promise<CommitAnswer | null> {
    if (this.companion) await this.companion.before(this.family, segments, result);
    return batch.bytes.length > 0 ? this.send(batch.bytes, 'shared') : null;
  }

  /** True when the kernel took the batch. */
  private async landed(flight: Flight, result: FamilyResult): Promise<boolean> {
    const answer = await flight.answer;
    if (answer && !isGood(answer)) return false;
    this.table.done(flight.segments);
    if (answer) result.operations += flight.batch.operations;
    await this.companion?.after(this.family, flight.segments, result);
    return true;
  }

  /** A refused batch once more, without those that are to blame. */
  private async commitSmaller(refused: Flight, result: FamilyResult): Promise<void> {
    let left: readonly Segment[] = refused.segments;
    let batch = refused.batch;
    let answer = (await refused.answer)!;
    for (let round = 0; ; round++) {
      const bad =
        answer.errno === 'EMSGSIZE' ? largestOf(left) : await this.whoIsRefused(batch.bytes, answer);
      this.table.undo(left, batch);
      if (bad.size === 0 || round >= REFUSALS_MAX) throw kernelRefused(answer);
      left = this.withoutRefused(left, bad, result);
      batch = this.table.write(left);
      // Planned anew, pools may have other numbers.
      await this.companion?.before(this.family, left, result);
      if (batch.bytes.length === 0) break;
      answer = await this.send(batch.bytes, 'shared');
      if (isGood(answer)) {
        result.operations += batch.operations;
        break;
      }
    }
    this.table.done(left);
    await this.companion?.after(this.family, left, result);
  }

  /** Plans anew what was not refused, and notes what was. */
  private withoutRefused(
    segments: readonly Segment[],
    bad: ReadonlyMap<number, string>,
    result: FamilyResult,
  ): Segment[] {
    const good: Segment[] = [];
    for (const [place, segment] of segments.entries()) {
      const errno = bad.get(place);
      if (errno === undefined) good.push(this.replan(segment));
      else
        result.refusals.push({
          service: segment.owner,
          reason:
            errno === 'EMSGSIZE'
              ? 'its change is larger than this process may send at once (EMSGSIZE): raise net.core.wmem_max'
              : `the kernel refused its nftables elements (${errno})`,
        });
    }
    return good;
  }

  private plan(change: OwnerChange): Segment {
    return change.owner === ''
      ? this.table.planNode(change.next as DesiredNode)
      : this.table.planService(change.owner, change.next as DesiredService | null);
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
      refused = (await this.commit(bytes, 'single')).refused;
    }
    const bad = new Map<number, string>();
    for (const { owner, errno } of refused) if (owner >= 0 && owner !== NO_OWNER) bad.set(owner, errno);
    return bad;
  }

  private async commit(bytes: Buffer, messages: 'shared' | 'single'): Promise<CommitAnswer> {
    this.commits++;
    try {
      return await this.socket.commit(
        this.proto,
        this.name,
        this.table.layouts,
        bytes,
        messages === 'single',
      );
    } finally {
      this.commits++;
    }
  }

  /**
   * Sends a batch that makes the kernel agree with the expected sums, which stay as they are. When it is
   * refused: whose elements, by owner number.
   */
  async repair(bytes: Buffer): Promise<'done' | ReadonlyMap<number, string>> {
    const answer = await this.commit(bytes, 'shared');
    return isGood(answer) ? 'done' : this.whoIsRefused(bytes, answer);
  }

  /** How long a batch may be in its packing. */
  batchBytesMax(): number {
    return this.socket.sendBufferBytes() / 2 / NETLINK_OVERHEAD;
  }

  /** Sends one batch; on success the expected sums follow. */
  async send(bytes: Buffer, messages: 'shared' | 'single'): Promise<CommitAnswer> {
    const answer = await this.commit(bytes, messages);
    if (isGood(answer)) this.sums.add(answer.sums);
    return answer;
  }

  /** Sends a batch that must succeed. */
  async must(write: (out: PackedWriter) => void): Promise<void> {
    const out = new PackedWriter();
    write(out);
    const answer = await this.send(out.take(), 'shared');
    if (!isGood(answer)) throw kernelRefused(answer);
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

function isGood(answer: CommitAnswer): boolean {
  return answer.errno === '' && answer.refused.length === 0;
}

/**
 * Who is to wait where a batch exceeds the socket's buffer, which only a process without CAP_NET_ADMIN in the machine's
 * own user namespace cannot have as large as it likes (SO_SNDBUFFORCE): the largest. Tried alone later, it may fit.
 */
function largestOf(segments: readonly Segment[]): Map<number, string> {
  const sizes = segments.map(packedSize);
  return new Map([[sizes.indexOf(Math.max(...sizes)), 'EMSGSIZE']]);
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
