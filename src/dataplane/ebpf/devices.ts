/** Follows devices, addresses, routes and neighbours, and tells who must know. */
import type { Address, Family } from '../../model/records.ts';
import type { NativeRtMonitor } from '../../node/native.ts';
import {
  type RtChange,
  type RtNeighbour,
  type RtRoute,
  readAddresses,
  readDefaultRoutes,
  readLinks,
  readNeighbours,
  readRoutes,
  watchRtnetlink,
} from '../../node/rtnetlink.ts';
import type { DeviceFacts } from './device-roles.ts';

/** Pods come and go in bursts: one look at all devices serves so many milliseconds of them. */
const SETTLE_MS = 10;
const RT_TABLE_MAIN = 254;
const KERNEL_TABLES = new Set([0, 253, 254, 255]);
const RTN_UNICAST = 1;
/** NUD_INCOMPLETE, NUD_FAILED. */
const NUD_UNUSABLE = 0x01 | 0x20;

export interface DeviceListener {
  /** Routes, neighbours, links or addresses are not what they were: cached next hops may be wrong. */
  onRoutes(): void;
  /** Devices, their addresses or the default routes changed. */
  onDevices(): void;
}

export class Devices {
  readonly #netns: string;
  readonly #monitor: NativeRtMonitor;
  readonly #listener: DeviceListener;
  /** MAC by device and address. */
  readonly #neighbours = new Map<string, string>();
  /** Routes of tables that only rules lead to. */
  readonly #otherRoutes = new Set<string>();
  #defaults: readonly RtRoute[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(netns: string, listener: DeviceListener) {
    this.#netns = netns;
    this.#listener = listener;
    this.#monitor = watchRtnetlink(netns, ['link', 'address', 'route', 'neighbour'], {
      onChanges: (changes) => this.#changed(changes),
      onOverrun: () => this.#lost(),
    });
  }

  /** Reads what is there. Call it once before the first facts(). */
  async begin(): Promise<void> {
    this.#defaults = await readDefaultRoutes(this.#netns);
    for (const route of await readRoutes(this.#netns)) this.#noteRoute('set', route);
    for (const neighbour of await readNeighbours(this.#netns)) this.#noteNeighbour('set', neighbour);
  }

  /** Whether routes depend on more than the destination. */
  get sourceRoutes(): 'none' | 'some' {
    return this.#otherRoutes.size > 0 ? 'some' : 'none';
  }

  facts(): DeviceFacts {
    const links = readLinks(this.#netns);
    const addresses = readAddresses(this.#netns);
    const main = this.#defaults
      .filter(({ table, type }) => table === RT_TABLE_MAIN && type === RTN_UNICAST)
      .toSorted((a, b) => a.priority - b.priority);
    const global = addresses.filter(({ scope, flags }) => scope === 0 && (flags & 0x60) === 0);
    const fallback = (family: Family): Address | null => {
      for (const route of main) {
        if (route.family !== family) continue;
        const own = global.find((row) => row.family === family && row.linkIndex === route.linkIndex);
        if (own) return own.address;
      }
      return global.find((row) => row.family === family)?.address ?? null;
    };
    return {
      links,
      addresses,
      defaultDevices: new Set(main.map(({ linkIndex }) => linkIndex)),
      fallback: { 4: fallback(4), 6: fallback(6) },
    };
  }

  #changed(changes: readonly RtChange[]): void {
    let routes = false;
    let devices = false;
    let defaults = false;
    for (const { op, record } of changes) {
      if (record.kind === 'neighbour') routes = this.#noteNeighbour(op, record) || routes;
      else routes = true;
      if (record.kind === 'link' || record.kind === 'address') devices = true;
      if (record.kind !== 'route') continue;
      this.#noteRoute(op, record);
      defaults ||= record.destination.endsWith('/0');
    }
    if (routes) this.#listener.onRoutes();
    if (devices || defaults) this.#soon(defaults ? 'defaults' : 'links');
  }

  #soon(what: 'defaults' | 'links'): void {
    const tell = () => {
      this.#timer = null;
      this.#listener.onDevices();
    };
    if (what === 'defaults') {
      readDefaultRoutes(this.#netns).then(
        (routes) => {
          this.#defaults = routes;
          this.#soon('links');
        },
        () => this.#soon('links'),
      );
      return;
    }
    this.#timer ??= setTimeout(tell, SETTLE_MS);
    this.#timer.unref();
  }

  #lost(): void {
    this.#neighbours.clear();
    this.#otherRoutes.clear();
    this.#listener.onRoutes();
    this.begin().then(
      () => this.#soon('links'),
      () => this.#soon('links'),
    );
  }

  /** True: whoever remembered it remembers something wrong. */
  #noteNeighbour(op: RtChange['op'], { linkIndex, address, mac, state }: RtNeighbour): boolean {
    const key = `${linkIndex} ${address}`;
    const before = this.#neighbours.get(key);
    const usable = op === 'set' && mac !== '' && (state & NUD_UNUSABLE) === 0;
    if (usable) this.#neighbours.set(key, mac);
    else this.#neighbours.delete(key);
    return before !== undefined && before !== (usable ? mac : undefined);
  }

  #noteRoute(op: RtChange['op'], route: RtRoute): void {
    if (KERNEL_TABLES.has(route.table) || route.type !== RTN_UNICAST) return;
    const key = `${route.table} ${route.destination} ${route.linkIndex} ${route.priority}`;
    if (op === 'set') this.#otherRoutes.add(key);
    else this.#otherRoutes.delete(key);
  }

  close(): void {
    this.#monitor.close();
    if (this.#timer) clearTimeout(this.#timer);
  }
}
