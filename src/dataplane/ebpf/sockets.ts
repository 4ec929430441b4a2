/** Connected UDP sockets whose backend is gone: destroyed, so that their owners connect anew. */
import { addressBytes } from '../../model/address.ts';
import type { Departure } from './compiler.ts';
import { GRACE_MS } from './grave.ts';
import { lifeNative } from './native-life.ts';

/** struct Gone of native/sockdiag.cc. */
const ITEM_BYTES = 24;

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
  readonly #timers = new Set<NodeJS.Timeout>();
  #waiting: Departure[] = [];
  #running: Promise<void> | null = null;
  /** Sockets destroyed so far. */
  destroyed = 0;

  /** @param peers descriptor of tp_sock_peers */
  constructor(peers: number) {
    this.#peers = peers;
  }

  add(departures: readonly Departure[]): void {
    const udp = departures.filter(({ port }) => port.protocol === 'UDP');
    if (udp.length === 0) return;
    this.#later(udp, 0);
    // A connect() that had picked the backend just before it left may have ended just after the first look.
    this.#later(udp, GRACE_MS);
  }

  #later(departures: readonly Departure[], delayMs: number): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#waiting.push(...departures);
      this.#running ??= this.#run().finally(() => {
        this.#running = null;
      });
    }, delayMs);
    this.#timers.add(timer.unref());
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const items = encode(this.#waiting.splice(0));
      try {
        this.destroyed += (await lifeNative().sockDestroyUdp(this.#peers, items))[1];
      } catch {
        // /proc or a namespace went away in between: the second look comes.
      }
    }
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#waiting = [];
    await this.#running;
  }
}
