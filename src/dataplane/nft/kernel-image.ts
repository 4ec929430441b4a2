/** One family's table as the kernel holds it: everything that adoption and read-back look at. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatAddress } from '../../model/address.ts';
import type { Backend, DesiredPort } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import { parsePickChain } from './chains.ts';
import { type ElementValue, mapKey, readElements } from './elements.ts';
import {
  addressSize,
  FIXED_SETS,
  GUARD_CHECK,
  MARKER_PREFIX,
  SET,
  type SetLayout,
  shortHash,
} from './layout.ts';
import type { NameAnswer, NftSocket } from './native.ts';
import { poolNumber } from './packed.ts';
import type { PoolState } from './pool.ts';
import type { PoolKind } from './service-elements.ts';
import { poolComment } from './service-elements.ts';

const LOOKS_MAX = 5;
const LOOK_AGAIN_MS = 50;

/** Sets whose elements are ours (not the kernel's own), by index, among those that exist. */
export function comparableSets(layouts: readonly SetLayout[], names: NameAnswer): number[] {
  const present = new Set(names.sets);
  return layouts.flatMap((layout, set) => (!layout.dynamic && present.has(layout.name) ? [set] : []));
}

/** True when every set of the skeleton is there. */
export function hasAllSets(layouts: readonly SetLayout[], names: NameAnswer): boolean {
  const present = new Set(names.sets);
  return layouts.slice(0, FIXED_SETS).every((layout) => present.has(layout.name));
}

/** The elements of one set. Taken again when a dump met a growing hash table and shows an element twice. */
export async function readSet(
  socket: NftSocket,
  proto: number,
  layouts: readonly SetLayout[],
  table: string,
  set: number,
): Promise<{ elements: Map<string, ElementValue>; strange: number }> {
  for (let look = 0; ; look++) {
    const answer = await socket.dumpElements(proto, table, layouts, set, false);
    const elements = new Map<string, ElementValue>();
    for (const element of readElements(layouts, set, answer.packed))
      elements.set(mapKey(set, element.key), element);
    if (elements.size + answer.strange === answer.count || look >= LOOKS_MAX)
      return { elements, strange: answer.strange };
    await sleep(LOOK_AGAIN_MS);
  }
}

/** Chains whose rules never change while the table stands: all but pick chains and the guard's list. */
function isStatic(chain: string): boolean {
  return chain !== GUARD_CHECK && parsePickChain(chain) === null;
}

/** A digest of the static rules and of the base chains' hooks: what a person or program may have altered. */
export function staticDigest(names: NameAnswer, rules: readonly { chain: string; hash: string }[]): string {
  const chains = names.chains.filter((name) => isStatic(name) && !name.startsWith(MARKER_PREFIX)).sort();
  const lines = rules.filter((rule) => isStatic(rule.chain)).map((rule) => `${rule.chain} ${rule.hash}`);
  // Rules of one chain keep their order; chains may be dumped in any.
  return shortHash([...chains, ...stableByChain(lines)].join('\n'));
}

function stableByChain(lines: readonly string[]): string[] {
  const byChain = new Map<string, string[]>();
  for (const line of lines) {
    const chain = line.slice(0, line.indexOf(' '));
    const list = byChain.get(chain);
    if (list) list.push(line);
    else byChain.set(chain, [line]);
  }
  return [...byChain.keys()].sort().flatMap((chain) => byChain.get(chain)!);
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** Pools as a predecessor left them, to be found by the comment on their element. */
export class PoolImage {
  private readonly family: Family;
  private readonly numberByComment = new Map<string, number>();
  private readonly members = new Map<number, Map<number, Backend>>();
  private readonly slots = new Map<number, number[]>();
  private readonly take: (number: number) => boolean;
  private readonly poolNumberOf: (key: Uint8Array) => number;

  /** `adopt` claims a number; false: somebody has it already. */
  constructor(
    family: Family,
    adopt: (number: number) => boolean,
    poolNumberOf: (key: Uint8Array) => number = poolNumber,
  ) {
    this.family = family;
    this.take = adopt;
    this.poolNumberOf = poolNumberOf;
  }

  add(element: ElementValue): void {
    if (element.set === SET.pools) {
      this.numberByComment.set(element.comment, this.poolNumberOf(bytesOf(element.key.slice(1))));
    } else if (element.set === SET.members) {
      this.addMember(element);
    } else if (element.set === SET.slots) {
      const [number, slot] = this.poolAndPort(element.key);
      const list = this.slots.get(number) ?? [];
      list[slot] = bytesOf(element.data).readUInt16BE(0);
      this.slots.set(number, list);
    }
  }

  private poolAndPort(key: string): [number, number] {
    const bytes = bytesOf(key.slice(1));
    const size = addressSize(this.family);
    return [poolNumber(bytes.subarray(0, size)), bytes.readUInt16BE(size)];
  }

  private addMember(element: ElementValue): void {
    const [number, member] = this.poolAndPort(element.key);
    const data = bytesOf(element.data);
    const size = addressSize(this.family);
    const address: Address = formatAddress(data.subarray(0, size));
    const pool = this.members.get(number) ?? new Map<number, Backend>();
    pool.set(member, { address, port: data.readUInt16BE(size), local: false });
    this.members.set(number, pool);
  }

  /** The pool that carries this comment; null when there is none or when it cannot be used as it is. */
  find(port: DesiredPort, kind: PoolKind): PoolState | null {
    if ((kind === 'cluster' ? port.cluster : port.local).length === 0) return null;
    const number = this.numberByComment.get(poolComment(port, kind));
    if (number === undefined || !this.take(number)) return null;
    const members = this.members.get(number);
    if (!members) return { number, slots: [], ids: null, lastId: 0 };
    const ids = this.slots.get(number);
    const order = ids ?? Array.from({ length: members.size }, (_, slot) => slot);
    const slots = Array.from(order, (member) => (member === undefined ? undefined : members.get(member)));
    // Holes: not as we left it. The number stays, the slots are made anew.
    if (slots.length === 0 || slots.includes(undefined)) return { number, slots: [], ids: null, lastId: 0 };
    return { number, slots: slots as Backend[], ids: ids ?? null, lastId: ids ? Math.max(...ids) : 0 };
  }
}
