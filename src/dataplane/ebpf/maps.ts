/** The maps that the compiler writes: arrays as memory, the others by system calls in batches. */
import { LAYOUTS } from './abi.ts';
import type { Place } from './frontend-index.ts';
import { type BpfObject, bpfNative, type MapHandle } from './native.ts';
import { type Mapped, mapArray } from './tables.ts';

const BATCH = 4096;

/** A hash or LPM map of user space. */
export class SideMap {
  readonly handle: MapHandle;

  constructor(handle: MapHandle) {
    this.handle = handle;
  }

  /** Keys and values end to end. */
  update(keys: Uint8Array, values: Uint8Array): void {
    const { fd, keyBytes, valueBytes } = this.handle;
    const count = keys.length / keyBytes;
    for (let from = 0; from < count; from += BATCH) {
      const to = Math.min(from + BATCH, count);
      const someKeys = keys.subarray(from * keyBytes, to * keyBytes);
      const someValues = values.subarray(from * valueBytes, to * valueBytes);
      if (to - from === 1) bpfNative().bpfMapUpdate(fd, someKeys, someValues, 0);
      else bpfNative().bpfMapUpdateBatch(fd, someKeys, someValues, to - from);
    }
  }

  /** One that is not there is no error. */
  remove(key: Uint8Array): boolean {
    return bpfNative().bpfMapDelete(this.handle.fd, key);
  }

  /** One by one: a batch would end at the first key that is not there. */
  removeAll(keys: readonly Uint8Array[]): void {
    for (const key of keys) this.remove(key);
  }

  get(key: Uint8Array): Uint8Array | null {
    return bpfNative().bpfMapLookup(this.handle.fd, key, this.handle.valueBytes);
  }

  keys(): Uint8Array[] {
    const { fd, keyBytes, entries } = this.handle;
    const all = bpfNative().bpfMapKeys(fd, keyBytes, entries);
    return Array.from({ length: all.length / keyBytes }, (_, i) =>
      all.subarray(i * keyBytes, (i + 1) * keyBytes),
    );
  }
}

export class TableMaps {
  readonly settings: Mapped;
  readonly index: Mapped;
  readonly frontends: Mapped;
  readonly poolSlots: Mapped;
  readonly backends: Mapped;
  readonly nodePorts: Mapped;
  readonly backendPorts: Mapped;
  readonly conns: Mapped;
  readonly pairs: Mapped;
  readonly nat: Mapped;
  readonly meta: Mapped;
  readonly ranges: SideMap;
  readonly names: SideMap;
  readonly devices: SideMap;
  readonly handles: Readonly<Record<string, MapHandle>>;
  readonly seed: Uint8Array;
  readonly #hash = new Uint8Array(8);
  readonly #hashWords = new Uint32Array(this.#hash.buffer);

  constructor(handles: Readonly<Record<string, MapHandle>>, seed: Uint8Array) {
    this.handles = handles;
    this.seed = seed;
    const array = (name: string) => mapArray(handles[name]!);
    this.settings = array('tp_settings');
    this.index = array('tp_index');
    this.frontends = array('tp_frontends');
    this.poolSlots = array('tp_pool_slots');
    this.backends = array('tp_backends');
    this.nodePorts = array('tp_nodeports');
    this.backendPorts = array('tp_backendports');
    this.conns = array('tp_conns');
    this.pairs = array('tp_pairs');
    this.nat = array('tp_nat');
    this.meta = array('tp_meta');
    this.ranges = new SideMap(handles.tp_ranges!);
    this.names = new SideMap(handles.tp_names!);
    this.devices = new SideMap(handles.tp_devices!);
  }

  static of(object: BpfObject, seed: Uint8Array): TableMaps {
    return new TableMaps(object.maps(), seed);
  }

  /** Where a key of 20 bytes (address, port, protocol, family: the head of struct tp_frontend) stands in tp_index. */
  place(key: Uint8Array): Place {
    bpfNative().bpfHashFrontend(this.seed, key, this.#hash);
    return { bucket: this.#hashWords[0]!, tag: this.#hashWords[1]! };
  }
}

/** struct tp_name as text. */
export function readName(value: Uint8Array): string {
  const end = value.indexOf(0);
  return Buffer.from(value.subarray(0, end < 0 ? value.length : end)).toString('latin1');
}

export function writeName(text: string): Uint8Array {
  const value = new Uint8Array(LAYOUTS.tp_name.bytes);
  value.set(Buffer.from(text, 'latin1').subarray(0, LAYOUTS.tp_name.bytes - 1));
  return value;
}
