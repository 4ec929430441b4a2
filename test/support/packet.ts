/**
 * Packets, byte for byte: Ethernet, VLAN, IPv4 with options, IPv6 with extension headers, TCP, UDP, SCTP, ICMP. Checksums
 * are exact unless a test asks for something else. `dissect` reads one back and says which checksums hold.
 */
import { readAddress, writeAddress } from '../../src/dataplane/ebpf/abi.ts';
import type { Address, Family } from '../../src/model/records.ts';

export interface PacketSpec {
  readonly src: string;
  readonly dst: string;
  readonly proto?: 'tcp' | 'udp' | 'sctp' | 'icmp';
  readonly sport?: number;
  readonly dport?: number;
  readonly smac?: string;
  readonly dmac?: string;
  /** VLAN ids, outermost first. */
  readonly vlans?: readonly number[];
  readonly ttl?: number;
  /** Letters of the TCP control bits: F S R P A. SCTP: the first chunk is the one that means the same. */
  readonly flags?: string;
  /** SCTP: type of the first chunk, if flags do not say it. */
  readonly chunk?: number;
  readonly payload?: Uint8Array;
  /** IPv4 options, a multiple of 4 bytes. */
  readonly ipOptions?: Uint8Array;
  /** TCP options, a multiple of 4 bytes. */
  readonly tcpOptions?: Uint8Array;
  /** IPv6 extension headers, each [type, body without the first two bytes]. */
  readonly extensions?: readonly { readonly type: number; readonly body: Uint8Array }[];
  /** 'full': exact; 'partial': as a stack leaves it to its device, pseudo header's sum or zero; 'none': UDP 0. */
  readonly checksum?: 'full' | 'partial' | 'none';
  readonly fragment?: { readonly id: number; readonly offset: number; readonly more: boolean };
  readonly icmp?: { readonly type: number; readonly code: number; readonly rest?: number };
}

export const MACS = { client: '02:00:00:00:00:01', node: '02:00:00:00:00:02' };

const TCP_BITS: Readonly<Record<string, number>> = { F: 1, S: 2, R: 4, P: 8, A: 16 };
const NUMBERS = { tcp: 6, udp: 17, sctp: 132 };
/** INIT, COOKIE ECHO, SHUTDOWN, ABORT (RFC 9260, 3.2). */
const CHUNKS: Readonly<Record<string, number>> = { S: 1, SA: 2, FA: 7, R: 6, A: 10 };

