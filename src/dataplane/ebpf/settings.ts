/** struct tp_settings: what the programs obey, written in place. */
import type { Cidr, Family } from '../../model/records.ts';
import { ABI, LAYOUTS, prefixMask, writeAddress } from './abi.ts';
import type { Mapped } from './tables.ts';

const { members } = LAYOUTS.tp_settings;
const PREFIX_BYTES = LAYOUTS.tp_prefix.bytes;

const familyIndex = (family: Family) => (family === 4 ? 0 : 1);

export class Settings {
  readonly #map: Mapped;

  constructor(map: Mapped) {
    this.#map = map;
  }

  get flags(): number {
    return this.#map.words[members.flags / 4]!;
  }

  set flags(flags: number) {
    Atomics.store(this.#map.words, members.flags / 4, flags);
  }

  get routeGeneration(): number {
    return this.#map.words[members.route_gen / 4]!;
  }

  /** Every next hop that is remembered is asked again. */
  advanceRoutes(): void {
    const next = (this.routeGeneration + 1) >>> 0;
    Atomics.store(this.#map.words, members.route_gen / 4, next === 0 ? 1 : next);
  }

  setNodeNetns(cookie: bigint): void {
    this.#map.longs[members.node_netns / 8] = cookie;
  }

  /** At most ABI.PREFIXES of each family; the caller refuses more by name. */
  setPrefixes(which: 'service' | 'pod', family: Family, cidrs: readonly Cidr[]): void {
    const f = familyIndex(family);
    const base = members[`${which}_cidrs`] + f * ABI.PREFIXES * PREFIX_BYTES;
    const count = members[`${which}_cidr_count`] / 4 + f;
    Atomics.store(this.#map.words, count, 0);
    cidrs.slice(0, ABI.PREFIXES).forEach((cidr, i) => {
      const [address, bits] = cidr.split('/') as [never, string];
      writeAddress(this.#map.bytes, base + i * PREFIX_BYTES, address);
      this.#map.bytes.set(prefixMask(Number(bits)), base + i * PREFIX_BYTES + 16);
    });
    Atomics.store(this.#map.words, count, Math.min(cidrs.length, ABI.PREFIXES));
  }

  /** Between these lies every cluster IP and service CIDR; `low` above `high`: there is none. */
  setClusterSpan(family: Family, low: Uint8Array, high: Uint8Array): void {
    const f = familyIndex(family) * 16;
    this.#map.bytes.set(low, members.cluster_low + f);
    this.#map.bytes.set(high, members.cluster_high + f);
  }
}
