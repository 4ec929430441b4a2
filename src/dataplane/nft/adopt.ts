/**
 * Taking over a table that a predecessor left (or that somebody changed): compare, and change only what
 * differs. A restart onto unchanged state sends nothing. Sums over sets are compared first, and single
 * elements only of sets whose sums differ: the memory for a comparison element by element is not taken for
 * the whole table at once. Each set is asked for once: the kernel begins at the first element again for each 32 KiB
 * that it gives (nf_tables_dump_set of net/netfilter/nf_tables_api.c), so a large set is dear.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
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
import { comparableSets, elementMap, PoolImage, readSet, type SetDump } from './kernel-image.ts';
import { GUARD_CHECK, SET } from './layout.ts';
import { type NameAnswer, type NftSocket, sumsOf } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';
import { isRangeSet } from './range-pairs.ts';
import { SetSums, sameShares } from './set-sums.ts';

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

/**
 * null: more differs than one batch can mend; the table is to be built anew. `beside` is another socket than the
 * kernel's own, so that two sets are walked at a time.
 */
export async function adoptTable(
  kernel: FamilyKernel,
  names: NameAnswer,
  owners: readonly OwnerChange[],
  beside: NftSocket,
): Promise<ApplyResult | null> {
  const { table, family, socket, proto } = kernel;
  const image = new PoolImage(family, (number) => table.numbers.adopt(number), table.scheme.poolNumberOf);
  const { layouts, scheme } = table;
  const reading = readPools(kernel, image);
  const summing = sumsHeld(kernel, names, PoolImage.setsOf(scheme), beside);
  // It is awaited only after the owners are planned; a failure in between is not unhandled.
  summing.catch(() => {});
  const dumps = await outliving(reading, summing);
  const expected = await outliving(adoptOwners(kernel, owners, image), summing);
  const held = await summing;
  for (const [set, { shares }] of dumps) held.set(set, shares);
  const rules = await socket.dumpRules(proto, kernel.name);
  const repair: Repair = { ...objects(kernel, names, rules), added: [], ownerNames: [] };
  const different = new Map<number, Map<string, ElementValue>>();
  for (const [set, shares] of held) {
    kernel.sums.replace(set, expected.of(set));
    if (sameShares(shares, expected.of(set))) continue;
    const known = dumps.get(set);
    different.set(
      set,
      known
        ? elementMap(layouts, set, known.packed)
        : (await readSet(socket, proto, layouts, kernel.name, set)).elements,
    );
  }
  for (const bits of table.rangeLengths()) {
    const set = SET.ranges + bits;
    if (names.sets.includes(layouts[set]!.name)) continue;
    kernel.sums.replace(set, expected.of(set));
    different.set(set, new Map());
  }
  const operations = writeDifferences(kernel, different, repair);
  const result: FamilyResult = { operations, refusals: [] };
  await kernel.companion?.before(family, segmentsOf(kernel), result);
  const refusals = await send(kernel, repair);
  return refusals && { ...result, refusals: [...result.refusals, ...refusals] };
}

async function readPools(kernel: FamilyKernel, image: PoolImage): Promise<Map<number, SetDump>> {
  const { table, socket, name } = kernel;
  const dumps = await image.read(socket, name, table);
  if (table.scheme.draws === 'rules') await adoptPicks(kernel);
  return dumps;
}

/** By set, the sums over what the kernel holds, but for `others`. */
async function sumsHeld(
  { table, proto, name }: FamilyKernel,
  names: NameAnswer,
  others: readonly number[],
  socket: NftSocket,
): Promise<Map<number, BigUint64Array>> {
  const held = new Map<number, BigUint64Array>();
  for (const set of comparableSets(table.layouts, names)) {
    if (others.includes(set)) continue;
    held.set(set, (await socket.dumpElements(proto, name, table.layouts, set, true)).shares);
  }
  return held;
}

/** `work` fails only after what runs beside it is over: its socket is to be closed. */
async function outliving<T>(work: Promise<T>, beside: Promise<unknown>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    await beside.catch(() => {});
    throw error;
  }
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

async function adoptPicks({ table, socket, proto, name }: FamilyKernel): Promise<void> {
  const { elements } = await readSet(socket, proto, table.layouts, name, SET.picks);
  for (const { key, data } of elements.values())
    if (parsePickChain(data)) table.picks.adopt((key.charCodeAt(1) << 8) | key.charCodeAt(2), data);
}

/** Fills the family's memory from the desired state and the predecessor's pools; gives the expected sums. */
async function adoptOwners(
  { table, family }: FamilyKernel,
  owners: readonly OwnerChange[],
  image: PoolImage,
): Promise<SetSums> {
  const sums = new SetSums(table.layouts.length);
  const run = new PackedWriter(RUN_BYTES + (64 << 10));
  const flush = () => {
    sums.add(sumsOf(family, table.layouts, run.take()));
    run.length = 0;
  };
  for (const { owner, next } of owners) {
    if (next)
      table.adopt(owner, next as DesiredService | DesiredNode, (port, kind) => image.find(port, kind), run);
    if (run.length <= RUN_BYTES) continue;
    flush();
    // The next set is to be asked for.
    await nextTurn();
  }
  for (const name of table.picks.inUse()) table.picks.writePick(run, OP.addElement, name);
  flush();
  return sums;
}

/** Appends what makes sets hold what the owners need; `different` has what each holds. Gives how much it looked at. */
function writeDifferences(
  kernel: FamilyKernel,
  different: ReadonlyMap<number, Map<string, ElementValue>>,
  repair: Repair,
): number {
  if (different.size === 0) return 0;
  const { head: out, added, ownerNames } = repair;
  const { layouts, scheme } = kernel.table;
  const seen = new Set<string>();
  let operations = 0;
  const expect = (elements: Iterable<ElementValue>, owner: string) => {
    let place = -1;
    for (const element of elements) {
      const key = mapKey(element.set, element.key);
      if (seen.has(key)) continue;
      seen.add(key);
      // Bounds of ranges can only be replaced in pairs (see range-pairs.ts), and a stray one has none: start anew.
      const known = isRangeSet(element.set) ? undefined : different.get(element.set)!;
      if (known && sameElement(known.get(key), element)) {
        known.delete(key);
        continue;
      }
      if (place < 0) place = ownerNames.push(owner) - 1;
      added.push({ element, owner: place });
      operations++;
    }
  };
  const sets = new Set(different.keys());
  if (different.has(SET.picks) && scheme.draws === 'rules') {
    expect(pickElements(kernel), '');
    sets.delete(SET.picks);
  }
  if (sets.size > 0) {
    for (const [owner, state] of kernel.table.states()) {
      const collector = new ElementCollector(kernel.family, layouts, sets);
      kernel.table.emit(collector, state);
      expect(collector.map.values(), owner);
    }
  }
  for (const [set, held] of different) {
    operations += held.size;
    if (isRangeSet(set)) {
      if (held.size > 0) writeSetFlush(out, set);
      continue;
    }
    for (const element of held.values()) writeElement(out, OP.delElement, NO_OWNER, layouts[set]!, element);
  }
  return operations;
}

function writeSetFlush(out: PackedWriter, set: number): void {
  out.u8(OP.flushSet);
  out.u32(NO_OWNER);
  out.u8(set);
}

function* pickElements(kernel: FamilyKernel): Generator<ElementValue> {
  for (const name of kernel.table.picks.inUse()) yield kernel.table.picks.element(name)[1];
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
      if (ruleCount.get(name) === pickChainRules(pick)) continue;
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
