/** Counting in the nft mode: the table of traffic-text.ts in the kernel, and what its counters stand at. */
import { formatAddress } from '../../model/address.ts';
import type { DesiredState } from '../../model/desired.ts';
import type { Family } from '../../model/records.ts';
import { formatSocket } from '../../model/socket.ts';
import type { TableUse } from '../dataplane.ts';
import type { TrafficCell, TrafficReader, TrafficSettings } from '../traffic.ts';
import { staticDigest } from './kernel-image.ts';
import { addressSize } from './layout.ts';
import { type NameAnswer, NFPROTO, type NftSocket, openNftSocket, withNftSocket } from './native.ts';
import { NO_OWNER, OP, PackedWriter } from './packed.ts';
import { removeTable } from './remove-table.ts';
import { applySkeleton } from './skeleton-loader.ts';
import {
  CELLS_MAX,
  setsOf,
  TRAFFIC_TABLE,
  type TrafficSet,
  trafficLayouts,
  trafficMarker,
  trafficText,
} from './traffic-text.ts';

const FAMILIES = [4, 6] as const;
/** Above this share of its room, counters of frontends that are gone go. */
const CLEAN_ABOVE = 0.5;
/** Elements in one transaction: far below what a socket's buffer takes. */
const ELEMENTS_PER_BATCH = 500;

interface Counter {
  packets: number;
  bytes: number;
}

/** What one key counts, in each of the sets. */
interface Known {
  readonly cell: string;
  readonly family: Family;
  /** Key bytes as latin1. */
  readonly key: string;
  readonly counters: Record<TrafficSet, Counter>;
  /** DesiredPort.name, and endpoint or ''. '': the frontend is not ours, or is gone. */
  port: string;
  readonly endpoint: string;
  moved: boolean;
}

