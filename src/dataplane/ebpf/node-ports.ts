/** tp_nodeports: which NodePorts this node has, so that nobody binds to them. */
import type { PortEntry } from './entries.ts';
import type { Mapped } from './tables.ts';

/** None for SCTP: the kernel asks no program when its sockets bind. */
const BITS = { TCP: 1n, UDP: 2n, SCTP: 0n } as const;

export class NodePorts {
  readonly #map: Mapped;
  /** How many frontends have a port, by port and bit. */
  readonly #uses = new Map<string, number>();

  constructor(map: Mapped) {
    this.#map = map;
  }

  add(port: PortEntry): number {
    return this.#count(port, 1);
  }

  remove(port: PortEntry): number {
    return this.#count(port, -1);
  }

  #count({ desired }: PortEntry, by: 1 | -1): number {
    let stores = 0;
    const bit = BITS[desired.protocol];
    if (bit === 0n) return 0;
    for (const { kind, port } of desired.frontends) {
      if (kind !== 'NodePort') continue;
      const key = `${port} ${bit}`;
      const uses = (this.#uses.get(key) ?? 0) + by;
      if (uses > 0) this.#uses.set(key, uses);
      else this.#uses.delete(key);
      if (uses > 1 || (uses === 1 && by < 0)) continue;
      const word = this.#map.longs[port]!;
      Atomics.store(this.#map.longs, port, uses > 0 ? word | bit : word & ~bit);
      stores++;
    }
    return stores;
  }

  /** Makes the map say what was counted. True: it did not. */
  repair(): boolean {
    const expected = new Map<number, bigint>();
    for (const key of this.#uses.keys()) {
      const [port, bit] = key.split(' ') as [string, string];
      expected.set(Number(port), (expected.get(Number(port)) ?? 0n) | BigInt(bit));
    }
    let changed = false;
    const { words } = this.#map;
    for (let port = 0; port < this.#map.entries; port++) {
      const word = expected.get(port) ?? 0n;
      // Nearly all are zero, and numbers are looked at faster than big ones.
      if (word === 0n ? (words[2 * port]! | words[2 * port + 1]!) === 0 : this.#map.longs[port] === word)
        continue;
      Atomics.store(this.#map.longs, port, word);
      changed = true;
    }
    return changed;
  }
}
