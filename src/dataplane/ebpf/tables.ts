/**
 * The maps as memory: what user space writes without system calls. One writer at a time; the programs read while
 * it writes, so each record is whole before the word that leads to it is stored.
 */
import type { Address, Family, Protocol } from '../../model/records.ts';
import { ABI, LAYOUTS, PROTOCOL_NUMBERS, poolWord, slotWord, TOMB, writeAddress } from './abi.ts';
import { type BpfObject, bpfNative, type MapHandle } from './native.ts';

/** What tp_index is asked by. */
export interface FrontendKey {
  readonly address: Address;
  readonly port: number;
  readonly protocol: Protocol;
  readonly family: Family;
}

export interface Pool {
  readonly base: number;
  readonly count: number;
  readonly answer: number;
}

export interface FrontendRecord extends FrontendKey {
  readonly flags: number;
  readonly inside: Pool;
  readonly outside: Pool;
  readonly service: number;
  /** In ticks, 0: none. */
  readonly affinity: number;
  /** Id of the source ranges, 0: none. */
  readonly guard: number;
}

export interface BackendRecord {
  readonly address: Address;
  readonly port: number;
  readonly flags: number;
  readonly incarnation: number;
}

/** A mapped array: its bytes in three widths. */
export interface Mapped {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly longs: BigUint64Array;
  readonly view: DataView;
  readonly entries: number;
}

export function mapArray(handle: MapHandle): Mapped {
  // Values of an array lie on multiples of 8 bytes (kernel: array_map_alloc, elem_size).
  const stride = Math.ceil(handle.valueBytes / 8) * 8;
  const buffer = bpfNative().bpfMapMmap(handle.fd, stride * handle.entries);
  return {
    bytes: new Uint8Array(buffer),
    words: new Uint32Array(buffer),
    longs: new BigUint64Array(buffer),
    view: new DataView(buffer),
    entries: handle.entries,
  };
}

/** tp_backendports: says that a backend has the port. The bit stays, since connections may outlive the backend. */
export function notePort({ words }: Mapped, port: number): void {
  words[port >> 5] = words[port >> 5]! | (1 << (port & 31));
}

const FRONTEND = LAYOUTS.tp_frontend;
const BACKEND = LAYOUTS.tp_backend;

/** The 20 bytes that bpfHashFrontend() takes. */
function keyBytes(key: FrontendKey): Uint8Array {
  const bytes = new Uint8Array(20);
  writeAddress(bytes, 0, key.address);
  new DataView(bytes.buffer).setUint16(16, key.port);
  bytes[18] = PROTOCOL_NUMBERS[key.protocol];
  bytes[19] = key.family;
  return bytes;
}

export class Tables {
  readonly settings: Mapped;
  readonly index: Mapped;
  readonly frontends: Mapped;
  /** Each slot takes 8 bytes, of which the first 4 count. */
  readonly poolSlots: Mapped;
  readonly backends: Mapped;
  readonly backendPorts: Mapped;
  readonly conns: Mapped;
  readonly pairs: Mapped;
  readonly nat: Mapped;
  readonly hops: Mapped;
  readonly #seed: Uint8Array;

  constructor(object: BpfObject, seed: Uint8Array) {
    const maps = object.maps();
    this.#seed = seed;
    this.settings = mapArray(maps.tp_settings!);
    this.index = mapArray(maps.tp_index!);
    this.frontends = mapArray(maps.tp_frontends!);
    this.poolSlots = mapArray(maps.tp_pool_slots!);
    this.backends = mapArray(maps.tp_backends!);
    this.backendPorts = mapArray(maps.tp_backendports!);
    this.conns = mapArray(maps.tp_conns!);
    this.pairs = mapArray(maps.tp_pairs!);
    this.nat = mapArray(maps.tp_nat!);
    this.hops = mapArray(maps.tp_hops!);
  }

