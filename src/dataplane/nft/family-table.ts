/**
 * What one family's table holds, as far as we know: the memory against which changes are computed. No I/O:
 * planService() turns a change of one service into elements to remove and to add, write() packs planned
 * changes into one batch, undo() takes them back when the kernel refused it.
 */
import type { DesiredNode, DesiredPort, DesiredService } from '../../model/desired.ts';
import type { Family, ObjectKey } from '../../model/records.ts';
import { writeGuardCheck, writeNamed, writeRangeSet } from './chains.ts';
import {
  ElementCollector,
  type ElementMap,
  ElementPacker,
  type ElementSink,
  type ElementValue,
  mapKey,
  rangeBits,
  sameElement,
  writeElement,
} from './elements.ts';
import { SET, type SetLayout } from './layout.ts';
import { OP, PackedWriter } from './packed.ts';
import { PickClasses, type PicksMark } from './pick-classes.ts';
import { nextPool, PoolNumbers, type PoolState } from './pool.ts';
import { isRangeSet, newRanges } from './range-pairs.ts';
import { NFT_SCHEME, type Scheme } from './scheme.ts';
import { type ClassOf, emitNode, type PoolKind, type PortState } from './service-elements.ts';

/** What stands behind an owner: a service's ports, or (owner '') the node. */
export type OwnerState = { readonly ports: readonly PortState[] } | { readonly node: DesiredNode };

/** One owner's planned change. */
export interface Segment {
  readonly owner: ObjectKey;
  readonly before: OwnerState | undefined;
  readonly after: OwnerState | undefined;
  /** null: the owner is new and all its elements are added; they are not kept as values. */
  readonly difference: {
    readonly removed: readonly ElementValue[];
    readonly added: readonly ElementValue[];
  } | null;
  readonly freedPools: readonly number[];
  readonly takenPools: readonly number[];
}

/** A batch ready to be sent. */
export interface Batch {
  readonly bytes: Buffer;
  readonly operations: number;
  /** What undo() returns to. */
  readonly picksBefore: PicksMark;
}

export class FamilyTable {
  readonly family: Family;
  readonly scheme: Scheme;
  readonly layouts: readonly SetLayout[];
  readonly numbers: PoolNumbers;
  readonly picks: PickClasses;
  private readonly owners = new Map<ObjectKey, OwnerState>();
  /** How many owners need a shared element, by mapKey. */
  private readonly shared = new Map<string, number>();
  /** How many elements each prefix length's set holds. */
  private readonly ranges = new Map<number, number>();
  private readonly classOf: ClassOf;

  constructor(family: Family, scheme: Scheme = NFT_SCHEME, table = scheme.table) {
    this.family = family;
    this.scheme = scheme;
    this.layouts = scheme.layouts(family);
    this.numbers = new PoolNumbers(scheme.poolNumbers(table));
    this.picks = new PickClasses(family);
    this.classOf = (pick) => this.picks.numberOf(pick);
  }

  /** Emits the elements of an owner; not those of slots that are the same in `other`. */
  emit(sink: ElementSink, state: OwnerState, other?: OwnerState): void {
    if ('node' in state) {
      emitNode(sink, state.node);
      return;
    }
    const others = other && 'ports' in other ? other.ports : [];
    for (const port of state.ports)
      this.scheme.emitPort(
        sink,
        port,
        this.classOf,
        others.find((o) => samePort(o.port, port.port)),
      );
  }

  private collect(state: OwnerState | undefined, other?: OwnerState): ElementMap {
    const sink = new ElementCollector(this.family, this.layouts);
    if (state) this.emit(sink, state, other);
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
    const ports = this.portsOf(next, (port) => old.find((o) => samePort(o.port, port)), takeNumber);
    return this.plan(owner, before, ports.length > 0 ? { ports } : undefined, taken);
  }

  planNode(node: DesiredNode): Segment {
    return this.plan('', this.owners.get(''), { node }, []);
  }

  private portsOf(
    service: DesiredService | null,
    oldOf: (port: DesiredPort) => PortState | undefined,
    takeNumber: () => number,
  ): PortState[] {
    return (service?.ports ?? [])
      .filter((port) => port.family === this.family)
      .map((port) => nextPort(port, oldOf(port), takeNumber));
  }

  private plan(
    owner: ObjectKey,
    before: OwnerState | undefined,
    after: OwnerState | undefined,
    takenPools: number[],
  ): Segment {
    const keptPools = new Set(poolNumbers(after));
    const freedPools = poolNumbers(before).filter((number) => !keptPools.has(number));
    const difference = before ? this.difference(before, after) : null;
    if (after) this.owners.set(owner, after);
    else this.owners.delete(owner);
    return { owner, before, after, difference, freedPools, takenPools };
  }

