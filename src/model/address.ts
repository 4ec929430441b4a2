/**
 * Addresses and CIDRs in their one canonical text form. Hand-written because 100,000 of them pass through
 * here at a start and each must be cheap: a canonical input is returned as the same string.
 *
 * What is accepted is what Kubernetes components accept (k8s.io/utils/net ParseIPSloppy, ParseCIDRSloppy):
 * IPv4 octets may have leading zeros and are decimal; an IPv4-mapped IPv6 address is that IPv4 address;
 * zones ("%eth0") are refused. What comes out is RFC 5952, always with hexadecimal groups.
 */
import type { Address, Cidr, Family } from './records.ts';

const DOT = 46;
const ZERO = 48;
const NINE = 57;
const COLON = 58;
/** The largest number that the octet and prefix parsers look at, so that no text makes them overflow. */
const BIG = 0xffffff;

/** The eight groups of the IPv6 address read last. Shared: nothing here calls back into user code. */
const groups = new Uint16Array(8);

/**
 * Reads an IPv4 address that fills text[start, end).
 *
 * @returns the address as a number, or -1
 */
function readIPv4(text: string, start: number, end: number): number {
  let value = 0;
  let at = start;
  for (let octet = 0; octet < 4; octet++) {
    if (octet > 0 && text.charCodeAt(at++) !== DOT) return -1;
    const first = at;
    let number = 0;
    for (; at < end; at++) {
      const digit = text.charCodeAt(at) - ZERO;
      if (digit < 0 || digit > 9) break;
      number = number * 10 + digit;
      if (number > 255) return -1;
    }
    if (at === first) return -1;
    value = value * 256 + number;
  }
  return at === end ? value : -1;
}

function hexDigit(code: number): number {
  if (code >= ZERO && code <= NINE) return code - ZERO;
  const lower = code | 0x20;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

/** Moves the groups read so far to both sides of the gap that "::" stands for. */
function expandGap(gap: number, count: number): void {
  const tail = count - gap;
  for (let i = 1; i <= tail; i++) groups[8 - i] = groups[count - i]!;
  for (let i = gap; i < 8 - tail; i++) groups[i] = 0;
}

/**
 * Reads an IPv6 address that fills text[0, end) into `groups`.
 *
 * @returns whether it is one
 */
function readIPv6(text: string, end: number): boolean {
  let at = 0;
  let gap = -1;
  let count = 0;
  if (end >= 2 && text.charCodeAt(0) === COLON && text.charCodeAt(1) === COLON) {
    gap = 0;
    at = 2;
  }
  while (count < 8 && at < end) {
    const first = at;
    let number = 0;
    for (; at < end; at++) {
      const digit = hexDigit(text.charCodeAt(at));
      if (digit < 0) break;
      number = number * 16 + digit;
      if (number > 0xffff) return false;
    }
    if (at === first) return false;
    if (at < end && text.charCodeAt(at) === DOT) {
      const tail = readIPv4(text, first, end);
      if (tail < 0 || count > 6 || (gap < 0 && count !== 6)) return false;
      groups[count++] = tail >>> 16;
      groups[count++] = tail & 0xffff;
      at = end;
      break;
    }
    groups[count++] = number;
    if (at === end) break;
    if (text.charCodeAt(at) !== COLON || at + 1 === end) return false;
    at++;
    if (text.charCodeAt(at) === COLON) {
      if (gap >= 0) return false;
      gap = count;
      at++;
    }
  }
  if (at !== end) return false;
  if (count === 8) return gap < 0;
  if (gap < 0) return false;
  expandGap(gap, count);
  return true;
}

/** `groups` as an IPv4 number when they hold an IPv4-mapped address (RFC 4291, 2.5.5.2), else -1. */
function mappedIPv4(): number {
  for (let i = 0; i < 5; i++) if (groups[i] !== 0) return -1;
  return groups[5] === 0xffff ? groups[6]! * 65536 + groups[7]! : -1;
}

function formatIPv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

/** `groups` in the form of RFC 5952: the first longest run of two or more zero groups becomes "::". */
function formatGroups(): string {
  let bestAt = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let length = 0;
    while (i + length < 8 && groups[i + length] === 0) length++;
    if (length > bestLength) {
      bestAt = i;
      bestLength = length;
    }
    i += length;
  }
  let text = '';
  for (let i = 0; i < 8; i++) {
    if (i === bestAt) {
      text += '::';
      i += bestLength - 1;
    } else {
      text += (i > 0 && i !== bestAt + bestLength ? ':' : '') + groups[i]!.toString(16);
    }
  }
  return text;
}

