/**
 * What one family's table holds, as far as we know: the memory against which changes are computed. No I/O:
 * plan() turns a change of one service into elements to remove and to add, write() packs planned changes
 * into one batch, undo() takes them back when the kernel refused it.
 */
import type { DesiredNode, DesiredPort, DesiredService } from '../../model/desired.ts';
import type { Family, ObjectKey } from '../../model/records.ts';
import { parsePickChain, writeGuardCheck, writeNamed, writePickChain, writeRangeSet } from './chains.ts';
import { type ElementMap, ElementSink, type ElementValue, mapKey, rangeBits, writeElement } from './elements.ts';
import { SET, type SetLayout, setLayouts } from './layout.ts';
import { OP, PackedWriter } from './packed.ts';
import { nextPool, PoolNumbers, type PoolState } from './pool.ts';
import { emitNode, emitPort, type PoolKind, type PortState } from './service-elements.ts';

/** One owner's planned change. The owner is a service's key, or '' for the node's own elements. */
export interface Segment {
  readonly owner: ObjectKey;
  readonly removed: readonly ElementValue[];
  readonly added: readonly ElementValue[];
  readonly before: OwnerState | undefined;
  readonly after: OwnerState | undefined;
  readonly freedPools: readonly number[];
  readonly takenPools: readonly number[];
}

type OwnerState = { readonly ports: readonly PortState[] } | { readonly node: DesiredNode };

/** A batch ready to be sent. */
export interface Batch {
  readonly bytes: Buffer;
  readonly operations: number;
}

const NO_ELEMENTS: ElementMap = new Map();

export class FamilyTable {
  readonly family: Family;
  readonly layouts: readonly SetLayout[];
  readonly numbers = new PoolNumbers();
  /** Chains that nothing refers to any more: deleted in a later transaction (kernels before 6.2 need that). */
  readonly idleChains = new Set<string>();
  private readonly owners = new Map<ObjectKey, OwnerState>();
  private idleBeforeWrite: ReadonlySet<string> = new Set();
  /** How many owners need a shared element, by mapKey. */
  private readonly shared = new Map<string, number>();
  /** How many pools use a pick chain. */
  private readonly chains = new Map<string, number>();
  /** How many elements each prefix length's set holds. */
  private readonly ranges = new Map<number, number>();

  constructor(family: Family) {
    this.family = family;
    this.layouts = setLayouts(family);
  }

  /** The elements an owner has now. */
  private elementsOf(state: OwnerState | undefined): ElementMap {
    if (!state) return NO_ELEMENTS;
    const sink = new ElementSink(this.family);
    if ('node' in state) emitNode(sink, state.node);
    else for (const port of state.ports) emitPort(sink, port);
    return sink.map;
  }

  planService(owner: ObjectKey, next: DesiredService | null): Segment {
    const before = this.owners.get(owner);
    const old = before && 'ports' in before ? before.ports : [];
    const taken: number[] = [];
    const takeNumber = () => {
      const number = this.numbers.take();
      taken.push(number);
      return number;
    };
    const ports = (next?.ports ?? [])
      .filter((port) => port.family === this.family)
      .map((port) => nextPort(port, old.find((o) => samePort(o.port, port)), takeNumber));
    const after = ports.length > 0 ? { ports } : undefined;
    return this.plan(owner, before, after, taken);
  }

  /**
   * For a restart: takes over what a predecessor's kernel state says of pools. Returns the owner's elements;
   * the caller compares them with the kernel.
   */
  adopt(change: { owner: ObjectKey; next: DesiredService | DesiredNode }, poolOf: (port: DesiredPort, kind: PoolKind) => PoolState | null): ElementMap {
    const { owner, next } = change;
    const state: OwnerState =
      'ports' in next
        ? {
            ports: next.ports
              .filter((port) => port.family === this.family)
              .map((port) => {
                const old = { port, cluster: poolOf(port, 'cluster'), local: poolOf(port, 'local') };
                return nextPort(port, old, () => this.numbers.take());
              }),
          }
        : { node: next };
    this.owners.set(owner, state);
    const elements = this.elementsOf(state);
    for (const element of elements.values()) this.count(element, 1);
    return elements;
  }

  planNode(node: DesiredNode): Segment {
    return this.plan('', this.owners.get(''), { node }, []);
  }

  private plan(owner: ObjectKey, before: OwnerState | undefined, after: OwnerState | undefined, takenPools: number[]): Segment {
    const old = this.elementsOf(before);
    const now = this.elementsOf(after);
    const removed: ElementValue[] = [];
    const added: ElementValue[] = [];
    for (const [key, element] of old) {
      const kept = now.get(key);
      if (kept?.data !== element.data) removed.push(element);
    }
    for (const [key, element] of now) {
      if (old.get(key)?.data !== element.data) added.push(element);
    }
    const keptPools = new Set(poolNumbers(after));
    const freedPools = poolNumbers(before).filter((number) => !keptPools.has(number));
    const segment = { owner, removed, added, before, after, freedPools, takenPools };
    if (after) this.owners.set(owner, after);
    else this.owners.delete(owner);
    return segment;
  }

