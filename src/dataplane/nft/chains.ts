/**
 * The rules that depend on what is in use: one chain for each distinct size of a pool, and, with affinity,
 * for each distinct (size, timeout). Their number is bounded by the number of distinct sizes, not of
 * services. (As text nft 1.0 cannot write the first, and aborts on the affinity update of IPv6.)
 */
import type { Family } from '../../model/records.ts';
import { addressSize, GUARD_CHECK, SET, setLayouts } from './layout.ts';
import { NO_OWNER, OP, type PackedWriter } from './packed.ts';
import {
  DPORT_OFFSET,
  DROP,
  DYNSET_DELETE,
  DYNSET_UPDATE,
  GOTO,
  HEADER,
  JUMP,
  NETWORK_HEADER,
  REG,
  RETURN,
  RuleWriter,
  TRANSPORT_HEADER,
} from './rule-writer.ts';
import { TRANSLATE } from './static-rules.ts';

/** port := random slot below size; the rule may still take a verdict. */
function drawSlot(size: number): RuleWriter {
  return new RuleWriter().random(REG, size).toPort(REG).writePort(REG);
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

/** 65535, as it stands in the packet. */
const NO_MEMBER = '\xff\xff';

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
export function pickChainRules(pick: PickChain): number {
  return pick.affinitySeconds > 0 ? 9 : 1;
}

export function writePickChain(out: PackedWriter, family: Family, pick: PickChain): void {
  const name = pickChainName(pick);
  writeNamed(out, OP.addChain, name);
  if (pick.affinitySeconds === 0) {
    drawSlot(pick.size).verdict(GOTO, TRANSLATE).append(out, name);
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
  drawSlot(pick.size).append(out, name);
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
