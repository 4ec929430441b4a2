/** tp_backends: one record for each backend of a service port, and what becomes of those that left. */
import { addressBytes, putAddress } from '../../model/address.ts';
import type { Backend } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import { ABI, LAYOUTS, readAddress } from './abi.ts';
import { TableFull } from './entries.ts';
import { Indexes } from './indexes.ts';
import type { TableMaps } from './maps.ts';
import { notePort } from './tables.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_backend;
export const MEMBER_FLAGS = ABI.B_IN_CLUSTER | ABI.B_IN_LOCAL;

/** A backend that left its pools while connections may still refer to its record. */
interface Gone {
  readonly sinceMs: number;
  /** Under which it comes back; '': never. */
  readonly key: string;
}

export function backendKey(address: Address, port: number): string {
  return `${address} ${port}`;
}

export class Backends {
  readonly records: Indexes;
  readonly gone = new Map<number, Gone>();
  readonly #byKey = new Map<string, number>();
  readonly #maps: TableMaps;
  readonly #now: () => number;

  constructor(maps: TableMaps, now: () => number) {
    this.#maps = maps;
    this.#now = now;
    this.records = new Indexes(maps.backends.entries);
  }

  /** A record for a backend that joins a service port: the one it had, if that is still here. Throws TableFull. */
  join(service: number, key: string, backend: Backend, undo: (() => void)[]): number {
    const known = this.#byKey.size > 0 ? this.#byKey.get(`${service} ${key}`) : undefined;
    if (known !== undefined) {
      const was = this.gone.get(known)!;
      this.#byKey.delete(was.key);
      this.gone.delete(known);
      undo.push(() => {
        this.#byKey.set(was.key, known);
        this.gone.set(known, was);
      });
      return known;
    }
    const index = this.make(backend);
    undo.push(() => this.records.release(index));
    return index;
  }

  /** A new record; it is in no pool yet. To release it is left to the caller. Throws TableFull. */
  make({ address, port }: Backend): number {
    const index = this.records.take();
    if (index < 0) throw new TableFull(`the table of ${this.records.limit} backends is full`);
    const at = index * BYTES;
    const { bytes, view } = this.#maps.backends;
    // All but the incarnation, which tells what refers to the record's owner before.
    bytes.fill(0, at, at + M.incarnation);
    putAddress(bytes, at, address);
    view.setUint16(at + M.port, port);
    notePort(this.#maps.backendPorts, port);
    view.setUint32(at + M.hop, 0, true);
    view.setUint32(at + M.hop_gen, 0, true);
    return index;
  }

  flags(index: number): number {
    return this.#maps.backends.view.getUint16(index * BYTES + M.flags, true);
  }

  /** Returns how many stores it took. One that comes back from no pool is another one than it was. */
  setFlags(index: number, flags: number): number {
    const was = this.flags(index);
    if (was === flags) return 0;
    const { view } = this.#maps.backends;
    const at = index * BYTES;
    if ((was & MEMBER_FLAGS) === 0) {
      view.setUint32(at + M.incarnation, view.getUint32(at + M.incarnation, true) + 1, true);
    }
    view.setUint16(at + M.flags, flags, true);
    return 1;
  }

  /** It is in no pool any more; its flags say so. */
  leave(service: number, index: number): void {
    const { address, port } = this.#read(index);
    const key = `${service} ${backendKey(address, port)}`;
    this.#byKey.set(key, index);
    this.gone.set(index, { sinceMs: this.#now(), key });
  }

  /** For a record that a predecessor's pools name. False: it is out of bounds. */
  adopt(index: number): boolean {
    if (!this.records.isUsed(index) && !this.records.reserve(index)) return false;
    notePort(this.#maps.backendPorts, this.#read(index).port);
    return true;
  }

  /** For a record that no pool names but a connection does. */
  adoptGone(index: number): void {
    if (!this.records.reserve(index)) return;
    notePort(this.#maps.backendPorts, this.#read(index).port);
    this.setFlags(index, 0);
    this.gone.set(index, { sinceMs: this.#now(), key: '' });
  }

  forget(index: number): void {
    const gone = this.gone.get(index)!;
    if (this.#byKey.get(gone.key) === index) this.#byKey.delete(gone.key);
    this.gone.delete(index);
    this.records.release(index);
  }

  #read(index: number): { address: Address; port: number } {
    const at = index * BYTES;
    const { bytes, view } = this.#maps.backends;
    // An IPv6 address that begins so is no address of an endpoint (::/32).
    const rest = view.getUint32(at + 4) | view.getUint32(at + 8) | view.getUint32(at + 12);
    const family: Family = rest !== 0 ? 6 : 4;
    return { address: readAddress(bytes, at, family), port: view.getUint16(at + M.port) };
  }

  read(index: number): Backend {
    return { ...this.#read(index), local: (this.flags(index) & ABI.B_LOCAL) !== 0 };
  }

  says(index: number, backend: Backend, flags: number): boolean {
    const at = index * BYTES;
    const { bytes, view } = this.#maps.backends;
    if (view.getUint16(at + M.port) !== backend.port || this.flags(index) !== flags) return false;
    const address = addressBytes(backend.address);
    for (let i = 0; i < address.length; i++) if (bytes[at + i] !== address[i]) return false;
    return true;
  }

  repair(index: number, backend: Backend, flags: number): void {
    const at = index * BYTES;
    const { bytes, view } = this.#maps.backends;
    bytes.fill(0, at, at + 16);
    bytes.set(addressBytes(backend.address), at);
    view.setUint16(at + M.port, backend.port);
    notePort(this.#maps.backendPorts, backend.port);
    view.setUint16(at + M.flags, flags, true);
  }
}
