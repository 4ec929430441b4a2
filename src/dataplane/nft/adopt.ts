/**
 * Taking over a table that a predecessor left (or that somebody changed): compare, and change only what
 * differs. A restart onto unchanged state sends nothing. Sums over sets are compared first, and single
 * elements only of sets whose sums differ: the memory for a comparison element by element is not taken for
 * the whole table at once.
 */
import type { DesiredNode, DesiredService } from '../../model/desired.ts';
import type { ApplyResult, Refusal } from '../dataplane.ts';
import {
  parsePickChain,
  pickChainRules,
  writeGuardCheck,
  writeNamed,
  writePickChain,
  writeRangeSet,
} from './chains.ts';
import { ElementCollector, type ElementValue, mapKey, sameElement, writeElement } from './elements.ts';
import type { FamilyKernel, FamilyResult, OwnerChange } from './family-kernel.ts';
import type { Segment } from './family-table.ts';
import { comparableSets, PoolImage, readSet } from './kernel-image.ts';
import { GUARD_CHECK, SET } from './layout.ts';
import { type NameAnswer, sumsOf } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';
import { isRangeSet } from './range-pairs.ts';

/** Elements are hashed in runs of about so many bytes. */
const RUN_BYTES = 1 << 20;

/** What makes the kernel's table the desired one. */
interface Repair {
  /** Chains and sets to make, and elements to remove: not of any one owner. */
  readonly head: PackedWriter;
  readonly added: { readonly element: ElementValue; readonly owner: number }[];
  /** Sets to remove. */
  readonly tail: PackedWriter;
  /** Keys of the owners that `added` numbers. */
  readonly ownerNames: string[];
}

/** null: more differs than one batch can mend; the table is to be built anew. */
export async function adoptTable(
  kernel: FamilyKernel,
  names: NameAnswer,
  owners: readonly OwnerChange[],
): Promise<ApplyResult | null> {
  const expected = await adoptOwners(kernel, owners);
  const rules = await kernel.socket.dumpRules(kernel.proto, kernel.name);
  const repair: Repair = { ...objects(kernel, names, rules), added: [], ownerNames: [] };
  let operations = 0;
  for (const set of comparableSets(kernel.table.layouts, names)) {
    const held = await kernel.socket.dumpElements(kernel.proto, kernel.name, kernel.table.layouts, set, true);
    kernel.sums[set] = expected[set]!;
    if (held.sum === expected[set]) continue;
    const { elements } = await readSet(kernel.socket, kernel.proto, kernel.table.layouts, kernel.name, set);
    operations += writeDifference(kernel, set, elements, repair);
  }
  for (const bits of kernel.table.rangeLengths()) {
    const set = SET.ranges + bits;
    if (names.sets.includes(kernel.table.layouts[set]!.name)) continue;
    kernel.sums[set] = expected[set]!;
    operations += writeDifference(kernel, set, new Map(), repair);
  }
  const result: FamilyResult = { operations, refusals: [] };
  await kernel.companion?.before(kernel.family, segmentsOf(kernel), result);
  const refusals = await send(kernel, repair);
  return refusals && { ...result, refusals: [...result.refusals, ...refusals] };
}

/** What there is to be, as if all of it were new. */
function segmentsOf({ table }: FamilyKernel): Segment[] {
  return Array.from(table.states(), ([owner, after]) => ({
    owner,
    before: undefined,
    after,
    difference: null,
    freedPools: [],
    takenPools: [],
  }));
}

/** Fills the family's memory from the desired state and the predecessor's pools; gives the expected sums. */
async function adoptOwners(kernel: FamilyKernel, owners: readonly OwnerChange[]): Promise<BigUint64Array> {
  const { table, family, proto, socket } = kernel;
  const { scheme } = table;
  const read = async (set: number) =>
    set === SET.pools || scheme.draws === 'rules'
      ? (await readSet(socket, proto, table.layouts, kernel.name, set)).elements.values()
      : [];
  const image = new PoolImage(family, (number) => table.numbers.adopt(number), scheme.poolNumberOf);
  for (const set of [SET.pools, SET.members, SET.slots]) for (const e of await read(set)) image.add(e);
  for (const e of await read(SET.picks)) {
    if (parsePickChain(e.data)) table.picks.adopt((e.key.charCodeAt(1) << 8) | e.key.charCodeAt(2), e.data);
  }
  const sums = new BigUint64Array(table.layouts.length);
  const run = new PackedWriter(RUN_BYTES + (64 << 10));
  const flush = () => {
    sumsOf(family, table.layouts, run.take()).forEach((sum, set) => {
      sums[set] = BigInt.asUintN(64, sums[set]! + sum);
    });
    run.length = 0;
  };
  for (const { owner, next } of owners) {
    if (next)
      table.adopt(owner, next as DesiredService | DesiredNode, (port, kind) => image.find(port, kind), run);
    if (run.length > RUN_BYTES) flush();
  }
  for (const name of table.picks.inUse()) table.picks.writePick(run, OP.addElement, name);
  flush();
  return sums;
}