  /** Bucket and tag of a key, as the programs reckon them. */
  place(key: FrontendKey): { bucket: number; tag: number } {
    const out = new Uint8Array(8);
    bpfNative().bpfHashFrontend(this.#seed, keyBytes(key), out);
    const view = new DataView(out.buffer);
    return { bucket: view.getUint32(0, true), tag: view.getUint32(4, true) };
  }

  /** Writes the record; nobody finds it before link(). */
  writeFrontend(index: number, record: FrontendRecord): void {
    const at = index * FRONTEND.bytes;
    const { bytes, view } = this.frontends;
    const m = FRONTEND.members;
    writeAddress(bytes, at + m.addr, record.address);
    view.setUint16(at + m.port, record.port);
    bytes[at + m.proto] = PROTOCOL_NUMBERS[record.protocol];
    bytes[at + m.family] = record.family;
    view.setUint32(at + m.flags, record.flags, true);
    view.setUint32(at + m.service, record.service, true);
    view.setUint32(at + m.affinity, record.affinity, true);
    view.setUint32(at + m.guard, record.guard, true);
    this.flip(index, 'inside', record.inside);
    this.flip(index, 'outside', record.outside);
  }

  /** Gives a frontend another pool, all at once. */
  flip(index: number, side: 'inside' | 'outside', pool: Pool): void {
    const at = (index * FRONTEND.bytes + FRONTEND.members[side]) / 8;
    const flags = this.frontends.view.getUint32(index * FRONTEND.bytes + FRONTEND.members.flags, true);
    Atomics.store(this.frontends.longs, at, poolWord(pool.base, pool.count, pool.answer, flags));
  }

  #slots(bucket: number): number[] {
    const buckets = this.index.entries;
    return Array.from({ length: ABI.BUCKET_TRIES * ABI.BUCKET_SLOTS }, (_, i) => {
      const where = (bucket + Math.floor(i / ABI.BUCKET_SLOTS)) & (buckets - 1);
      return where * ABI.BUCKET_SLOTS + (i % ABI.BUCKET_SLOTS);
    });
  }

  /** Makes a frontend findable. False: its buckets are full. */
  link(index: number, key: FrontendKey): boolean {
    const { bucket, tag } = this.place(key);
    for (const slot of this.#slots(bucket)) {
      const word = this.index.longs[slot]!;
      if (word !== 0n && word !== TOMB) continue;
      Atomics.store(this.index.longs, slot, slotWord(tag, index));
      return true;
    }
    return false;
  }

  /** Makes it findable no more. A slot once used stays a tomb, so that what lies behind it is still found. */
  unlink(index: number, key: FrontendKey): boolean {
    const { bucket, tag } = this.place(key);
    const word = slotWord(tag, index);
    for (const slot of this.#slots(bucket)) {
      if (this.index.longs[slot] !== word) continue;
      Atomics.store(this.index.longs, slot, TOMB);
      return true;
    }
    return false;
  }

  writeBackend(index: number, record: BackendRecord): void {
    const at = index * BACKEND.bytes;
    const m = BACKEND.members;
    writeAddress(this.backends.bytes, at + m.addr, record.address);
    this.backends.view.setUint16(at + m.port, record.port);
    notePort(this.backendPorts, record.port);
    this.backends.view.setUint16(at + m.flags, record.flags, true);
    this.backends.view.setUint32(at + m.incarnation, record.incarnation, true);
    this.backends.view.setUint32(at + m.hop, 0, true);
    this.backends.view.setUint32(at + m.hop_gen, 0, true);
  }

  setBackendFlags(index: number, flags: number): void {
    this.backends.view.setUint16(index * BACKEND.bytes + BACKEND.members.flags, flags, true);
  }

  /** Fills a range of pool slots; it must not be in use. */
  writePool(base: number, backends: readonly number[]): void {
    backends.forEach((backend, i) => {
      this.poolSlots.words[(base + i) * 2] = backend;
    });
  }
}
