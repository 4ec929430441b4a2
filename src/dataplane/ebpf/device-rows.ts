/** tp_devices: what arrives on a device and what masquerade uses there. */
import { addressBytes } from '../../model/address.ts';
import { ABI, LAYOUTS } from './abi.ts';
import type { DeviceRole } from './device-roles.ts';
import type { SideMap } from './maps.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_device;

function rowOf({ pods, nat }: DeviceRole, xdpSend: boolean): Uint8Array {
  const row = new Uint8Array(BYTES);
  row[M.flags] = (pods ? ABI.D_PODS : 0) | (xdpSend ? ABI.D_XDP_SEND : 0);
  if (nat[4]) row.set(addressBytes(nat[4]), M.nat4);
  if (nat[6]) row.set(addressBytes(nat[6]), M.nat6);
  return row;
}

const keyOf = (ifindex: number) => new Uint8Array(Uint32Array.of(ifindex).buffer);
const same = (a: Uint8Array | null | undefined, b: Uint8Array) => !!a && Buffer.compare(a, b) === 0;

export class DeviceRows {
  readonly #map: SideMap;
  #rows = new Map<number, Uint8Array>();

  constructor(map: SideMap) {
    this.#map = map;
  }

  /**
   * Returns how many rows were written or taken out.
   * @param senders devices by which XDP may send (xdp-senders.ts)
   */
  follow(roles: ReadonlyMap<number, DeviceRole>, senders: ReadonlySet<number>): number {
    let changes = 0;
    const next = new Map(
      Array.from(roles, ([ifindex, role]) => [ifindex, rowOf(role, senders.has(ifindex))]),
    );
    for (const [ifindex, row] of next) {
      if (same(this.#rows.get(ifindex), row)) continue;
      this.#map.update(keyOf(ifindex), row);
      changes++;
    }
    for (const key of this.#rows.size === 0 ? this.#map.keys().map(indexOf) : this.#rows.keys())
      if (!next.has(key) && this.#map.remove(keyOf(key))) changes++;
    this.#rows = next;
    return changes;
  }

  /** Returns how many rows were not as they should be. */
  repair(): number {
    let changes = 0;
    for (const [ifindex, row] of this.#rows) {
      if (same(this.#map.get(keyOf(ifindex)), row)) continue;
      this.#map.update(keyOf(ifindex), row);
      changes++;
    }
    return changes;
  }
}

function indexOf(key: Uint8Array): number {
  return new DataView(key.buffer, key.byteOffset).getUint32(0, true);
}
