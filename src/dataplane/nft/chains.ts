/**
 * The rules that depend on what is in use: one chain for each distinct size of a pool, and, with affinity,
 * for each distinct (size, timeout). Their number is bounded by the number of distinct sizes, not of
 * services. Built expression by expression and sent over netlink: nft 1.0 cannot write the first as text
 * (it converts the drawn number to the wrong width), and aborts on the affinity update of IPv6.
 *
 * Register numbers, payload bases and operations are those of linux/netfilter/nf_tables.h.
 */
import type { Family } from '../../model/records.ts';
import { addressSize, GUARD_CHECK, SET, setLayouts } from './layout.ts';
import { NO_OWNER, OP, PackedWriter, PROTOCOL_NUMBER } from './packed.ts';

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
} as const;

const NETWORK_HEADER = 1;
const TRANSPORT_HEADER = 2;
/** NFT_REG32_00: registers of four bytes each. */
const REG = 8;
const META_L4PROTO = 16;
const CMP_EQ = 0;
const CMP_NEQ = 1;
const BYTEORDER_HTON = 1;
const DYNSET_UPDATE = 1;
const DYNSET_DELETE = 2;
const CSUM_NONE = 0;
const CSUM_INET = 1;
const CSUM_SCTP = 2;
const JUMP = -3;
const GOTO = -4;
const RETURN = -5;
const DROP = 0;

/** Destination port: offset and size are the same in TCP, UDP and SCTP. */
const DPORT_OFFSET = 2;
const CHECKSUM: Record<keyof typeof PROTOCOL_NUMBER, { type: number; offset: number }> = {
  TCP: { type: CSUM_INET, offset: 16 },
  UDP: { type: CSUM_INET, offset: 6 },
  SCTP: { type: CSUM_SCTP, offset: 8 },
};

const NO_CHECKSUM = '\0\0';