export class NftTraffic implements TrafficReader {
  readonly mode = 'nft';
  readonly #settings: TrafficSettings;
  readonly #netns: string;
  readonly #known = new Map<string, Known>();
  /** Of each family's table as it was made; none: it has not been. */
  readonly #digests = new Map<Family, string>();
  /** What tables that had to be made anew have counted last, until it is read. */
  #ended: TrafficCell[] = [];
  #births = 0;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(settings: TrafficSettings, netns: string) {
    this.#settings = settings;
    this.#netns = netns;
  }

  /** This, where it reads anything. */
  get reader(): TrafficReader | null {
    return this.#settings.level === 'off' ? null : this;
  }

  /**
   * Makes the table anew the first time, so that it counts from now on; later only where it is not as it was made.
   * @param state what the services are now
   * @returns the families whose table somebody else had changed
   */
  bring(state: DesiredState): Promise<Family[]> {
    return this.#inTurn(async (socket) => {
      const wanted: Family[] = [];
      const broken: Family[] = [];
      for (const family of FAMILIES) {
        if (this.#digests.has(family)) {
          if (await this.#isAsMade(socket, family)) continue;
          broken.push(family);
          // What can be read of it is read for the last time.
          await this.#readFamily(socket, family).catch(() => {});
        }
        await removeTable(socket, family, TRAFFIC_TABLE);
        wanted.push(family);
      }
      if (broken.length > 0) this.#end(broken, portsByFrontend(state));
      const texts = wanted.map((family) => trafficText(family, this.#settings)).join('');
      if (texts === '') return broken;
      await applySkeleton(texts, this.#netns);
      for (const family of wanted) this.#digests.set(family, await digestOf(socket, family));
      return broken;
    });
  }

  /** One line for each family whose table had to be made anew. `state`: what the services are now. */
  async repair(state: DesiredState): Promise<string[]> {
    if (this.reader === null) return [];
    const broken = await this.bring(state);
    return broken.map((family) => `IPv${family}: the table that counts traffic was gone or another one`);
  }

  /** Whether nothing is there to repair. */
  isAsMade(): Promise<boolean> {
    return this.#inTurn(async (socket) => {
      for (const family of this.#digests.keys()) if (!(await this.#isAsMade(socket, family))) return false;
      return true;
    });
  }

  /** With every rule that it was made with, and no other. */
  async #isAsMade(socket: NftSocket, family: Family): Promise<boolean> {
    const names = await socket.dumpNames(NFPROTO[family], TRAFFIC_TABLE);
    if (names.tableFlags !== 0 || !names.chains.includes(trafficMarker(family, this.#settings))) return false;
    return (await digestOf(socket, family, names)) === this.#digests.get(family);
  }

  /** Counters that are made anew are others: they may soon stand higher than these did. */
  #end(families: readonly Family[], ports: ReadonlyMap<string, string>): void {
    for (const [key, known] of this.#known) {
      if (!families.includes(known.family)) continue;
      this.#known.delete(key);
      if (this.#isNamed(known, ports)) this.#ended.push(cellOf(known));
    }
  }

  /** Connections to a frontend that is gone go on counting for the service that it was. */
  #isNamed(known: Known, ports: ReadonlyMap<string, string>): boolean {
    known.port = ports.get(frontendOf(known)) ?? known.port;
    return known.port !== '';
  }

  /** Takes the table away. */
  async remove(): Promise<void> {
    await removeTraffic(this.#netns);
  }

  read(state: DesiredState): Promise<readonly TrafficCell[]> {
    return this.#inTurn(async (socket) => {
      for (const known of this.#known.values()) known.moved = false;
      for (const family of FAMILIES) await this.#readFamily(socket, family);
      const ports = portsByFrontend(state);
      const cells = this.#ended;
      this.#ended = [];
      for (const known of this.#known.values()) if (this.#isNamed(known, ports)) cells.push(cellOf(known));
      await this.#clean(socket, new Set(ports.keys()));
      return cells;
    });
  }

  /** One at a time: what a table had counted that is made anew meanwhile is nothing that the new one counts. */
  #inTurn<T>(work: (socket: NftSocket) => Promise<T>): Promise<T> {
    const next = this.#turn.then(() => withNftSocket(this.#netns, work));
    this.#turn = next.catch(() => {});
    return next;
  }

  async #readFamily(socket: NftSocket, family: Family): Promise<void> {
    const layouts = trafficLayouts(family, this.#settings);
    for (const [index, set] of setsOf(this.#settings).entries()) {
      const { packed } = await socket.dumpElements(NFPROTO[family], TRAFFIC_TABLE, layouts, index, false);
      for (const { key, packets, bytes } of elementsOf(packed, layouts[index]!.keyBytes)) {
        const known = this.#knownOf(family, key);
        const counter = known.counters[set];
        known.moved ||= packets !== counter.packets;
        counter.packets = packets;
        counter.bytes = bytes;
      }
    }
  }

  #knownOf(family: Family, key: string): Known {
    const name = `${family}${key}`;
    const known = this.#known.get(name);
    if (known) return known;
    const none = (): Counter => ({ packets: 0, bytes: 0 });
    const made: Known = {
      ...{ cell: `${this.#births++}`, family, key, port: '', moved: true },
      counters: { connections: none(), in: none(), out: none() },
      endpoint: this.#settings.by === 'endpoint' ? endpointOf(family, key) : '',
    };
    this.#known.set(name, made);
    return made;
  }

  /** Counters of frontends that nobody has any more are kept until the room is wanted. */
  async #clean(socket: NftSocket, frontends: ReadonlySet<string>): Promise<void> {
    for (const family of FAMILIES) {
      const own = [...this.#known].filter(([, known]) => known.family === family);
      if (own.length <= CELLS_MAX[this.#settings.by] * CLEAN_ABOVE) continue;
      const idle = own.filter(([, known]) => !known.moved && !frontends.has(frontendOf(known)));
      for (let from = 0; from < idle.length; from += ELEMENTS_PER_BATCH)
        await this.#forget(socket, family, idle.slice(from, from + ELEMENTS_PER_BATCH));
    }
  }

  async #forget(
    socket: NftSocket,
    family: Family,
    batch: readonly (readonly [string, Known])[],
  ): Promise<void> {
    const layouts = trafficLayouts(family, this.#settings);
    for (const [index, set] of setsOf(this.#settings).entries()) {
      const out = new PackedWriter();
      for (const [, { key, counters }] of batch) {
        if (counters[set].packets === 0) continue;
        out.u8(OP.delElement);
        out.u32(NO_OWNER);
        out.u8(index);
        out.u8(0);
        out.raw(Buffer.from(key, 'latin1'));
        out.text('');
      }
      if (out.length > 0) await socket.commit(NFPROTO[family], TRAFFIC_TABLE, layouts, out.take(), false);
    }
    for (const [cell] of batch) this.#known.delete(cell);
  }

  /** How many counters there are of how many there may be, at the last look. */
  pressure(): TableUse[] {
    if (this.reader === null) return [];
    const used = FAMILIES.map((family) => {
      let count = 0;
      for (const known of this.#known.values()) if (known.family === family) count++;
      return count;
    });
    return [{ table: 'traffic', used: Math.max(...used), limit: CELLS_MAX[this.#settings.by] }];
  }
}

/** Removes the tables that count. Returns the names of those that were there. */
export async function removeTraffic(netns: string): Promise<string[]> {
  const socket = openNftSocket(netns);
  try {
    const removed: string[] = [];
    for (const family of FAMILIES)
      if (await removeTable(socket, family, TRAFFIC_TABLE))
        removed.push(`${family === 4 ? 'ip' : 'ip6'} ${TRAFFIC_TABLE}`);
    return removed;
  } finally {
    socket.close();
  }
}

/** Of the rules of a family's table. `names`: asked for already. */
async function digestOf(socket: NftSocket, family: Family, names?: NameAnswer): Promise<string> {
  const chains = names ?? (await socket.dumpNames(NFPROTO[family], TRAFFIC_TABLE));
  return staticDigest(chains, await socket.dumpRules(NFPROTO[family], TRAFFIC_TABLE));
}

interface Element extends Counter {
  readonly key: string;
}

/** Flag byte, key, comment (a length and its bytes: "packets bytes"), one after the other. */
function* elementsOf(packed: Uint8Array, keyBytes: number): Generator<Element> {
  const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
  for (let at = 0; at < bytes.length; ) {
    const key = bytes.toString('latin1', at + 1, at + 1 + keyBytes);
    at += 1 + keyBytes;
    const [packets = 0, count = 0] = bytes
      .toString('latin1', at + 1, at + 1 + bytes[at]!)
      .split(' ')
      .map(Number);
    at += 1 + bytes[at]!;
    yield { key, packets, bytes: count };
  }
}

/** Address, protocol and port in one string, as portsByFrontend() has them: the beginning of the key. */
function frontendOf({ family, key }: Known): string {
  return `${family}${key.slice(0, addressSize(family) + 6)}`;
}

function endpointOf(family: Family, key: string): string {
  const size = addressSize(family);
  const bytes = Buffer.from(key.slice(size + 8), 'latin1');
  return formatSocket({ address: formatAddress(bytes.subarray(0, size)), port: bytes.readUInt16BE(size) });
}

function portsByFrontend({ services }: DesiredState): Map<string, string> {
  const ports = new Map<string, string>();
  const out = new PackedWriter(64);
  for (const service of services.values())
    for (const { name, family, frontends } of service.ports)
      for (const { address, protocol, port } of frontends) {
        out.length = 0;
        out.address(address);
        out.protocol(protocol);
        out.port(port);
        ports.set(`${family}${out.take().toString('latin1', 0, addressSize(family) + 6)}`, name);
      }
  return ports;
}

function cellOf({ cell, port, endpoint, counters }: Known): TrafficCell {
  return {
    ...{ cell, port, endpoint },
    connections: counters.connections.packets,
    packetsIn: counters.in.packets,
    bytesIn: counters.in.bytes,
    packetsOut: counters.out.packets,
    bytesOut: counters.out.bytes,
  };
}
