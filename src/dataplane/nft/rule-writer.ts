/**
 * Rules built expression by expression, as bytes that native/nft_expr.cc makes into libnftnl's objects. nft 1.0 cannot
 * write as text what is built so: a drawn number is converted to the wrong width, and a port needs its protocol.
 *
 * Register numbers, payload bases and operations are those of linux/netfilter/nf_tables.h.
 */
import type { Family } from '../../model/records.ts';
import { NFPROTO } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';

const KIND = {
  meta: 1,
  cmp: 2,
  payloadLoad: 3,
  payloadWrite: 4,
  numgen: 5,
  byteorder: 6,
  lookup: 7,
  verdict: 8,
  dynset: 9,
  bitwise: 10,
  dnat: 12,
} as const;

export const NETWORK_HEADER = 1;
export const TRANSPORT_HEADER = 2;
/** NFT_REG32_00: registers of four bytes each. */
export const REG = 8;
/** NFT_REG_VERDICT. */
const REG_VERDICT = 0;
const META_L4PROTO = 16;
const CMP_NEQ = 1;
const BYTEORDER_HTON = 1;
export const DYNSET_UPDATE = 1;
export const DYNSET_DELETE = 2;
export const JUMP = -3;
export const GOTO = -4;
export const RETURN = -5;
export const DROP = 0;

/** Destination port: offset and size are the same in TCP, UDP and SCTP. */
export const DPORT_OFFSET = 2;
/**
 * One write for each protocol: NFT_PAYLOAD_L4CSUM_PSEUDOHDR keeps the checksum of TCP and UDP (a datagram without one keeps
 * none, nft_payload_l4csum_offset()), and NFT_PAYLOAD_CSUM_SCTP, which the kernel does to SCTP alone, that of SCTP.
 */
const CSUM_SCTP = { type: 2, offset: 8 };
const L4CSUM_PSEUDOHDR = 1;

export class RuleWriter {
  private readonly body = new PackedWriter(512);
  private count = 0;

  private kind(kind: number): PackedWriter {
    this.count++;
    this.body.u8(kind);
    return this.body;
  }
  private numbers(kind: number, ...values: number[]): this {
    const out = this.kind(kind);
    for (const value of values) out.u32(value);
    return this;
  }

  l4proto(register: number): this {
    return this.numbers(KIND.meta, META_L4PROTO, register);
  }
  differs(register: number, bytes: string): this {
    this.numbers(KIND.cmp, CMP_NEQ, register);
    this.body.text(bytes);
    return this;
  }
  load(base: number, offset: number, size: number, register: number): this {
    return this.numbers(KIND.payloadLoad, base, offset, size, register);
  }
  and(register: number, mask: string): this {
    this.numbers(KIND.bitwise, register, register);
    this.body.text(mask);
    return this;
  }
  random(register: number, modulus: number): this {
    return this.numbers(KIND.numgen, register, modulus, 0);
  }
  /** The low 16 bits of a number in host order, as a port. */
  toPort(register: number): this {
    return this.numbers(KIND.byteorder, register, register, BYTEORDER_HTON, 2, 2);
  }
  writePort(register: number): this {
    const { type, offset } = CSUM_SCTP;
    return this.numbers(
      KIND.payloadWrite,
      TRANSPORT_HEADER,
      DPORT_OFFSET,
      2,
      register,
      type,
      offset,
      L4CSUM_PSEUDOHDR,
    );
  }
  inSet(register: number, set: string): this {
    this.numbers(KIND.lookup, register, 0);
    this.body.text(set);
    return this;
  }
  /** What the map has for the key goes to register `to`; without an element the rule ends here. */
  look(register: number, map: string, to: number): this {
    this.numbers(KIND.lookup, register, to + 1);
    this.body.text(map);
    return this;
  }
  /** Goes where the map says. */
  verdictOf(register: number, map: string): this {
    return this.look(register, map, REG_VERDICT);
  }
  /** The destination becomes this address and port, which is a verdict. */
  dnat(family: Family, address: number, port: number): this {
    return this.numbers(KIND.dnat, NFPROTO[family], address, port);
  }
  dynset(op: number, key: number, data: number, timeoutSeconds: number, set: string): this {
    this.numbers(KIND.dynset, op, key, data, timeoutSeconds);
    this.body.text(set);
    return this;
  }
  verdict(code: number, chain = ''): this {
    this.numbers(KIND.verdict, code);
    this.body.text(chain);
    return this;
  }

  append(out: PackedWriter, chain: string): void {
    out.u8(OP.addRule);
    out.u32(NO_OWNER);
    out.text(chain);
    out.u8(this.count);
    out.raw(this.body.take());
  }
}

export interface Header {
  readonly saddr: number;
  readonly daddr: number;
  readonly bytes: number;
  /** 32-bit registers that one address takes. */
  readonly registers: number;
}
export const HEADER: Record<Family, Header> = {
  4: { saddr: 12, daddr: 16, bytes: 4, registers: 1 },
  6: { saddr: 8, daddr: 24, bytes: 16, registers: 4 },
};