  private difference(before: OwnerState, after: OwnerState | undefined): Segment['difference'] {
    const old = this.collect(before, after);
    const now = this.collect(after, before);
    const removed: ElementValue[] = [...newRanges(now.values(), old.values())];
    const added: ElementValue[] = [...newRanges(old.values(), now.values())];
    for (const [key, element] of old)
      if (!isRangeSet(element.set) && !sameElement(now.get(key), element)) removed.push(element);
    for (const [key, element] of now)
      if (!isRangeSet(element.set) && !sameElement(old.get(key), element)) added.push(element);
    return { removed, added };
  }

  /** Takes written segments back, last first, after the kernel refused their batch. */
  undo(segments: readonly Segment[], batch: Batch): void {
    for (const segment of segments.toReversed()) {
      const { added, removed } = segment.difference ?? {
        added: [...this.collect(segment.after).values()],
        removed: [],
      };
      for (const e of added)
        this.count(
          e.set,
          () => e.key,
          () => e.data,
          -1,
        );
      for (const e of removed)
        this.count(
          e.set,
          () => e.key,
          () => e.data,
          1,
        );
      if (segment.before) this.owners.set(segment.owner, segment.before);
      else this.owners.delete(segment.owner);
      for (const number of segment.takenPools) this.numbers.release(number);
    }
    this.picks.undo(batch.picksBefore);
  }

  /** After the kernel took the batch. */
  done(segments: readonly Segment[]): void {
    for (const segment of segments) for (const number of segment.freedPools) this.numbers.release(number);
  }

  /** When no batch is under way: frees what none uses any more. */
  settle(): void {
    this.picks.settle();
  }

  /** Adds to an element's use; true when it is to be sent: it is not shared, or came into or went out of use. */
  private count(set: number, key: () => string, data: () => string, by: 1 | -1): boolean {
    if (set === SET.pools && this.scheme.draws === 'rules') this.picks.count(data(), by);
    const bits = rangeBits(set);
    if (bits >= 0) bump(this.ranges, bits, by);
    if (!this.layouts[set]!.shared) return true;
    const use = bump(this.shared, mapKey(set, key()), by);
    return by > 0 ? use === 1 : use === 0;
  }

  /** Packs segments into one batch, owners numbered by their place in `segments`. */
  write(segments: readonly Segment[]): Batch {
    const picksBefore = this.picks.mark();
    const rangesBefore = new Set(this.ranges.keys());
    const body = new PackedWriter(segments.length > 100 ? 1 << 20 : 16 << 10);
    let operations = 0;
    const put = (op: number, by: 1 | -1, owner: number, e: ElementValue) => {
      if (
        !this.count(
          e.set,
          () => e.key,
          () => e.data,
          by,
        )
      )
        return;
      operations++;
      writeElement(body, op, owner, this.layouts[e.set]!, e);
    };
    // Removals of all owners come first: an address may pass from one service to another in one batch.
    segments.forEach((segment, owner) => {
      for (const element of segment.difference?.removed ?? []) put(OP.delElement, -1, owner, element);
    });
    const packer = this.packer(body);
    segments.forEach((segment, owner) => {
      packer.owner = owner;
      if (segment.difference)
        for (const element of segment.difference.added) put(OP.addElement, 1, owner, element);
      else if (segment.after) this.emit(packer, segment.after);
    });
    const { head, tail } = this.writeObjects(rangesBefore, picksBefore);
    return {
      bytes: Buffer.concat([head.take(), body.take(), tail.take()]),
      operations: operations + packer.operations,
      picksBefore,
    };
  }

  /** Chains and sets that came into use go before the elements, those out of use after them. */
  private writeObjects(
    rangesBefore: ReadonlySet<number>,
    picksBefore: PicksMark,
  ): { head: PackedWriter; tail: PackedWriter } {
    const head = new PackedWriter();
    const tail = new PackedWriter();
    this.picks.write(head, tail, picksBefore);
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

  /**
   * For a restart: an owner's state on top of what a predecessor's pools say. Counts its elements, and hands
   * each that is to be in the kernel once to `out` as an add operation.
   */
  adopt(
    owner: ObjectKey,
    next: DesiredService | DesiredNode,
    poolOf: (port: DesiredPort, kind: PoolKind) => PoolState | null,
    out: PackedWriter,
  ): void {
    const state: OwnerState =
      'ports' in next
        ? { ports: this.portsOf(next, oldFrom(poolOf), () => this.numbers.take()) }
        : { node: next };
    if ('ports' in state && state.ports.length === 0) return;
    this.owners.set(owner, state);
    this.emit(this.packer(out), state);
  }

  private packer(out: PackedWriter): ElementPacker {
    return new ElementPacker(
      this.family,
      out,
      (set, key, data) => this.count(set, key, data, 1),
      this.layouts,
    );
  }

  /** All owners, for a second look at their elements. */
  states(): Iterable<[ObjectKey, OwnerState]> {
    return this.owners;
  }
}

function oldFrom(
  poolOf: (port: DesiredPort, kind: PoolKind) => PoolState | null,
): (port: DesiredPort) => PortState {
  return (port) => ({ port, cluster: poolOf(port, 'cluster'), local: poolOf(port, 'local') });
}

function bump<Key>(counts: Map<Key, number>, key: Key, by: number): number {
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
