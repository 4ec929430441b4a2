/**
 * The tables as they are read back, by whoever did not write them: the agent that comes next, and `triplane get`.
 * Reads memory only, but for names and source ranges.
 */
import type { Answer, Frontend, Masquerade } from '../../model/desired.ts';
import type { Address, Cidr, Family, Protocol } from '../../model/records.ts';
import { ABI, LAYOUTS, PROTOCOL_NUMBERS, poolParts, readAddress, TOMB } from './abi.ts';
import type { Place } from './frontend-index.ts';
import { AFFINITY_SECONDS, KIND_SHIFT, KINDS, RANGE_COUNT, U_STRANGERS } from './frontends.ts';
import { guardOf } from './guards.ts';
import { readName, type TableMaps } from './maps.ts';

const F = LAYOUTS.tp_frontend;
const R = LAYOUTS.tp_range_key;

/** A frontend that programs can find. */
export interface FrontendImage {
  readonly index: number;
  readonly slot: number;
  readonly place: Place;
  readonly address: Address;
  readonly port: number;
  readonly proto: number;
  readonly family: Family;
  readonly flags: number;
  readonly inside: PoolImage;
  readonly outside: PoolImage;
  readonly service: number;
  readonly affinitySeconds: number;
  readonly guard: number;
  readonly rangeCount: number;
}

export interface PoolImage {
  readonly answer: number;
  readonly base: number;
  readonly count: number;
}

const PROTOCOLS = new Map(Object.entries(PROTOCOL_NUMBERS).map(([name, n]) => [n, name as Protocol]));

export function protocolOf(proto: number): Protocol {
  return PROTOCOLS.get(proto) ?? 'TCP';
}

function poolImage(word: bigint): PoolImage {
  return poolParts(word);
}

/** The record at `index`; null: it holds no frontend. */
export function readFrontend(maps: TableMaps, index: number): Omit<FrontendImage, 'slot' | 'place'> | null {
  if (index >= maps.frontends.entries) return null;
  const at = index * F.bytes;
  const { bytes, view, longs } = maps.frontends;
  const family = bytes[at + F.members.family]!;
  if (family !== 4 && family !== 6) return null;
  return {
    index,
    address: readAddress(bytes, at, family),
    port: view.getUint16(at + F.members.port),
    proto: bytes[at + F.members.proto]!,
    family,
    flags: view.getUint32(at + F.members.flags, true),
    inside: poolImage(longs[(at + F.members.inside) / 8]!),
    outside: poolImage(longs[(at + F.members.outside) / 8]!),
    service: view.getUint32(at + F.members.service, true),
    affinitySeconds: view.getUint32(at + AFFINITY_SECONDS, true),
    guard: view.getUint32(at + F.members.guard, true),
    rangeCount: view.getUint32(at + RANGE_COUNT, true),
  };
}

/** Every frontend that the index leads to. */
export function readFrontends(maps: TableMaps): FrontendImage[] {
  const found: FrontendImage[] = [];
  const { longs, words, entries } = maps.index;
  for (let slot = 0; slot < entries * ABI.BUCKET_SLOTS; slot++) {
    // Most are empty, and a bigint is an object.
    if ((words[slot * 2]! | words[slot * 2 + 1]!) === 0) continue;
    const word = longs[slot]!;
    if (word === TOMB) continue;
    const record = readFrontend(maps, Number(word & 0xffff_ffffn) - 1);
    if (!record) continue;
    const place = maps.place(
      maps.frontends.bytes.subarray(record.index * F.bytes, record.index * F.bytes + 20),
    );
    if (place.tag !== Number(word >> 32n)) continue;
    found.push({ ...record, slot, place });
  }
  return found;
}

/** Indexes of the backends of a pool. */
export function readPool(maps: TableMaps, { base, count, answer }: PoolImage): number[] {
  if (answer !== ABI.CLUSTER && answer !== ABI.LOCAL) return [];
  const last = Math.min(base + count, maps.poolSlots.entries);
  const records: number[] = [];
  for (let slot = base; slot < last; slot++) records.push(maps.poolSlots.words[slot * 2]!);
  return records;
}

/** Names of service ports by id. */
export function readNames(maps: TableMaps): Map<number, string> {
  const names = new Map<number, string>();
  for (const key of maps.names.keys()) {
    const value = maps.names.get(key);
    if (value) names.set(new DataView(key.buffer, key.byteOffset).getUint32(0, true), readName(value));
  }
  return names;
}

/** Source ranges by guard. */
export function readRanges(
  maps: TableMaps,
  familyOf: (guard: number) => Family | undefined,
): Map<number, Cidr[]> {
  const guards = new Map<number, Cidr[]>();
  for (const key of maps.ranges.keys()) {
    const guard = guardOf(key);
    const family = familyOf(guard);
    if (family === undefined) continue;
    const bits = new DataView(key.buffer, key.byteOffset).getUint32(R.members.prefixlen, true) - 32;
    const cidr = `${readAddress(key, R.members.addr, family)}/${bits}` as Cidr;
    guards.set(guard, [...(guards.get(guard) ?? []), cidr]);
  }
  return guards;
}

export function answerOf({ answer, count }: PoolImage): Answer {
  if (answer === ABI.DROP) return 'drop';
  if (count === 0) return 'reject';
  return answer === ABI.LOCAL ? 'local' : 'cluster';
}

export function masqueradeOf(flags: number): Masquerade {
  if ((flags & ABI.F_MASQ_ALWAYS) !== 0) return 'always';
  return (flags & U_STRANGERS) !== 0 ? 'strangers' : 'node';
}

export function kindOf(flags: number): Frontend['kind'] {
  return KINDS[(flags >> KIND_SHIFT) & 3]!;
}

/**
 * The guards and their families. What is withdrawn has none any more: its number may be another's by now, and where a
 * service went and came back within a grace there are two numbers with the same ranges, of which one can be taken.
 */
export function guardFamilies(images: readonly FrontendImage[]): Map<number, Family> {
  const guarded = images.filter((image) => (image.flags & ABI.F_GUARDED) !== 0 && !isGone(image));
  return new Map(guarded.map(({ guard, family }) => [guard, family]));
}

/** It is withdrawn: only established connections still use it. */
export function isGone({ inside, outside }: FrontendImage): boolean {
  return inside.answer === ABI.GONE && outside.answer === ABI.GONE;
}

export function isAddress({ flags, proto, port }: FrontendImage): boolean {
  return (flags & ABI.F_ADDRESS) !== 0 || (proto === 0 && port === 0);
}
