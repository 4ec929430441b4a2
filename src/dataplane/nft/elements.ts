/**
 * Elements as values: what one service (or the node) needs in the sets, to be compared with what it needed
 * before or with what the kernel holds. Keys and data are the packed bytes as latin1 strings, so that a Map
 * compares them.
 */
import type { Family } from '../../model/records.ts';
import { SET, type SetLayout, setLayouts } from './layout.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';

export interface ElementValue {
  /** Index into setLayouts(). */
  readonly set: number;
  /** Flag byte and key bytes. */
  readonly key: string;
  /** Data bytes, or the chain's name for verdict maps ('' is drop), or '' for sets. */
  readonly data: string;
  readonly comment: string;
}

/** Whether one can stand for the other, both of one key. A comment counts: `triplane get` and restarts read it. */
export function sameElement(a: ElementValue | undefined, b: ElementValue | undefined): boolean {
  return a?.data === b?.data && a?.comment === b?.comment;
}

/** Elements by set and key; an element of a shared set stands in it as often as its owner needs it. */
export type ElementMap = Map<string, ElementValue>;

/**
 * Takes elements one by one: begin(), write the key's and then the data's bytes to the writer it gives, and
 * end() with the chain's name (verdict maps only) and a comment.
 */
export interface ElementSink {
  readonly family: Family;
  begin(set: number, flags?: number): PackedWriter;
  end(chain?: string, comment?: string): void;
}

/** Keeps elements as values, to be compared. */
export class ElementCollector implements ElementSink {
  readonly family: Family;
  readonly map: ElementMap = new Map();
  private readonly writer = new PackedWriter(128);
  private readonly layouts: readonly SetLayout[];
  private readonly sets: ReadonlySet<number> | null;
  private set = 0;

  /** `sets`: those to keep elements of; null: all. */
  constructor(
    family: Family,
    layouts: readonly SetLayout[] = setLayouts(family),
    sets: ReadonlySet<number> | null = null,
  ) {
    this.family = family;
    this.layouts = layouts;
    this.sets = sets;
  }

  begin(set: number, flags = 0): PackedWriter {
    this.set = set;
    this.writer.length = 0;
    this.writer.u8(flags);
    return this.writer;
  }

  end(chain = '', comment = ''): void {
    if (this.sets && !this.sets.has(this.set)) return;
    const layout = this.layouts[this.set]!;
    const boundary = 1 + layout.keyBytes;
    const key = this.writer.bytes.toString('latin1', 0, boundary);
    const data =
      layout.dataBytes > 0 ? this.writer.bytes.toString('latin1', boundary, this.writer.length) : chain;
    let place = mapKey(this.set, key);
    // An owner may need a shared element several times (the address of a ClusterIP, once for each port): each
    // counts, as each did when the owner was added. Keys of one set are of one length, so none is another's
    // with an end.
    if (layout.shared) for (let nth = 1; this.map.has(place); nth++) place = `${mapKey(this.set, key)}${nth}`;
    this.map.set(place, { set: this.set, key, data, comment });
  }
}

/** Writes add operations as they come, without keeping values. `keep` may take an element back (false). */
export class ElementPacker implements ElementSink {
  readonly family: Family;
  owner = NO_OWNER;
  operations = 0;
  private readonly out: PackedWriter;
  private readonly layouts: readonly SetLayout[];
  private readonly keep: (set: number, key: () => string, data: () => string) => boolean;
  private set = 0;
  private start = 0;
  private body = 0;

  constructor(
    family: Family,
    out: PackedWriter,
    keep: (set: number, key: () => string, data: () => string) => boolean,
    layouts: readonly SetLayout[] = setLayouts(family),
  ) {
    this.family = family;
    this.out = out;
    this.layouts = layouts;
    this.keep = keep;
  }

  begin(set: number, flags = 0): PackedWriter {
    this.set = set;
    this.start = this.out.length;
    this.out.u8(OP.addElement);
    this.out.u32(this.owner);
    this.out.u8(set);
    this.body = this.out.length;
    this.out.u8(flags);
    return this.out;
  }

  end(chain = '', comment = ''): void {
    const { bytes } = this.out;
    const layout = this.layouts[this.set]!;
    const boundary = this.body + 1 + layout.keyBytes;
    const end = this.out.length;
    const key = () => bytes.toString('latin1', this.body, boundary);
    if (
      !this.keep(this.set, key, () =>
        layout.dataBytes > 0 ? bytes.toString('latin1', boundary, end) : chain,
      )
    ) {
      this.out.length = this.start;
      return;
    }
    this.operations++;
    if (layout.dataBytes < 0) this.out.text(chain);
    this.out.text(comment);
  }
}

/** Sets are numbered below 0x10000: one UTF-16 unit in front of the key. */
export function mapKey(set: number, key: string): string {
  return String.fromCharCode(set) + key;
}

/** Appends one element operation in the packing of native/nft_batch.cc. */
export function writeElement(
  out: PackedWriter,
  op: number,
  owner: number,
  layout: SetLayout,
  e: ElementValue,
): void {
  out.u8(op);
  out.u32(owner);
  out.u8(e.set);
  out.reserve(e.key.length + e.data.length + 1);
  out.length += out.bytes.write(e.key, out.length, 'latin1');
  if (layout.dataBytes < 0) out.text(e.data);
  else out.length += out.bytes.write(e.data, out.length, 'latin1');
  // A removal carries it for the sums only.
  out.text(e.comment);
}

/** Decodes a dump (or any run of flags, key, data, comment) into elements. */
export function* readElements(
  layouts: readonly SetLayout[],
  set: number,
  packed: Uint8Array,
): Generator<ElementValue> {
  const layout = layouts[set]!;
  const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
  let at = 0;
  while (at < bytes.length) {
    const key = bytes.toString('latin1', at, at + 1 + layout.keyBytes);
    at += 1 + layout.keyBytes;
    let data = '';
    if (layout.dataBytes < 0) {
      const length = bytes[at]!;
      data = bytes.toString('latin1', at + 1, at + 1 + length);
      at += 1 + length;
    } else {
      data = bytes.toString('latin1', at, at + layout.dataBytes);
      at += layout.dataBytes;
    }
    const length = bytes[at]!;
    const comment = bytes.toString('latin1', at + 1, at + 1 + length);
    at += 1 + length;
    yield { set, key, data, comment };
  }
}

/** The prefix length of a ranges set, or -1 for any other set. */
export function rangeBits(set: number): number {
  return set >= SET.ranges ? set - SET.ranges : -1;
}
