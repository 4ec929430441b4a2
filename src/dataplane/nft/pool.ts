/**
 * Pools as the kernel holds them: a number, and backends in slots. A backend keeps its slot while it can, so
 * that a change of one backend changes one or two elements; the slots in use are always 0..size-1.
 */
import type { Backend } from '../../model/desired.ts';

/** Member ids are ports in the packet: 1..65534; 65535 means "no member known". */
const MEMBER_ID_MAX = 65534;

export interface PoolState {
  readonly number: number;
  /** Backend in each slot. */
  readonly slots: readonly Backend[];
  /**
   * With affinity, the member id in each slot. Clients remember ids, so an id is not given again until all
   * others were: a client never mistakes a new backend for the one it knew.
   */
  readonly ids: readonly number[] | null;
  /** The id that was given last; 0 without affinity. */
  readonly lastId: number;
}

/** The numbers that a table may give, both included. */
export interface PoolBounds {
  readonly first: number;
  readonly last: number;
}

/** Hands out pool numbers, each again only after all others. */
export class PoolNumbers {
  private readonly used = new Set<number>();
  private readonly bounds: PoolBounds;
  private last: number;

  constructor(bounds: PoolBounds) {
    this.bounds = bounds;
    this.last = this.bounds.first - 1;
  }

  take(): number {
    const { first, last } = this.bounds;
    if (this.used.size > last - first) throw new Error('no pool number left');
    do {
      this.last = this.last >= last ? first : this.last + 1;
    } while (this.used.has(this.last));
    this.used.add(this.last);
    return this.last;
  }
  /** For a number that a predecessor gave. False: it is taken, or no number of ours. */
  adopt(number: number): boolean {
    if (number < this.bounds.first || number > this.bounds.last || this.used.has(number)) return false;
    this.used.add(number);
    if (number > this.last) this.last = number;
    return true;
  }
  /** Numbers up to this one may be in use where we do not see it. */
  startAfter(number: number): void {
    this.last = Math.max(this.last, Math.min(number, this.bounds.last));
  }
  release(number: number): void {
    this.used.delete(number);
  }
}

export function backendKey(backend: { readonly address: string; readonly port: number }): string {
  return `${backend.address} ${backend.port}`;
}

/** The next state of a pool: survivors keep slot and id, newcomers fill holes, the last slots fill the rest. */
export function nextPool(
  old: PoolState | null,
  backends: readonly Backend[],
  affinity: 'affinity' | 'none',
  takeNumber: () => number,
): PoolState {
  const number = old ? old.number : takeNumber();
  const sticky = affinity === 'affinity';
  if (!old || old.slots.length === 0)
    return { number, slots: backends, ...(sticky ? newIds(backends.length) : NO_IDS) };
  const { slots, from } = reslot(old, backends);
  if (!sticky) return { number, slots, ...NO_IDS };
  return { number, slots, ...(old.ids ? keptIds(old.ids, old.lastId, from) : newIds(slots.length)) };
}

/** New slots, and for each the old slot whose backend it kept (-1: a newcomer). */
function reslot(old: PoolState, backends: readonly Backend[]): { slots: readonly Backend[]; from: number[] } {
  const wanted = new Map(backends.map((backend) => [backendKey(backend), backend]));
  const size = wanted.size;
  const slots: (Backend | undefined)[] = new Array(size);
  const from: number[] = new Array(size).fill(-1);
  const displaced: [Backend, number][] = [];
  old.slots.forEach((backend, slot) => {
    const kept = wanted.get(backendKey(backend));
    if (!kept) return;
    wanted.delete(backendKey(backend));
    if (slot < size) {
      slots[slot] = kept;
      from[slot] = slot;
    } else {
      displaced.push([kept, slot]);
    }
  });
  const newcomers = wanted.values();
  for (let slot = 0; slot < size; slot++) {
    if (slots[slot]) continue;
    const moved = displaced.pop();
    if (moved) {
      [slots[slot], from[slot]] = moved;
    } else {
      slots[slot] = newcomers.next().value!;
    }
  }
  return { slots: slots as Backend[], from };
}

type Ids = Pick<PoolState, 'ids' | 'lastId'>;
const NO_IDS: Ids = { ids: null, lastId: 0 };

function newIds(count: number): Ids {
  // A random start: after a restart without memory, clients of before rarely meet an id that was theirs.
  const start = Math.floor(Math.random() * MEMBER_ID_MAX);
  return keptIds([], start, new Array(count).fill(-1));
}

/** Ids for slots: the old slot's where there is one, else the next ones of the circle that nobody has. */
function keptIds(old: readonly number[], lastId: number, from: readonly number[]): Ids {
  const used = new Set(old);
  let last = lastId;
  const take = (): number => {
    do {
      last = (last % MEMBER_ID_MAX) + 1;
    } while (used.has(last));
    used.add(last);
    return last;
  };
  const ids = from.map((slot) => (slot >= 0 ? old[slot]! : take()));
  return { ids, lastId: last };
}
