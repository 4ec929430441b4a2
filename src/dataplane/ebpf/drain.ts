/**
 * Generations of maps that came before the one in force. Their programs stand before ours and go on translating the
 * connections they have (TP_S_DRAIN: nothing new is picked), until none is left; then all of it is taken away.
 */
import { ABI } from './abi.ts';
import { Clock, ticksOf } from './clock.ts';
import { Collector } from './collector.ts';
import { Compiler } from './compiler.ts';
import { openMap, seedOf, tablesMeta } from './kernel.ts';
import { TableMaps } from './maps.ts';
import { bpfNative, type MapHandle } from './native.ts';
import { Generation } from './pins.ts';
import { Settings } from './settings.ts';
import { mapArray } from './tables.ts';

/** Maps of a layout that this version cannot read: how long their connections may go on. */
const UNREADABLE_MS = 3_600_000;

const MAP_NAMES = [
  'tp_settings',
  'tp_index',
  'tp_frontends',
  'tp_pool_slots',
  'tp_backends',
  'tp_nodeports',
  'tp_backendports',
  'tp_conns',
  'tp_pairs',
  'tp_nat',
  'tp_meta',
  'tp_ranges',
  'tp_names',
  'tp_devices',
  'tp_affinities',
  'tp_sock_peers',
  'tp_counters',
] as const;

/** All maps of a generation by their pins; null: they are not all there. The caller closes their descriptors. */
export function openMaps(generation: Generation): Record<string, MapHandle> | null {
  const handles: Record<string, MapHandle> = {};
  for (const name of MAP_NAMES) {
    const handle = openMap(generation, name);
    if (!handle) {
      closeMaps(handles);
      return null;
    }
    handles[name] = handle;
  }
  return handles;
}

export function closeMaps(handles: Readonly<Record<string, MapHandle>>): void {
  for (const { fd } of Object.values(handles)) bpfNative().bpfClose(fd);
}

/** Reads all tables of a generation without an agent's help; null: there is nothing that can be read. */
export function withTables<T>(generation: Generation, work: (maps: TableMaps, hz: number) => T): T | null {
  const meta = tablesMeta(generation);
  const handles = meta ? openMaps(generation) : null;
  if (!meta || !handles) return null;
  try {
    return work(new TableMaps(handles, seedOf(meta)), meta.hz);
  } finally {
    closeMaps(handles);
  }
}

export class Drain {
  readonly generation: Generation;
  /** null: this version cannot read them. */
  readonly maps: TableMaps | null = null;
  readonly #handles: Record<string, MapHandle> | null;
  readonly #settings: Settings | null = null;
  readonly #collector: Collector | null = null;
  readonly #clock: Clock | null = null;
  readonly #startedMs: number;
  readonly #now: () => number;

  constructor(root: string, number: number, now: () => number) {
    this.generation = new Generation(root, number);
    this.#now = now;
    this.#startedMs = now();
    const meta = tablesMeta(this.generation);
    this.#handles = meta ? openMaps(this.generation) : null;
    const settings = openMap(this.generation, 'tp_settings');
    if (settings) {
      // The flags and the route generation come first in every layout.
      this.#settings = new Settings(mapArray(settings));
      bpfNative().bpfClose(settings.fd);
    }
    if (!meta || !this.#handles) return;
    const maps = new TableMaps(this.#handles, seedOf(meta));
    this.maps = maps;
    this.#clock = new Clock(meta.hz);
    const ticks = (seconds: number) => ticksOf(seconds, meta.hz);
    const compiler = new Compiler(
      maps,
      { speaks: new Set(), podsKnown: new Set(), xdpForward: 'never', ticks },
      now,
    );
    this.#collector = new Collector(compiler, this.#clock, now);
  }

  /** Nothing new is picked from now on. */
  begin(): void {
    if (this.#settings) this.#settings.flags |= ABI.S_DRAIN;
  }

  advanceRoutes(): void {
    this.#settings?.advanceRoutes();
  }

  /** How often its connections have been walked through. */
  get passes(): number {
    return this.#collector?.passes ?? 0;
  }

  /** One slice of work. True: nothing is left of it. */
  step(): boolean {
    if (!this.#collector) return this.#now() - this.#startedMs > UNREADABLE_MS && this.#remove();
    return this.#collector.step() && this.#collector.last.live === 0 && this.#remove();
  }

  #remove(): true {
    this.generation.remove();
    this.close();
    return true;
  }

  close(): void {
    if (this.#handles) closeMaps(this.#handles);
    this.#clock?.close();
  }
}
