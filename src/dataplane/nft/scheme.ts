/**
 * What makes a table of ours this kind and not another: its name, its sets, its static rules, and what a
 * service needs in the sets. The machinery beside it (differences, batches, adoption, comparing) is the same for
 * the nft mode and for what the ipvs mode leaves to nftables.
 */
import type { LocalDetector } from '../../model/desired.ts';
import type { Family } from '../../model/records.ts';
import type { ElementSink } from './elements.ts';
import { NEXT_TABLE, POOL_NUMBERS, type SetLayout, setLayouts, TABLE } from './layout.ts';
import { type PackedWriter, poolNumber } from './packed.ts';
import type { PoolBounds } from './pool.ts';
import { type ClassOf, emitPort, type PortState } from './service-elements.ts';
import { skeletonText } from './skeleton.ts';
import { writeStaticRules } from './static-rules.ts';

export interface Scheme {
  readonly table: string;
  /** A table under construction while an old version still carries traffic. */
  readonly nextTable: string;
  /** Indexed by SET; sets of ranges, which come and go, at its end. */
  layouts(family: Family): readonly SetLayout[];
  /** The text of the static rules, dormant. */
  skeleton(table: string, family: Family, detector: LocalDetector): string;
  /** Writes the static rules that are no text, for a table that the text has made; null: there are none. */
  readonly writeRules: ((out: PackedWriter, family: Family) => void) | null;
  /** `other`: a state of the same port; slots that are the same in both need not be emitted. */
  emitPort(sink: ElementSink, state: PortState, classOf: ClassOf, other?: PortState): void;
  /** Which numbers the table `name` gives to its pools. */
  poolNumbers(name: string): PoolBounds;
  /** The number in the key of an element of SET.pools. */
  poolNumberOf(key: Uint8Array): number;
  /** 'rules': the table itself draws a backend (sets pools, picks, members, slots); 'elsewhere': it does not. */
  readonly draws: 'rules' | 'elsewhere';
}

export const NFT_SCHEME: Scheme = {
  table: TABLE,
  nextTable: NEXT_TABLE,
  layouts: setLayouts,
  skeleton: skeletonText,
  writeRules: writeStaticRules,
  emitPort,
  poolNumbers: (name) => POOL_NUMBERS[name]!,
  poolNumberOf: poolNumber,
  draws: 'rules',
};
