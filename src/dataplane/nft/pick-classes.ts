/**
 * The ways of drawing that are in use, their numbers and their chains. A number is what a pool's element
 * carries; the map `picks` leads from it to the chain.
 */
import type { Family } from '../../model/records.ts';
import { type PickChain, parsePickChain, pickChainName, writeNamed, writePickChain } from './chains.ts';
import { type ElementValue, mapKey, writeElement } from './elements.ts';
import { SET, setLayouts } from './layout.ts';
import { NO_OWNER, OP, type PackedWriter } from './packed.ts';

/** Which ways of drawing were in use, and which chains idle, at some moment. */
export interface PicksMark {
  readonly used: ReadonlySet<string>;
  readonly idle: ReadonlySet<string>;
}

export class PickClasses {
  private readonly family: Family;
  private readonly numbers = new Map<string, number>();
  private readonly names = new Map<number, string>();
  private readonly use = new Map<string, number>();
  /** Chains that exist although nothing refers to them: deleted in a later transaction, as kernels before 6.2 need it. */
  readonly idle = new Set<string>();

  constructor(family: Family) {
    this.family = family;
  }

  /** The number of a way of drawing, a new one if need be. */
  numberOf(pick: PickChain): number {
    const name = pickChainName(pick);
    let number = this.numbers.get(name);
    if (number === undefined) {
      number = 1;
      while (this.names.has(number)) number++;
      this.adopt(number, name);
    }
    return number;
  }

  /** For a number that a predecessor gave. */
  adopt(number: number, name: string): void {
    this.numbers.set(name, number);
    this.names.set(number, name);
  }

  /** Counts a pool's element; `data` are its packed bytes: the number as a port. */
  count(data: string, by: 1 | -1): void {
    const name = this.names.get((data.charCodeAt(0) << 8) | data.charCodeAt(1));
    if (name === undefined) return;
    const use = (this.use.get(name) ?? 0) + by;
    if (use <= 0) this.use.delete(name);
    else this.use.set(name, use);
  }

  /** Names of the chains in use. */
  inUse(): string[] {
    return [...this.use.keys()];
  }

  /** The state that write() compares with and undo() returns to. */
  mark(): PicksMark {
    return { used: new Set(this.use.keys()), idle: new Set(this.idle) };
  }

  /** What came into use since the mark goes into `head`, what went out of use into `tail`. */
  write(head: PackedWriter, tail: PackedWriter, before: PicksMark): void {
    for (const name of this.use.keys()) {
      if (before.used.has(name)) continue;
      if (!this.idle.delete(name)) writePickChain(head, this.family, parsePickChain(name)!);
      this.writePick(head, OP.addElement, name);
    }
    for (const name of before.used) {
      if (this.use.has(name)) continue;
      this.writePick(tail, OP.delElement, name);
      this.idle.add(name);
    }
  }

  writePick(out: PackedWriter, op: number, name: string): void {
    writeElement(out, op, NO_OWNER, setLayouts(this.family)[SET.picks]!, this.element(name)[1]);
  }

  /** The element of `picks` for a chain, with its mapKey. */
  element(name: string): [string, ElementValue] {
    const number = this.numbers.get(name)!;
    // Flag byte, then the number as a port.
    const key = String.fromCharCode(0, number >> 8, number & 0xff);
    return [mapKey(SET.picks, key), { set: SET.picks, key, data: name, comment: '' }];
  }

  /** After the counts were taken back: numbers of ways that are not used are free again. */
  undo(before: PicksMark): void {
    this.idle.clear();
    for (const name of before.idle) this.idle.add(name);
  }

  /** Frees the numbers of ways that nobody uses. */
  settle(): void {
    for (const [name, number] of this.numbers) {
      if (this.use.has(name)) continue;
      this.numbers.delete(name);
      this.names.delete(number);
    }
  }
}

/** Writes the removal of chains that are idle, for a transaction of its own. */
export function writeChainRemoval(out: PackedWriter, name: string): void {
  writeNamed(out, OP.flushChain, name);
  writeNamed(out, OP.delChain, name);
}