/** Whether the text is an IPv4 address already in canonical form, given that it is an IPv4 address. */
function isCanonicalIPv4(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const startsOctet = at === 0 || text.charCodeAt(at - 1) === DOT;
    if (startsOctet && text.charCodeAt(at) === ZERO) {
      const next = text.charCodeAt(at + 1);
      if (next >= ZERO && next <= NINE) return false;
    }
  }
  return true;
}

/** @returns the canonical address, or null when the text is none. */
export function parseAddress(text: string): Address | null {
  const value = readIPv4(text, 0, text.length);
  if (value >= 0) return (isCanonicalIPv4(text) ? text : formatIPv4(value)) as Address;
  if (!readIPv6(text, text.length)) return null;
  const mapped = mappedIPv4();
  if (mapped >= 0) return formatIPv4(mapped) as Address;
  const canonical = formatGroups();
  return (canonical === text ? text : canonical) as Address;
}

/** Reads the decimal number that fills text from `at` on; -1 when there is none or it is too large. */
function readPrefixLength(text: string, at: number): number {
  if (at === text.length) return -1;
  let bits = 0;
  for (; at < text.length; at++) {
    const digit = text.charCodeAt(at) - ZERO;
    if (digit < 0 || digit > 9) return -1;
    bits = bits * 10 + digit;
    if (bits >= BIG) return -1;
  }
  return bits;
}

function maskIPv4(value: number, bits: number): number {
  return bits === 0 ? 0 : (value & (-1 << (32 - bits))) >>> 0;
}

function maskGroups(bits: number): void {
  for (let i = 0; i < 8; i++) {
    const keep = Math.min(16, Math.max(0, bits - i * 16));
    groups[i] = groups[i]! & (0xffff << (16 - keep));
  }
}

function sameOr(text: string, canonical: string): Cidr {
  return (canonical === text ? text : canonical) as Cidr;
}

/**
 * The canonical CIDR with its host bits zeroed, or null when the text is none. A range of IPv4-mapped
 * addresses ("::ffff:10.0.0.0/104") is the IPv4 range, as Go's IPNet prints it.
 */
export function parseCidr(text: string): Cidr | null {
  const slash = text.indexOf('/');
  if (slash < 0) return null;
  const bits = readPrefixLength(text, slash + 1);
  if (bits < 0) return null;
  const value = readIPv4(text, 0, slash);
  if (value >= 0) return bits > 32 ? null : sameOr(text, `${formatIPv4(maskIPv4(value, bits))}/${bits}`);
  if (bits > 128 || !readIPv6(text, slash)) return null;
  maskGroups(bits);
  const mapped = bits >= 96 ? mappedIPv4() : -1;
  return sameOr(text, mapped >= 0 ? `${formatIPv4(mapped)}/${bits - 96}` : `${formatGroups()}/${bits}`);
}

/** The family of an address or a CIDR. */
export function familyOf(text: Address | Cidr): Family {
  return text.includes(':') ? 6 : 4;
}

function readCanonical(text: string, end: number): number {
  const value = readIPv4(text, 0, end);
  if (value < 0 && !readIPv6(text, end)) throw new RangeError(`not an address: ${JSON.stringify(text)}`);
  return value;
}

function bytesOf(value: number): Uint8Array {
  if (value >= 0) return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
  const bytes = new Uint8Array(16);
  for (let i = 0; i < 8; i++) {
    bytes[2 * i] = groups[i]! >>> 8;
    bytes[2 * i + 1] = groups[i]!;
  }
  return bytes;
}

/** Writes the address in network byte order, 4 or 16 bytes, from `at` on: for 100,000 of them, without an array each. */
export function putAddress(into: Uint8Array, at: number, address: Address): void {
  const value = readCanonical(address, address.length);
  if (value >= 0) {
    into[at] = value >>> 24;
    into[at + 1] = value >>> 16;
    into[at + 2] = value >>> 8;
    into[at + 3] = value;
    return;
  }
  for (let i = 0; i < 8; i++) {
    into[at + 2 * i] = groups[i]! >>> 8;
    into[at + 2 * i + 1] = groups[i]!;
  }
}

