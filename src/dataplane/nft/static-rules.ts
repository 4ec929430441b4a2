/**
 * The static rules that nft 1.0 cannot write as text, in chains that the skeleton declares empty: one for all protocols,
 * where as text each protocol has its own. Every new connection to a service meets them. `nft list` can read them.
 */
import type { Family } from '../../model/records.ts';
import { SET, setLayouts } from './layout.ts';
import type { PackedWriter } from './packed.ts';
import {
  DPORT_OFFSET,
  GOTO,
  HEADER,
  NETWORK_HEADER,
  REG,
  RuleWriter,
  TRANSPORT_HEADER,
} from './rule-writer.ts';

export const DRAW = 'draw';
/** Where a packet with its pool and its slot or member id goes. */
export const TRANSLATE = 'translate';
/** Where one goes whose slot is none. */
export const TRANSLATE_AGAIN = 'translate-again';

export function writeStaticRules(out: PackedWriter, family: Family): void {
  const { daddr, bytes, registers } = HEADER[family];
  const layouts = setLayouts(family);
  const name = (set: number) => layouts[set]!.name;
  const again = (chain: string) => new RuleWriter().verdict(GOTO, TRANSLATE_AGAIN).append(out, chain);
  // The pool is the destination: its way of drawing, and the chain that draws so. The way goes by the port, since nft
  // 1.0 aborts on any table (`nft list`) with a verdict map whose key is another map's answer.
  new RuleWriter()
    .load(NETWORK_HEADER, daddr, bytes, REG)
    .look(REG, name(SET.pools), REG)
    .writePort(REG)
    .load(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG)
    .verdictOf(REG, name(SET.picks))
    .append(out, DRAW);
  // The rules changed meanwhile: no chain of this way, or it is still empty.
  again(DRAW);
  new RuleWriter()
    .load(NETWORK_HEADER, daddr, bytes, REG)
    .load(TRANSPORT_HEADER, DPORT_OFFSET, 2, REG + registers)
    .look(REG, name(SET.members), REG)
    .dnat(family, REG, REG + registers)
    .append(out, TRANSLATE);
  again(TRANSLATE);
}
