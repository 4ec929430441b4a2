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
import { ElementCollector, type ElementValue, sameElement, writeElement } from './elements.ts';
import type { FamilyKernel, FamilyResult, OwnerChange } from './family-kernel.ts';
import type { Segment } from './family-table.ts';
import { comparableSets, PoolImage, readSet } from './kernel-image.ts';
import { GUARD_CHECK, SET } from './layout.ts';
import { type NameAnswer, sumsOf } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';
import { isRangeSet } from './range-pairs.ts';

/** Elements are hashed in runs of about so many bytes. */
const RUN_BYTES = 1 << 20;

export async function adoptTable(
  kernel: FamilyKernel,
  names: NameAnswer,
  owners: readonly OwnerChange[],
): Promise<ApplyResult> {
  const expected = await adoptOwners(kernel, owners);
  const rules = await kernel.socket.dumpRules(kernel.proto, kernel.name);
  const { head, tail } = objects(kernel, names, rules);
  const body = new PackedWriter();
  let operations = 0;
  const ownerNames: string[] = [];
  for (const set of comparableSets(kernel.table.layouts, names)) {
    const held = await kernel.socket.dumpElements(kernel.proto, kernel.name, kernel.table.layouts, set, true);
    kernel.sums[set] = expected[set]!;
    if (held.sum === expected[set]) continue;
    const { elements } = await readSet(kernel.socket, kernel.proto, kernel.table.layouts, kernel.name, set);
    operations += writeDifference(kernel, set, elements, body, ownerNames);
  }
  for (const bits of kernel.table.rangeLengths()) {
    const set = SET.ranges + bits;
    if (names.sets.includes(kernel.table.layouts[set]!.name)) continue;
    kernel.sums[set] = expected[set]!;
    operations += writeDifference(kernel, set, new Map(), body, ownerNames);
  }
  const bytes = Buffer.concat([head.take(), body.take(), tail.take()]);
  const result: FamilyResult = { operations, refusals: [] };
  await kernel.companion?.before(kernel.family, segmentsOf(kernel), result);
  if (bytes.length > 0) result.refusals.push(...(await send(kernel, bytes, ownerNames)));
  return result;
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
  out: PackedWriter,
  ownerNames: string[],
): number {
  const layout = kernel.table.layouts[set]!;
  // Bounds of ranges can only be replaced in pairs (see range-pairs.ts), and a stray one has none: start anew.
  const anew = isRangeSet(set);
  const known = anew ? new Map<string, ElementValue>() : held;
  const added: { element: ElementValue; owner: number }[] = [];
  const seen = new Set<string>();
  const expect = (elements: Iterable<[string, ElementValue]>, owner: string) => {
    let place = -1;
    for (const [key, element] of elements) {
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
  for (const { element, owner } of added) writeElement(out, OP.addElement, owner, layout, element);
  return held.size + added.length;
}

function writeSetFlush(out: PackedWriter, set: number): void {
  out.u8(OP.flushSet);
  out.u32(NO_OWNER);
  out.u8(set);
}

function* pickElements(kernel: FamilyKernel): Generator<[string, ElementValue]> {
  for (const name of kernel.table.picks.inUse()) yield kernel.table.picks.element(name);
}

async function send(kernel: FamilyKernel, bytes: Buffer, ownerNames: readonly string[]): Promise<Refusal[]> {
  // The sums are already those of the desired state: what is sent makes the kernel agree with them.
  const answer = await kernel.socket.commit(kernel.proto, kernel.name, kernel.table.layouts, bytes, false);
  const refusals = answer.refused.map(({ owner, errno }) => ({
    service: ownerNames[owner] ?? '',
    reason: `the kernel refused its nftables elements (${errno})`,
  }));
  if (answer.errno) refusals.push({ service: '', reason: `the kernel refused the repair (${answer.errno})` });
  return refusals;
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
