/** tp_traffic: how large it is, and what it holds. Its parts are those of processors, one after the other. */
import type { TrafficCounts, TrafficSettings } from '../traffic.ts';
import { ABI, LAYOUTS } from './abi.ts';
import { possibleCpus } from './counters.ts';
import type { Sizes } from './knobs.ts';

const { bytes: BYTES, members: M } = LAYOUTS.tp_traffic;
/** What all parts together may take: where it is less than one part a processor, some share one. */
const BYTES_MAX = 128 << 20;

const LEVELS = {
  off: ABI.TRAFFIC_OFF,
  connections: ABI.TRAFFIC_CONNECTIONS,
  traffic: ABI.TRAFFIC_PACKETS,
} as const;

/** What the programs are told. */
export interface TrafficKnobs {
  readonly level: number;
  readonly by: TrafficSettings['by'];
  /** Records of one part. */
  readonly stride: number;
  /** A power of two. */
  readonly parts: number;
  /** A part is that of several processors. */
  readonly shared: boolean;
}

const powerOfTwo = (n: number) => 2 ** Math.ceil(Math.log2(n));

/** null: nothing is counted. Service ports and backends have numbers below the sizes of their tables. */
export function trafficKnobs(
  { level, by }: TrafficSettings,
  sizes: Pick<Sizes, 'frontends' | 'backends'>,
  cpus = possibleCpus(),
): TrafficKnobs | null {
  if (level === 'off') return null;
  const stride = by === 'endpoint' ? sizes.backends : sizes.frontends;
  let parts = powerOfTwo(cpus);
  while (parts > 1 && parts * stride * BYTES > BYTES_MAX) parts /= 2;
  return { level: LEVELS[level], by, stride, parts, shared: parts < cpus };
}

/** The table as memory that programs add to meanwhile. */
export class TrafficTable {
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #knobs: TrafficKnobs;

  constructor(bytes: Uint8Array, knobs: TrafficKnobs) {
    this.#bytes = bytes;
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    this.#knobs = knobs;
  }

  /** Records there are numbers for. */
  get limit(): number {
    return this.#knobs.stride;
  }

  /** Sums over all parts; null: nothing was counted. */
  read(index: number): TrafficCounts | null {
    const { stride, parts } = this.#knobs;
    const sums = [0, 0, 0, 0, 0];
    let any = 0;
    for (let part = 0; part < parts; part++) {
      const at = ((part * stride + index) * BYTES) / 4;
      for (let word = 0; word < sums.length; word++) {
        // The high half first: programs only add, and a carry in between is seen with the next look.
        const high = this.#words[at + 2 * word + 1]!;
        const low = this.#words[at + 2 * word]!;
        sums[word]! += high * 2 ** 32 + low;
        any |= high | low;
      }
    }
    if (any === 0) return null;
    const of = (offset: number) => sums[offset / 8]!;
    return {
      connections: of(M.connections),
      packetsIn: of(M.packets),
      packetsOut: of(M.packets + 8),
      bytesIn: of(M.bytes),
      bytesOut: of(M.bytes + 8),
    };
  }

  /** For what gets another owner. */
  clear(index: number): void {
    const { stride, parts } = this.#knobs;
    for (let part = 0; part < parts; part++) {
      const at = (part * stride + index) * BYTES;
      this.#bytes.fill(0, at, at + BYTES);
    }
  }
}