export function familyOf(address: string): Family {
  return address.includes(':') ? 6 : 4;
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** The folded one's complement sum (RFC 1071), not complemented. */
export function onesSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

/** CRC32c (RFC 9260, appendix A), byte by byte and bit by bit. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f6_3b78 : 0);
  }
  return ~crc >>> 0;
}

const complement = (sum: number) => ~sum & 0xffff;

function macBytes(mac: string): Uint8Array {
  return Uint8Array.from(mac.split(':'), (part) => Number.parseInt(part, 16));
}

function addressBytes(address: string): Uint8Array {
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, address as Address);
  return familyOf(address) === 4 ? bytes.subarray(0, 4) : bytes;
}

export function pseudoHeader(src: string, dst: string, proto: number, length: number): Uint8Array {
  const tail = new Uint8Array(8);
  const view = new DataView(tail.buffer);
  view.setUint32(0, length);
  view.setUint32(4, proto);
  return concat(addressBytes(src), addressBytes(dst), tail);
}

function finish(segment: Uint8Array, at: number, spec: PacketSpec, proto: number): Uint8Array {
  const view = new DataView(segment.buffer);
  const pseudo = pseudoHeader(spec.src, spec.dst, proto, segment.length);
  if (spec.checksum === 'none') return segment;
  if (spec.checksum === 'partial') {
    view.setUint16(at, onesSum(pseudo));
    return segment;
  }
  const sum = complement(onesSum(concat(pseudo, segment)));
  view.setUint16(at, proto === 17 && sum === 0 ? 0xffff : sum);
  return segment;
}

function tcpSegment(spec: PacketSpec): Uint8Array {
  const options = spec.tcpOptions ?? new Uint8Array(0);
  const segment = concat(new Uint8Array(20), options, spec.payload ?? new Uint8Array(0));
  const view = new DataView(segment.buffer);
  view.setUint16(0, spec.sport ?? 1234);
  view.setUint16(2, spec.dport ?? 80);
  view.setUint32(4, 0x01020304);
  view.setUint32(8, 0x0a0b0c0d);
  view.setUint8(12, (20 + options.length) << 2);
  view.setUint8(
    13,
    [...(spec.flags ?? 'S')].reduce((bits, letter) => bits | TCP_BITS[letter]!, 0),
  );
  view.setUint16(14, 0x7210);
  return finish(segment, 16, spec, 6);
}

function udpDatagram(spec: PacketSpec): Uint8Array {
  const datagram = concat(new Uint8Array(8), spec.payload ?? new Uint8Array(0));
  const view = new DataView(datagram.buffer);
  view.setUint16(0, spec.sport ?? 1234);
  view.setUint16(2, spec.dport ?? 53);
  view.setUint16(4, datagram.length);
  return finish(datagram, 6, spec, 17);
}

function sctpPacket(spec: PacketSpec): Uint8Array {
  const body = spec.payload ?? new Uint8Array(16);
  const packet = new Uint8Array(16 + Math.ceil(body.length / 4) * 4);
  const view = new DataView(packet.buffer);
  view.setUint16(0, spec.sport ?? 1234);
  view.setUint16(2, spec.dport ?? 80);
  view.setUint32(4, 0x05060708);
  view.setUint8(12, spec.chunk ?? CHUNKS[spec.flags ?? 'S']!);
  view.setUint16(14, 4 + body.length);
  packet.set(body, 16);
  if (spec.checksum !== 'partial') view.setUint32(8, crc32c(packet), true);
  return packet;
}

function icmpMessage(spec: PacketSpec): Uint8Array {
  const message = concat(new Uint8Array(8), spec.payload ?? new Uint8Array(0));
  const view = new DataView(message.buffer);
  view.setUint8(0, spec.icmp?.type ?? 3);
  view.setUint8(1, spec.icmp?.code ?? 3);
  view.setUint32(4, spec.icmp?.rest ?? 0);
  const six = familyOf(spec.src) === 6;
  const covered = six ? concat(pseudoHeader(spec.src, spec.dst, 58, message.length), message) : message;
  view.setUint16(2, complement(onesSum(covered)));
  return message;
}

function transport(spec: PacketSpec): Uint8Array {
  const proto = spec.proto ?? 'tcp';
  if (proto === 'tcp') return tcpSegment(spec);
  if (proto === 'sctp') return sctpPacket(spec);
  return proto === 'udp' ? udpDatagram(spec) : icmpMessage(spec);
}

function ipProtocol(spec: PacketSpec): number {
  const proto = spec.proto ?? 'tcp';
  return proto === 'icmp' ? (familyOf(spec.src) === 4 ? 1 : 58) : NUMBERS[proto];
}

function ipv4(spec: PacketSpec, body: Uint8Array): Uint8Array {
  const options = spec.ipOptions ?? new Uint8Array(0);
  const header = concat(new Uint8Array(20), options);
  const view = new DataView(header.buffer);
  view.setUint8(0, 0x40 | (header.length / 4));
  view.setUint16(2, header.length + body.length);
  view.setUint16(4, spec.fragment?.id ?? 0x1234);
  const more = spec.fragment?.more ? 0x2000 : 0;
  view.setUint16(6, spec.fragment ? more | (spec.fragment.offset / 8) : 0x4000);
  view.setUint8(8, spec.ttl ?? 64);
  view.setUint8(9, ipProtocol(spec));
  header.set(addressBytes(spec.src), 12);
  header.set(addressBytes(spec.dst), 16);
  view.setUint16(10, complement(onesSum(header)));
  return concat(header, body);
}

function ipv6(spec: PacketSpec, body: Uint8Array): Uint8Array {
  const extensions = [...(spec.extensions ?? [])];
  if (spec.fragment) {
    const { id, offset, more } = spec.fragment;
    const rest = new Uint8Array(6);
    const view = new DataView(rest.buffer);
    view.setUint16(0, offset | (more ? 1 : 0));
    view.setUint32(2, id);
    extensions.push({ type: 44, body: rest });
  }
  const types = [...extensions.map(({ type }) => type), ipProtocol(spec)];
  const chain = extensions.map(({ type, body: rest }, i) => {
    const extension = concat(new Uint8Array(2), rest);
    extension[0] = types[i + 1]!;
    extension[1] = type === 44 ? 0 : extension.length / 8 - 1;
    return extension;
  });
  const payload = concat(...chain, body);
  const header = new Uint8Array(40);
  const view = new DataView(header.buffer);
  view.setUint32(0, 0x60000000);
  view.setUint16(4, payload.length);
  view.setUint8(6, types[0]!);
  view.setUint8(7, spec.ttl ?? 64);
  header.set(addressBytes(spec.src), 8);
  header.set(addressBytes(spec.dst), 24);
  return concat(header, payload);
}

/** The datagram without its Ethernet header: what an ICMP error quotes. */
export function datagram(spec: PacketSpec): Uint8Array {
  let body = transport(spec);
  if (spec.fragment && spec.fragment.offset > 0) body = body.subarray(8);
  return familyOf(spec.src) === 4 ? ipv4(spec, body) : ipv6(spec, body);
}

export function ethernet(spec: PacketSpec, content: Uint8Array): Uint8Array {
  const vlans = spec.vlans ?? [];
  const header = new Uint8Array(14 + 4 * vlans.length);
  header.set(macBytes(spec.dmac ?? MACS.node), 0);
  header.set(macBytes(spec.smac ?? MACS.client), 6);
  const view = new DataView(header.buffer);
  vlans.forEach((vlan, i) => {
    view.setUint16(12 + 4 * i, i === 0 && vlans.length > 1 ? 0x88a8 : 0x8100);
    view.setUint16(14 + 4 * i, vlan);
  });
  view.setUint16(header.length - 2, familyOf(spec.src) === 4 ? 0x0800 : 0x86dd);
  return concat(header, content);
}

export function packet(spec: PacketSpec): Uint8Array {
  return ethernet(spec, datagram(spec));
}

/** A packet as it is read back. */
export interface Dissected {
  readonly dmac: string;
  readonly smac: string;
  readonly vlans: readonly number[];
  readonly family: Family;
  readonly src: string;
  readonly dst: string;
  readonly proto: number;
  readonly ttl: number;
  readonly sport: number;
  readonly dport: number;
  readonly tcpFlags: number;
  /** IPv4: the header's own sum. IPv6 has none. */
  readonly ipChecksumHolds: boolean;
  /** The transport's sum over the whole datagram; UDP without one holds. */
  readonly checksumHolds: boolean;
  readonly l3: Uint8Array;
  readonly l4: Uint8Array;
}

const macText = (bytes: Uint8Array) => [...bytes].map((b) => b.toString(16).padStart(2, '0')).join(':');
const EXTENSIONS = new Set([0, 43, 60]);

function networkPart(l3: Uint8Array): { family: Family; proto: number; l4: Uint8Array; ttl: number } {
  const view = new DataView(l3.buffer, l3.byteOffset, l3.length);
  if (view.getUint8(0) >> 4 === 4) {
    const header = (view.getUint8(0) & 15) * 4;
    return {
      family: 4,
      proto: view.getUint8(9),
      ttl: view.getUint8(8),
      l4: l3.subarray(header, view.getUint16(2)),
    };
  }
  let proto = view.getUint8(6);
  let at = 40;
  while (EXTENSIONS.has(proto)) {
    proto = view.getUint8(at);
    at += (view.getUint8(at + 1) + 1) * 8;
  }
  return { family: 6, proto, ttl: view.getUint8(7), l4: l3.subarray(at, 40 + view.getUint16(4)) };
}

function sumHolds(src: string, dst: string, proto: number, l4: Uint8Array): boolean {
  if (proto === 17 && l4[6] === 0 && l4[7] === 0) return !src.includes(':');
  if (proto === 132) {
    if (l4.length < 12) return false;
    const check = new DataView(l4.buffer, l4.byteOffset).getUint32(8, true);
    const cleared = Uint8Array.from(l4);
    cleared.fill(0, 8, 12);
    return crc32c(cleared) === check;
  }
  const covered = proto === 1 ? l4 : concat(pseudoHeader(src, dst, proto, l4.length), l4);
  return onesSum(covered) === 0xffff;
}

export function dissectL3(l3: Uint8Array): Omit<Dissected, 'dmac' | 'smac' | 'vlans'> {
  const { family, proto, ttl, l4 } = networkPart(l3);
  const src = readAddress(l3, family === 4 ? 12 : 8, family);
  const dst = readAddress(l3, family === 4 ? 16 : 24, family);
  const header = family === 4 ? l3.subarray(0, (l3[0]! & 15) * 4) : new Uint8Array(0);
  const ports = new DataView(l4.buffer, l4.byteOffset, l4.length);
  const hasPorts = (proto === 6 || proto === 17 || proto === 132) && l4.length >= 4;
  return {
    family,
    src,
    dst,
    proto,
    ttl,
    sport: hasPorts ? ports.getUint16(0) : 0,
    dport: hasPorts ? ports.getUint16(2) : 0,
    tcpFlags: proto === 6 && l4.length > 13 ? l4[13]! : 0,
    ipChecksumHolds: family === 6 || onesSum(header) === 0xffff,
    checksumHolds: sumHolds(src, dst, proto, l4),
    l3,
    l4,
  };
}

export function dissect(frame: Uint8Array): Dissected {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const vlans: number[] = [];
  let at = 12;
  while (view.getUint16(at) === 0x8100 || view.getUint16(at) === 0x88a8) {
    vlans.push(view.getUint16(at + 2) & 0xfff);
    at += 4;
  }
  return {
    dmac: macText(frame.subarray(0, 6)),
    smac: macText(frame.subarray(6, 12)),
    vlans,
    ...dissectL3(frame.subarray(at + 2)),
  };
}