  /** Takes planned (and possibly counted) segments back, last first. `counted`: write() was called on them. */
  undo(segments: readonly Segment[], counted: 'counted' | 'planned'): void {
    for (const segment of segments.toReversed()) {
      if (counted === 'counted') {
        for (const element of segment.added) this.count(element, -1);
        for (const element of segment.removed) this.count(element, 1);
      }
      if (segment.before) this.owners.set(segment.owner, segment.before);
      else this.owners.delete(segment.owner);
      for (const number of segment.takenPools) this.numbers.release(number);
    }
    if (counted === 'planned') return;
    this.idleChains.clear();
    for (const name of this.idleBeforeWrite) this.idleChains.add(name);
  }

  /** After the kernel took the batch. */
  done(segments: readonly Segment[]): void {
    for (const segment of segments) for (const number of segment.freedPools) this.numbers.release(number);
  }

  /** Adds to an element's use; true when it came into use or went out of use. */
  private count(element: ElementValue, by: 1 | -1): boolean {
    if (element.set === SET.pools) bump(this.chains, element.data, by);
    const bits = rangeBits(element.set);
    if (bits >= 0) bump(this.ranges, bits, by);
    if (!this.layouts[element.set]!.shared) return true;
    const use = bump(this.shared, mapKey(element.set, element.key), by);
    return by > 0 ? use === 1 : use === 0;
  }

  /** Packs segments into one batch, owners numbered by their place in `segments`. */
  write(segments: readonly Segment[]): Batch {
    this.idleBeforeWrite = new Set(this.idleChains);
    const chainsBefore = new Set(this.chains.keys());
    const rangesBefore = new Set(this.ranges.keys());
    const body = new PackedWriter(64 * 1024);
    let operations = 0;
    const put = (op: number, owner: number, element: ElementValue) => {
      operations++;
      writeElement(body, op, owner, this.layouts[element.set]!, element);
    };
    // Removals of all owners come first: an address may pass from one service to another in one batch.
    segments.forEach((segment, owner) => {
      for (const element of segment.removed) if (this.count(element, -1)) put(OP.delElement, owner, element);
    });
    segments.forEach((segment, owner) => {
      for (const element of segment.added) if (this.count(element, 1)) put(OP.addElement, owner, element);
    });
    const { head, tail } = this.writeObjects(chainsBefore, rangesBefore);
    return { bytes: Buffer.concat([head.take(), body.take(), tail.take()]), operations };
  }

  /** Chains and sets that came into use go before the elements, those out of use after them. */
  private writeObjects(chainsBefore: Set<string>, rangesBefore: Set<number>): { head: PackedWriter; tail: PackedWriter } {
    const head = new PackedWriter();
    const tail = new PackedWriter();
    for (const name of this.chains.keys()) {
      if (chainsBefore.has(name)) continue;
      const pick = parsePickChain(name);
      if (pick && !this.idleChains.delete(name)) writePickChain(head, this.family, pick);
    }
    for (const name of chainsBefore) if (!this.chains.has(name)) this.idleChains.add(name);
    const fresh = [...this.ranges.keys()].filter((bits) => !rangesBefore.has(bits));
    const gone = [...rangesBefore].filter((bits) => !this.ranges.has(bits));
    if (fresh.length + gone.length > 0) {
      for (const bits of fresh) writeRangeSet(head, this.family, bits);
      writeGuardCheck(head, this.family, this.rangeLengths());
      for (const bits of gone) writeNamed(tail, OP.delSet, this.layouts[SET.ranges + bits]!.name);
    }
    return { head, tail };
  }

  /** Prefix lengths in use, in ascending order. */
  rangeLengths(): number[] {
    return [...this.ranges.keys()].sort((a, b) => a - b);
  }

  /** Names of the pick chains in use. */
  chainNames(): string[] {
    return [...this.chains.keys()];
  }

}

function bump(counts: Map<string, number>, key: string, by: number): number;
function bump(counts: Map<number, number>, key: number, by: number): number;
function bump(counts: Map<string | number, number>, key: string | number, by: number): number {
  const next = (counts.get(key) ?? 0) + by;
  if (next <= 0) counts.delete(key);
  else counts.set(key, next);
  return next;
}

function samePort(a: DesiredPort, b: DesiredPort): boolean {
  return a.name === b.name && a.protocol === b.protocol;
}

function nextPort(port: DesiredPort, old: PortState | undefined, takeNumber: () => number): PortState {
  const affinity = port.affinitySeconds > 0 ? 'affinity' : 'none';
  const pool = (backends: DesiredPort['cluster'], before: PoolState | null | undefined) =>
    backends.length > 0 ? nextPool(before ?? null, backends, affinity, takeNumber) : null;
  return { port, cluster: pool(port.cluster, old?.cluster), local: pool(port.local, old?.local) };
}

function poolNumbers(state: OwnerState | undefined): number[] {
  if (!state || 'node' in state) return [];
  return state.ports.flatMap((p) => [p.cluster, p.local]).flatMap((pool) => (pool ? [pool.number] : []));
}
