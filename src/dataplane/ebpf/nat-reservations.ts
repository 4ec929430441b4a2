/** NAT ports that draining generations still use, kept from being given out a second time toward the same backend. */
import type { Drain } from './drain.ts';
import type { TableMaps } from './maps.ts';
import { lifeNative } from './native-life.ts';

export class NatReservations {
  readonly #maps: TableMaps;
  #seen = '';

  constructor(maps: TableMaps) {
    this.#maps = maps;
  }

  /** Looks at what they hold now. Of a generation whose tables this version cannot read nothing is known. */
  follow(drains: readonly Drain[]): void {
    const readable = drains.flatMap(({ maps }) => (maps ? [maps] : []));
    lifeNative().bpfReserveNat(
      this.#maps.nat.bytes,
      this.#maps.seed,
      readable.map(({ conns, backends }) => [conns.bytes, backends.bytes]),
    );
  }

  /** As follow(), where one of them has been walked through since, or has gone. */
  followPasses(drains: readonly Drain[]): void {
    const now = drains.map(({ generation, passes }) => `${generation.number}:${passes}`).join();
    if (now === this.#seen) return;
    this.#seen = now;
    this.follow(drains);
  }
}
