/**
 * Writing the packed operations that native/nft_batch.cc turns into one netlink batch. Little-endian;
 * addresses and ports inside keys in network order, each part of a concatenation padded to four bytes.
 */
import { addressBytes } from '../../model/address.ts';
import type { Address, Family, Protocol } from '../../model/records.ts';

export const OP = {
  addElement: 1,
  delElement: 2,
  addChain: 3,
  delChain: 4,
  flushChain: 5,
  addRule: 6,
  addSet: 7,
  delSet: 8,
  tableFlags: 9,
  delTable: 10,
  flushSet: 11,
} as const;

/** The owner of an operation that belongs to no service. */
export const NO_OWNER = 0xffffffff;

/** Element flag: the exclusive end of a range in an interval set. */
export const INTERVAL_END = 1;

/** Element flag: its comment is "TIMEOUT LEFT" in milliseconds instead. */
export const TIMED = 2;

/** IPPROTO_* of linux/in.h. */
export const PROTOCOL_NUMBER: Record<Protocol, number> = { TCP: 6, UDP: 17, SCTP: 132 };

/** User data of an element is at most 256 bytes (NFT_USERDATA_MAXLEN), two of them its header. */
const COMMENT_BYTES_MAX = 250;

/** A growing byte buffer. Grows by doubling; never shrinks, so keep one for reuse. */
export class PackedWriter {
  bytes: Buffer;
  length = 0;

  constructor(capacity = 1024) {
    this.bytes = Buffer.allocUnsafe(capacity);
  }

  reserve(count: number): void {
    if (this.length + count <= this.bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.length + count));
    this.bytes.copy(larger, 0, 0, this.length);
    this.bytes = larger;
  }

  u8(value: number): void {
    this.reserve(1);
    this.bytes[this.length++] = value;
  }

  u32(value: number): void {
    this.reserve(4);
    this.length = this.bytes.writeUInt32LE(value >>> 0, this.length);
  }

  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** A length byte and the text; for names that are ASCII by construction. */
  text(value: string): void {
    const cut = value.length > COMMENT_BYTES_MAX ? value.slice(0, COMMENT_BYTES_MAX) : value;
    this.reserve(1 + cut.length);
    this.bytes[this.length++] = cut.length;
    this.length += this.bytes.write(cut, this.length, 'latin1');
  }

  address(value: Address): void {
    this.raw(addressBytes(value));
  }

  /** A protocol number in its four bytes. */
  protocol(value: Protocol): void {
    this.reserve(4);
    this.bytes.writeUInt32LE(PROTOCOL_NUMBER[value], this.length);
    this.length += 4;
  }

  /** A port that stands alone: two bytes. */
  lonePort(value: number): void {
    this.reserve(2);
    this.length = this.bytes.writeUInt16BE(value, this.length);
  }

  /** A port or slot within a concatenation: big-endian, then padding to four bytes. */
  port(value: number): void {
    this.reserve(4);
    this.bytes.writeUInt16BE(value, this.length);
    this.bytes.writeUInt16BE(0, this.length + 2);
    this.length += 4;
  }

  /** The address that stands for a pool: 0.x.y.z or 100::xxxx:xxxx. */
  pool(family: Family, number: number): void {
    if (family === 6) {
      this.reserve(12);
      this.bytes.fill(0, this.length, this.length + 12);
      this.bytes[this.length] = 1;
      this.length += 12;
    }
    this.reserve(4);
    this.length = this.bytes.writeUInt32BE(number, this.length);
  }

  take(): Buffer {
    return this.bytes.subarray(0, this.length);
  }
}

/** The number of a pool from its address bytes. */
export function poolNumber(bytes: Uint8Array): number {
  const at = bytes.length - 4;
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