/** The address in network byte order: 4 or 16 bytes. */
export function addressBytes(address: Address): Uint8Array {
  return bytesOf(readCanonical(address, address.length));
}

/**
 * The canonical text of 4 or 16 bytes in network byte order (16 bytes of an IPv4-mapped address: IPv4).
 * Throws RangeError for any other length.
 */
export function formatAddress(bytes: Uint8Array): Address {
  if (bytes.length === 4) {
    return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}` as Address;
  }
  if (bytes.length !== 16) throw new RangeError(`an address has 4 or 16 bytes, not ${bytes.length}`);
  for (let i = 0; i < 8; i++) groups[i] = bytes[2 * i]! * 256 + bytes[2 * i + 1]!;
  const mapped = mappedIPv4();
  return (mapped >= 0 ? formatIPv4(mapped) : formatGroups()) as Address;
}

export interface CidrParts {
  readonly family: Family;
  /** The first address: 4 or 16 bytes. */
  readonly bytes: Uint8Array;
  /** The prefix length. */
  readonly bits: number;
}

export function cidrParts(cidr: Cidr): CidrParts {
  const slash = cidr.indexOf('/');
  const bytes = bytesOf(readCanonical(cidr, slash));
  return { family: bytes.length === 4 ? 4 : 6, bytes, bits: readPrefixLength(cidr, slash + 1) };
}

/** Whether the first `bits` bits of both are the same. Both have the same length. */
function samePrefix(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  const whole = bits >>> 3;
  for (let i = 0; i < whole; i++) if (a[i] !== b[i]) return false;
  const rest = bits & 7;
  return rest === 0 || (a[whole]! ^ b[whole]!) >>> (8 - rest) === 0;
}

/** Whether the address lies in the range; never for addresses of the other family. */
export function cidrContains(cidr: Cidr, address: Address): boolean {
  const slash = cidr.indexOf('/');
  const bits = readPrefixLength(cidr, slash + 1);
  const start = readIPv4(cidr, 0, slash);
  const value = readIPv4(address, 0, address.length);
  if (start >= 0 || value >= 0) return start >= 0 && value >= 0 && maskIPv4(value, bits) === start;
  return samePrefix(cidrParts(cidr).bytes, addressBytes(address), bits);
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return a.length - b.length;
  for (let i = 0; i < a.length; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Orders by family (IPv4 first), then by bytes. Negative, zero or positive. */
export function compareAddresses(a: Address, b: Address): number {
  if (a === b) return 0;
  const left = readIPv4(a, 0, a.length);
  const right = readIPv4(b, 0, b.length);
  if (left >= 0 && right >= 0) return left - right;
  if (left >= 0) return -1;
  if (right >= 0) return 1;
  return compareBytes(addressBytes(a), addressBytes(b));
}

/**
 * Text of fixed length per family that sorts as compareAddresses() does within that family. For sorting
 * many addresses: each is read once, not at every comparison.
 */
export function addressSortKey(address: Address): string {
  const value = readCanonical(address, address.length);
  if (value >= 0) return value.toString(16).padStart(8, '0');
  let key = '';
  for (let i = 0; i < 8; i++) key += groups[i]!.toString(16).padStart(4, '0');
  return key;
}

/** 127.0.0.0/8 or ::1. */
export function isLoopback(address: Address): boolean {
  return address === '::1' || address.startsWith('127.');
}

/**
 * The same set of addresses as sorted CIDRs (IPv4 first) none of which overlaps another. Ranges that
 * touch are not joined: two CIDRs overlap only when one holds the other, so dropping the smaller is enough.
 */
export function mergeCidrs(list: readonly Cidr[]): Cidr[] {
  const sorted = list.map((cidr) => ({ cidr, ...cidrParts(cidr) }));
  sorted.sort((a, b) => compareBytes(a.bytes, b.bytes) || a.bits - b.bits);
  const merged: Cidr[] = [];
  let last: CidrParts | null = null;
  for (const next of sorted) {
    // A range that holds `next` sorts before it, and nothing between them lies outside that range.
    if (last && last.family === next.family && samePrefix(last.bytes, next.bytes, last.bits)) continue;
    merged.push(next.cidr);
    last = next;
  }
  return merged;
}
