/** Sockets that our programs translated: a list of them; connected UDP ones whose backend is gone are destroyed. */
import { addressBytes } from '../../model/address.ts';
import type { Address, Family, Protocol } from '../../model/records.ts';
import { PacedTask } from '../../node/paced-task.ts';
import { readAddress } from './abi.ts';
import { type Clock, ticksOf } from './clock.ts';
import { readTimeouts, UDP_STREAM } from './collector.ts';
import type { Departure } from './compiler.ts';
import { GRACE_MS } from './grave.ts';
import { SideMap } from './maps.ts';
import type { MapHandle } from './native.ts';
import { lifeNative } from './native-life.ts';

/** struct Gone of native/sockdiag.cc. */
const ITEM_BYTES = 24;
/** A look enters every network namespace, and reads its UDP sockets: what comes sooner after one is looked for together. */
const RESTS = 20;

/** struct Row of native/sockdiag.cc. */
const ROW_BYTES = 64;
/** linux/tcp_states.h, by number, in conntrack's words. */
const TCP_STATES: Readonly<Record<number, string>> = {
  1: 'ESTABLISHED',
  2: 'SYN_SENT',
  3: 'SYN_RECV',
  4: 'FIN_WAIT',
  5: 'FIN_WAIT',
  8: 'CLOSE_WAIT',
  9: 'LAST_ACK',
  11: 'CLOSE',
};

interface End {
  readonly address: Address;
  readonly port: number;
}

/** A socket that believes to talk to a frontend, and talks to a backend. */
export interface TranslatedSocket {
  readonly protocol: Protocol;
  readonly client: End;
  readonly frontend: End;
  readonly backend: End;
  /** '' for UDP. */
  readonly state: string;
}

/** @param peers descriptor of tp_sock_peers */
export async function translatedSockets(peers: number): Promise<TranslatedSocket[]> {
  const rows = await lifeNative().sockTranslated(peers);
  const view = new DataView(rows.buffer, rows.byteOffset, rows.byteLength);
  const found: TranslatedSocket[] = [];
  for (let at = 0; at < rows.length; at += ROW_BYTES) {
    const family = rows[at + 1] as Family;
    const end = (port: number, address: number): End => ({
      address: readAddress(rows, at + address, family),
      port: view.getUint16(at + port),
    });
    const tcp = rows[at] === 6;
    found.push({
      protocol: tcp ? 'TCP' : 'UDP',
      client: end(4, 12),
      frontend: end(6, 28),
      backend: end(8, 44),
      state: tcp ? (TCP_STATES[rows[at + 2]!] ?? '') : '',
    });
  }
  return found;
}

/**
 * Names the unconnected UDP sockets of all network namespaces that are there now: their datagrams stay with packets.
 *
 * @param before descriptor of tp_sock_before
 */
export async function rememberSockets(before: number): Promise<void> {
  await lifeNative().sockRememberUdp(before);
}

/** Connected sockets that believe to talk to a frontend, and flows of those that say so with each datagram. */
export async function countSockets(
  handles: Readonly<Record<string, MapHandle>>,
  clock: Clock,
): Promise<number> {
  const connected = await translatedSockets(handles.tp_sock_peers!.fd);
  const ticksMax = ticksOf(readTimeouts()[UDP_STREAM]!, clock.hz);
  return connected.length + recentFlows(new SideMap(handles.tp_sock_flows!), clock.ticks(), ticksMax);
}

/** struct tp_sock_peer */
const LAST_USED = 18;

/** Of a 16-bit clock: so far ahead of now is what was used after the clock was read, and not long ago. */
const AHEAD_MAX = 256;

/** Whether what was used at `lastUsed` has been within `ticksMax` ticks. Both clocks are of 16 bits. */
export function isRecent(nowTicks: number, lastUsed: number, ticksMax: number): boolean {
  const idle = (nowTicks - lastUsed) & 0xffff;
  return idle <= ticksMax || idle > 0xffff - AHEAD_MAX;
}

/** Flows that have been used within so many ticks; the others are forgotten. */
function recentFlows(flows: SideMap, nowTicks: number, ticksMax: number): number {
  let recent = 0;
  for (const key of flows.keys()) {
    const value = flows.get(key);
    if (!value) continue;
    const lastUsed = value[LAST_USED]! | (value[LAST_USED + 1]! << 8);
    if (isRecent(nowTicks, lastUsed, ticksMax)) recent++;
    else flows.remove(key);
  }
  return recent;
}

function encode(departures: readonly Departure[]): Uint8Array {
  const bytes = new Uint8Array(departures.length * ITEM_BYTES);
  const view = new DataView(bytes.buffer);
  departures.forEach(({ backend, record }, i) => {
    bytes.set(addressBytes(backend.address), i * ITEM_BYTES);
    view.setUint16(i * ITEM_BYTES + 16, backend.port);
    view.setUint32(i * ITEM_BYTES + 20, record, true);
  });
  return bytes;
}

export class SocketSweeper {
  readonly #peers: number;
  readonly #isGone: (record: number) => boolean;
  readonly #task = new PacedTask(() => this.#look(), { rests: RESTS });
  readonly #seconds = new Set<NodeJS.Timeout>();
  /** By record: a backend that comes and goes is looked for once. */
  #waiting = new Map<number, Departure>();
  /** Sockets destroyed so far. */
  destroyed = 0;

  /**
   * @param peers descriptor of tp_sock_peers
   * @param isGone whether the backend of a record is still gone when it is looked: it may have come back
   */
  constructor(peers: number, isGone: (record: number) => boolean) {
    this.#peers = peers;
    this.#isGone = isGone;
  }

  add(departures: readonly Departure[]): void {
    const udp = departures.filter(({ port }) => port.protocol === 'UDP');
    if (udp.length === 0) return;
    this.#want(udp);
    // A connect() that had picked the backend just before it left may have ended just after the first look.
    const timer = setTimeout(() => {
      this.#seconds.delete(timer);
      this.#want(udp);
    }, GRACE_MS);
    this.#seconds.add(timer.unref());
  }

  #want(departures: readonly Departure[]): void {
    for (const departure of departures) this.#waiting.set(departure.record, departure);
    this.#task.request();
  }

  async #look(): Promise<void> {
    const gone = [...this.#waiting.values()].filter(({ record }) => this.#isGone(record));
    this.#waiting.clear();
    if (gone.length === 0) return;
    try {
      this.destroyed += (await lifeNative().sockDestroyUdp(this.#peers, encode(gone)))[1];
    } catch {
      // /proc or a namespace went away in between: the second look comes.
    }
  }

  async close(): Promise<void> {
    for (const timer of this.#seconds) clearTimeout(timer);
    this.#seconds.clear();
    await this.#task.close();
  }
}
