/**
 * Elements as values: what one service (or the node) needs in the sets, to be compared with what it needed
 * before or with what the kernel holds. Keys and data are the packed bytes as latin1 strings, so that a Map
 * compares them.
 */
import type { Family } from '../../model/records.ts';
import { SET, type SetLayout, setLayouts } from './layout.ts';
import { OP, PackedWriter } from './packed.ts';

export interface ElementValue {
  /** Index into setLayouts(). */
  readonly set: number;
  /** Flag byte and key bytes. */
  readonly key: string;
  /** Data bytes, or the chain's name for verdict maps ('' is drop), or '' for sets. */
  readonly data: string;
  readonly comment: string;
}

/** Elements by set and key. */
export type ElementMap = Map<string, ElementValue>;

/**
 * Collects elements. A caller writes flags and key through `key`, then calls end() with data written through
 * `data` or a chain's name.
 */
export class ElementSink {
  readonly family: Family;
  readonly map: ElementMap = new Map();
  readonly key = new PackedWriter(64);
  readonly data = new PackedWriter(64);

  constructor(family: Family) {
    this.family = family;
  }

  begin(flags = 0): PackedWriter {
    this.key.length = 0;
    this.data.length = 0;
    this.key.u8(flags);
    return this.key;
  }

  end(set: number, chain = '', comment = ''): void {
    const key = this.key.bytes.toString('latin1', 0, this.key.length);
    const data = this.data.length > 0 ? this.data.bytes.toString('latin1', 0, this.data.length) : chain;
    this.map.set(mapKey(set, key), { set, key, data, comment });
  }
}

/** Sets are numbered below 0x10000: one UTF-16 unit in front of the key. */
export function mapKey(set: number, key: string): string {
  return String.fromCharCode(set) + key;
}

/** Appends one element operation in the packing of native/nft_batch.cc. */
export function writeElement(out: PackedWriter, op: number, owner: number, layout: SetLayout, e: ElementValue): void {
  out.u8(op);
  out.u32(owner);
  out.u8(e.set);
  out.reserve(e.key.length + e.data.length + 1);
  out.length += out.bytes.write(e.key, out.length, 'latin1');
  if (layout.dataBytes < 0) out.text(e.data);
  else out.length += out.bytes.write(e.data, out.length, 'latin1');
  out.text(op === OP.addElement ? e.comment : '');
}

/** Decodes a dump (or any run of flags, key, data, comment) into elements. */
export function* readElements(family: Family, set: number, packed: Uint8Array): Generator<ElementValue> {
  const layout = setLayouts(family)[set]!;
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