/** Appends what makes one set hold what the owners need. */
function writeDifference(
  kernel: FamilyKernel,
  set: number,
  held: Map<string, ElementValue>,
  repair: Repair,
): number {
  const { head: out, added, ownerNames } = repair;
  const addedBefore = added.length;
  const layout = kernel.table.layouts[set]!;
  // Bounds of ranges can only be replaced in pairs (see range-pairs.ts), and a stray one has none: start anew.
  const anew = isRangeSet(set);
  const known = anew ? new Map<string, ElementValue>() : held;
  const seen = new Set<string>();
  const expect = (elements: Iterable<[string, ElementValue]>, owner: string) => {
    let place = -1;
    for (const [, element] of elements) {
      const key = mapKey(set, element.key);
      if (element.set !== set || seen.has(key)) continue;
      seen.add(key);
      if (sameElement(known.get(key), element)) {
        known.delete(key);
        continue;
      }
      if (place < 0) place = ownerNames.push(owner) - 1;
      added.push({ element, owner: place });
    }
  };
  if (set === SET.picks && kernel.table.scheme.draws === 'rules') expect(pickElements(kernel), '');
  else {
    for (const [owner, state] of kernel.table.states()) {
      const collector = new ElementCollector(kernel.family, kernel.table.layouts);
      kernel.table.emit(collector, state);
      expect(collector.map, owner);
    }
  }
  if (anew && held.size > 0) writeSetFlush(out, set);
  for (const element of known.values()) writeElement(out, OP.delElement, NO_OWNER, layout, element);
  return held.size + added.length - addedBefore;
}

function writeSetFlush(out: PackedWriter, set: number): void {
  out.u8(OP.flushSet);
  out.u32(NO_OWNER);
  out.u8(set);
}

function* pickElements(kernel: FamilyKernel): Generator<[string, ElementValue]> {
  for (const name of kernel.table.picks.inUse()) yield kernel.table.picks.element(name);
}

/** Sends the repair; an owner whose elements the kernel refuses is left out, and named. */
async function send(kernel: FamilyKernel, repair: Repair): Promise<Refusal[] | null> {
  const refusals = new Map<number, Refusal>();
  for (;;) {
    const body = new PackedWriter();
    for (const { element, owner } of repair.added) {
      if (refusals.has(owner)) continue;
      writeElement(body, OP.addElement, owner, kernel.table.layouts[element.set]!, element);
    }
    const bytes = Buffer.concat([repair.head.take(), body.take(), repair.tail.take()]);
    if (bytes.length === 0) return [...refusals.values()];
    if (bytes.length > kernel.batchBytesMax()) return null;
    // The sums are already those of the desired state: what is sent makes the kernel agree with them, and
    // what is refused makes the next comparison fail, which tries again.
    const answer = await kernel.repair(bytes);
    if (answer === 'done') return [...refusals.values()];
    if (answer.size === 0) return null;
    for (const [owner, errno] of answer) {
      const service = repair.ownerNames[owner] ?? '';
      refusals.set(owner, { service, reason: `the kernel refused its nftables elements (${errno})` });
    }
  }
}

/** Chains and sets to make, mend or remove. */
function objects(
  kernel: FamilyKernel,
  names: NameAnswer,
  rules: readonly { chain: string }[],
): { head: PackedWriter; tail: PackedWriter } {
  const { table, family } = kernel;
  const head = new PackedWriter();
  const tail = new PackedWriter();
  const ruleCount = new Map<string, number>();
  for (const { chain } of rules) ruleCount.set(chain, (ruleCount.get(chain) ?? 0) + 1);
  const wanted = new Set(table.picks.inUse());
  const present = new Set(names.chains);
  for (const name of wanted) {
    const pick = parsePickChain(name)!;
    if (present.has(name)) {
      if (ruleCount.get(name) === pickChainRules(family, pick)) continue;
      writeNamed(head, OP.flushChain, name);
    }
    writePickChain(head, family, pick);
  }
  for (const name of present) if (parsePickChain(name) && !wanted.has(name)) table.picks.idle.add(name);
  const lengths = table.rangeLengths();
  const setsPresent = new Set(names.sets);
  const fresh = lengths.filter((bits) => !setsPresent.has(table.layouts[SET.ranges + bits]!.name));
  for (const bits of fresh) writeRangeSet(head, family, bits);
  const gone = table.layouts
    .slice(SET.ranges)
    .filter((layout, bits) => setsPresent.has(layout.name) && !lengths.includes(bits));
  if (fresh.length + gone.length > 0 || ruleCount.get(GUARD_CHECK) !== lengths.length + 1)
    writeGuardCheck(head, family, lengths);
  for (const layout of gone) writeNamed(tail, OP.delSet, layout.name);
  return { head, tail };
}