class RuleWriter {
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
  equals(register: number, bytes: string): this {
    this.numbers(KIND.cmp, CMP_EQ, register);
    this.body.text(bytes);
    return this;
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
  writePort(sum: { readonly type: number; readonly offset: number }, register: number): this {
    return this.numbers(
      KIND.payloadWrite,
      TRANSPORT_HEADER,
      DPORT_OFFSET,
      2,
      register,
      sum.type,
      sum.offset,
      0,
    );
  }
  inSet(register: number, set: string): this {
    this.numbers(KIND.lookup, register, 0);
    this.body.text(set);
    return this;
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

interface Header {
  readonly saddr: number;
  readonly daddr: number;
  readonly bytes: number;
  /** 32-bit registers that one address takes. */
  readonly registers: number;
}
const HEADER: Record<Family, Header> = {
  4: { saddr: 12, daddr: 16, bytes: 4, registers: 1 },
  6: { saddr: 8, daddr: 24, bytes: 16, registers: 4 },
};

/** port := random slot below size, for each protocol; every rule may still take a verdict. */
function drawSlot(family: Family, size: number): RuleWriter[] {
  const draw = (protocol: keyof typeof PROTOCOL_NUMBER) =>
    new RuleWriter().l4proto(REG).equals(REG, String.fromCharCode(PROTOCOL_NUMBER[protocol]));
  const slot = (rule: RuleWriter, sum: { readonly type: number; readonly offset: number }) =>
    rule.random(REG, size).toPort(REG).writePort(sum, REG);
  const udp = (rule: RuleWriter) => rule.load(TRANSPORT_HEADER, CHECKSUM.UDP.offset, 2, REG);
  if (family === 6) return PROTOCOLS.map((protocol) => slot(draw(protocol), CHECKSUM[protocol]));
  return [
    slot(draw('TCP'), CHECKSUM.TCP),
    slot(udp(draw('UDP')).differs(REG, NO_CHECKSUM), CHECKSUM.UDP),
    // As skeleton.ts does: a datagram without a checksum keeps none.
    slot(udp(draw('UDP')).equals(REG, NO_CHECKSUM), { type: CSUM_NONE, offset: 0 }),
    slot(draw('SCTP'), CHECKSUM.SCTP),
  ];
}

/** client . pool, with the member id that now stands in the port as data. */
function remember(family: Family, rule: RuleWriter, op: number, timeoutSeconds: number): RuleWriter {
  const h = HEADER[family];
  const data = REG + 2 * h.registers;
  return rule
    .load(NETWORK_HEADER, h.saddr, h.bytes, REG)
    .load(NETWORK_HEADER, h.daddr, h.bytes, REG + h.registers)
    .load(TRANSPORT_HEADER, DPORT_OFFSET, 2, data)
    .dynset(op, REG, data, timeoutSeconds, setLayouts(family)[SET.affinity]!.name);
}

/** Where a packet with its pool and its slot or member id goes. */
const TRANSLATE = 'translate';
/** 65535, as it stands in the packet. */
const NO_MEMBER = '\xff\xff';

const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;

/** What the chain's name says. */
export interface PickChain {
  readonly size: number;
  readonly affinitySeconds: number;
}

export function pickChainName(pick: PickChain): string {
  return pick.affinitySeconds > 0 ? `sticky-${pick.size}-${pick.affinitySeconds}` : `pick-${pick.size}`;
}

/** The reverse of pickChainName(); null for any other chain. */
export function parsePickChain(name: string): PickChain | null {
  const match = /^(?:pick-(\d+)|sticky-(\d+)-(\d+))$/.exec(name);
  if (!match) return null;
  return { size: Number(match[1] ?? match[2]), affinitySeconds: Number(match[3] ?? 0) };
}

/** How many rules a chain made by writePickChain() has. */
export function pickChainRules(family: Family, pick: PickChain): number {
  const draws = family === 4 ? 4 : 3;
  return pick.affinitySeconds > 0 ? 8 + draws : draws;
}

export function writePickChain(out: PackedWriter, family: Family, pick: PickChain): void {
  const name = pickChainName(pick);
  writeNamed(out, OP.addChain, name);
  if (pick.affinitySeconds === 0) {
    for (const rule of drawSlot(family, pick.size)) rule.verdict(GOTO, TRANSLATE).append(out, name);
    return;
  }
  const jump = (chain: string) => new RuleWriter().verdict(JUMP, chain).append(out, name);
  // 65535 is no member id: a client that is not known cannot look like one that is. Looking for the member is
  // a chain of the skeleton, not a rule here: the kernel walks the whole of a map when a rule that looks into
  // it is added (nf_tables_bind_set), 8 ms at 100,000 members.
  jump('forget-port');
  jump('recall');
  jump('forget-gone');
  const known = new RuleWriter().load(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG).differs(REG, NO_MEMBER);
  remember(family, known, DYNSET_UPDATE, pick.affinitySeconds).verdict(GOTO, TRANSLATE).append(out, name);
  // Not known, or known with a member that is gone: draw anew, and forget first, since an update would keep
  // the old member.
  remember(family, new RuleWriter(), DYNSET_DELETE, 0).append(out, name);
  for (const rule of drawSlot(family, pick.size)) rule.append(out, name);
  writeStickyTail(out, family, name, pick.affinitySeconds);
}

function writeStickyTail(out: PackedWriter, family: Family, name: string, affinitySeconds: number): void {
  new RuleWriter().verdict(JUMP, 'member-of-slot').append(out, name);
  // Two connections of one client at once: the second update keeps the first one's member, so read it back.
  remember(family, new RuleWriter(), DYNSET_UPDATE, affinitySeconds)
    .verdict(JUMP, 'recall')
    .append(out, name);
  new RuleWriter().verdict(GOTO, TRANSLATE).append(out, name);
}

export function writeNamed(out: PackedWriter, op: number, name: string): void {
  out.u8(op);
  out.u32(NO_OWNER);
  out.text(name);
}

function maskBytes(family: Family, bits: number): string {
  let mask = '';
  for (let i = 0; i < addressSize(family); i++) {
    const left = Math.max(0, Math.min(8, bits - 8 * i));
    mask += String.fromCharCode((0xff << (8 - left)) & 0xff);
  }
  return mask;
}

/** Rebuilds guard-check: one rule for each prefix length in use, then drop. */
export function writeGuardCheck(out: PackedWriter, family: Family, bitsInUse: readonly number[]): void {
  const h = HEADER[family];
  writeNamed(out, OP.flushChain, GUARD_CHECK);
  for (const bits of bitsInUse) {
    const source = REG + h.registers + 2;
    new RuleWriter()
      .load(NETWORK_HEADER, h.daddr, h.bytes, REG)
      .l4proto(REG + h.registers)
      .load(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG + h.registers + 1)
      .load(NETWORK_HEADER, h.saddr, h.bytes, source)
      .and(source, maskBytes(family, bits))
      .inSet(REG, setLayouts(family)[SET.ranges + bits]!.name)
      .verdict(RETURN)
      .append(out, GUARD_CHECK);
  }
  new RuleWriter().verdict(DROP).append(out, GUARD_CHECK);
}

/** nft's numbers for the types of a key (TYPE_BITS 6): address . inet_proto . inet_service . address. */
export function writeRangeSet(out: PackedWriter, family: Family, bits: number): void {
  const layout = setLayouts(family)[SET.ranges + bits]!;
  const address = family === 4 ? 7 : 8;
  out.u8(OP.addSet);
  out.u32(NO_OWNER);
  out.text(layout.name);
  out.u32(0);
  out.u32((((((address << 6) | 12) << 6) | 13) << 6) | address);
  out.u32(layout.keyBytes);
}

export function writeTableFlags(out: PackedWriter, table: string, flags: number): void {
  writeNamed(out, OP.tableFlags, table);
  out.u32(flags);
}
