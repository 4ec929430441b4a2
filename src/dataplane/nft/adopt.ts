/**
 * Taking over a table that a predecessor left (or that somebody changed): compare, and change only what
 * differs. A restart onto unchanged state sends nothing.
 */
import type { DesiredNode, DesiredService } from '../../model/desired.ts';
import type { ApplyResult } from '../dataplane.ts';
import { parsePickChain, pickChainName, pickChainRules, writeGuardCheck, writeNamed, writePickChain, writeRangeSet } from './chains.ts';
import { type ElementValue, writeElement } from './elements.ts';
import type { FamilyKernel, OwnerChange } from './family-kernel.ts';
import { comparableSets, PoolImage, readAllElements } from './kernel-image.ts';
import { CHAIN, SET } from './layout.ts';
import type { NameAnswer } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';

/** Flush the batch when it has grown so large; the receiver's limits are in FamilyKernel. */
const BATCH_BYTES = 2 << 20;

export async function adoptTable(kernel: FamilyKernel, names: NameAnswer, owners: readonly OwnerChange[]): Promise<ApplyResult> {
  const { table, family, proto, socket } = kernel;
  const sets = comparableSets(family, names);
  const { elements } = await readAllElements(socket, proto, family, kernel.name, sets);
  for (const set of sets) kernel.sums[set] = (await socket.dumpElements(proto, kernel.name, table.layouts, set, true)).sum;
  const image = new PoolImage(family, elements.values(), (number) => table.numbers.adopt(number));
  const removed: ElementValue[] = [];
  const added: { element: ElementValue; owner: string }[] = [];
  const seen = new Set<string>();
  for (const { owner, next } of owners) {
    if (!next) continue;
    for (const [key, element] of table.adopt({ owner, next: next as DesiredService | DesiredNode }, (port, kind) => image.find(port, kind))) {
      if (seen.has(key)) continue;
      seen.add(key);
      const held = elements.get(key);
      if (held && held.data === element.data) {
        elements.delete(key);
        continue;
      }
      // What differs stays in `elements` and is removed with the rest that nobody needs.
      added.push({ element, owner });
    }
  }
  seen.clear();
  removed.push(...elements.values());
  return send(kernel, names, removed, added);
}

async function send(kernel: FamilyKernel, names: NameAnswer, removed: readonly ElementValue[], added: readonly { element: ElementValue; owner: string }[]): Promise<ApplyResult> {
  const rules = await kernel.socket.dumpRules(kernel.proto, kernel.name);
  const { head, tail } = objects(kernel, names, rules);
  const refusals: ApplyResult['refusals'][number][] = [];
  const body = new PackedWriter(BATCH_BYTES);
  for (const element of removed) writeElement(body, OP.delElement, NO_OWNER, kernel.table.layouts[element.set]!, element);
  added.forEach(({ element }, i) => {
    writeElement(body, OP.addElement, i, kernel.table.layouts[element.set]!, element);
  });
  const bytes = Buffer.concat([head.take(), body.take(), tail.take()]);
  if (bytes.length > 0) {
    const answer = await kernel.send(bytes, 'shared');
    for (const { owner, errno } of answer.refused) {
      refusals.push({ service: added[owner]?.owner ?? '', reason: `the kernel refused its nftables elements (${errno})` });
    }
    if (answer.errno) refusals.push({ service: '', reason: `the kernel refused the comparison's result (${answer.errno})` });
  }
  return { operations: removed.length + added.length, refusals };
}

/** Chains and sets to make, mend or remove. */
function objects(kernel: FamilyKernel, names: NameAnswer, rules: readonly { chain: string }[]): { head: PackedWriter; tail: PackedWriter } {
  const { table, family } = kernel;
  const head = new PackedWriter();
  const tail = new PackedWriter();
  const ruleCount = new Map<string, number>();
  for (const { chain } of rules) ruleCount.set(chain, (ruleCount.get(chain) ?? 0) + 1);
  const wanted = new Set(table.chainNames());
  const present = new Set(names.chains);
  for (const name of wanted) {
    const pick = parsePickChain(name);
    if (!pick) continue;
    if (present.has(name)) {
      if (ruleCount.get(name) === pickChainRules(pick)) continue;
      writeNamed(head, OP.flushChain, pickChainName(pick));
    }
    writePickChain(head, family, pick);
  }
  for (const name of present) if (parsePickChain(name) && !wanted.has(name)) table.idleChains.add(name);
  const lengths = table.rangeLengths();
  const setsPresent = new Set(names.sets);
  const fresh = lengths.filter((bits) => !setsPresent.has(table.layouts[SET.ranges + bits]!.name));
  for (const bits of fresh) writeRangeSet(head, family, bits);
  const gone = table.layouts.slice(SET.ranges).filter((layout, bits) => setsPresent.has(layout.name) && !lengths.includes(bits));
  if (fresh.length + gone.length > 0 || ruleCount.get(CHAIN.guardCheck) !== lengths.length + 1) writeGuardCheck(head, family, lengths);
  for (const layout of gone) writeNamed(tail, OP.delSet, layout.name);
  return { head, tail };
}
