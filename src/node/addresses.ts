/** The addresses of this node, kept up to date by the kernel's notifications. */
import type { Address, Family } from '../model/records.ts';
import type { NativeRtMonitor } from './native.ts';
import {
  type RtAddress,
  type RtChange,
  readAddresses,
  readDefaultRoutes,
  readLinks,
  watchRtnetlink,
} from './rtnetlink.ts';
import { isServiceLink } from './service-link.ts';

export interface NodeAddress {
  readonly family: Family;
  readonly address: Address;
  readonly prefixLength: number;
  readonly scope: 'global' | 'site' | 'link' | 'host' | 'nowhere';
  readonly interfaceIndex: number;
  readonly interfaceName: string;
  /** IPv6: not yet known to be free (duplicate address detection runs or failed); not usable. */
  readonly tentative: boolean;
  /** Not to be chosen for new connections. */
  readonly deprecated: boolean;
  /** IPv6: a privacy address that will go by itself. */
  readonly temporary: boolean;
  /** IPv4: not the first of its network on this interface. */
  readonly secondary: boolean;
}

/** IFA_F_* of linux/if_addr.h. Bit 1 is "secondary" for IPv4 and "temporary" for IPv6. */
const IFA_F_SECONDARY = 0x01;
const IFA_F_DADFAILED = 0x08;
const IFA_F_DEPRECATED = 0x20;
const IFA_F_TENTATIVE = 0x40;
/** RT_SCOPE_* of linux/rtnetlink.h. */
const SCOPES: Readonly<Record<number, NodeAddress['scope']>> = {
  0: 'global',
  200: 'site',
  253: 'link',
  254: 'host',
};
const RT_TABLE_MAIN = 254;
const RTN_UNICAST = 1;
/** How long to wait before a dump that failed is tried again. */
const REREAD_MS = 200;

/** What makes an address one: the kernel allows the same one twice with another prefix or peer. */
function keyOf(row: RtAddress): string {
  return `${row.linkIndex} ${row.address} ${row.peer} ${row.prefixLength}`;
}

function sameAddress(a: RtAddress, b: RtAddress): boolean {
  return a.flags === b.flags && a.scope === b.scope;
}

function describe(row: RtAddress, interfaceName: string): NodeAddress {
  return {
    family: row.family,
    address: row.address,
    prefixLength: row.prefixLength,
    scope: SCOPES[row.scope] ?? 'nowhere',
    interfaceIndex: row.linkIndex,
    interfaceName,
    tentative: row.family === 6 && (row.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)) !== 0,
    deprecated: (row.flags & IFA_F_DEPRECATED) !== 0,
    temporary: row.family === 6 && (row.flags & IFA_F_SECONDARY) !== 0,
    secondary: row.family === 4 && (row.flags & IFA_F_SECONDARY) !== 0,
  };
}

/**
 * All addresses of a network namespace. Throws an Error with an errno code when it cannot be opened.
 * Listeners are called at most once for each turn of the event loop, and only when something differs.
 */
export class AddressBook {
  readonly #netns: string;
  readonly #monitor: NativeRtMonitor;
  readonly #listeners = new Set<() => void>();
  #names = new Map<number, string>();
  #rows = new Map<string, RtAddress>();
  #snapshot: readonly NodeAddress[] | null = null;
  #notice: NodeJS.Immediate | null = null;
  #reread: NodeJS.Timeout | null = null;
  #closed = false;

  /** @param netns path of a network namespace; '' is the current one */
  constructor(netns = '') {
    this.#netns = netns;
    this.#monitor = watchRtnetlink(netns, ['link', 'address'], {
      onChanges: (changes) => this.#apply(changes),
      onOverrun: () => this.#readAgain(),
    });
    try {
      this.#readAll();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** In the kernel's order: by interface, IPv4 before IPv6. Without those that ipvs mode holds for services. */
  addresses(): readonly NodeAddress[] {
    this.#snapshot ??= [...this.#rows.values()]
      .map((row) => describe(row, this.#names.get(row.linkIndex) ?? `#${row.linkIndex}`))
      .filter((row) => !isServiceLink(row.interfaceName));
    return this.#snapshot;
  }

  /** @returns the function that ends it */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The source address that traffic to everywhere gets: that of the default route with the lowest metric, or
   * the first global one of its interface. Null when there is no default route.
   */
  async defaultAddress(family: Family): Promise<Address | null> {
    const routes = (await readDefaultRoutes(this.#netns)).filter(
      (route) =>
        route.family === family &&
        route.table === RT_TABLE_MAIN &&
        route.type === RTN_UNICAST &&
        route.linkIndex !== 0,
    );
    routes.sort((a, b) => a.priority - b.priority);
    for (const route of routes) {
      if (route.source) return route.source;
      const usable = this.addresses().filter(
        (row) =>
          row.family === family &&
          row.interfaceIndex === route.linkIndex &&
          row.scope === 'global' &&
          !row.tentative &&
          !row.temporary,
      );
      const best = usable.find((row) => !row.deprecated && !row.secondary) ?? usable[0];
      if (best) return best.address;
    }
    return null;
  }

  /** Keeps the event loop alive until close(). */
  ref(): void {
    this.#monitor.ref();
  }

  close(): void {
    this.#closed = true;
    this.#monitor.close();
    this.#listeners.clear();
    if (this.#notice) clearImmediate(this.#notice);
    if (this.#reread) clearTimeout(this.#reread);
  }

  #readAll(): void {
    const names = new Map(readLinks(this.#netns).map((link) => [link.index, link.name]));
    const rows = new Map(readAddresses(this.#netns).map((row) => [keyOf(row), row]));
    this.#names = names;
    this.#rows = rows;
    this.#changed();
  }

  /** A dump fails when the kernel keeps changing under it, or is out of memory: both pass. */
  #readAgain(): void {
    if (this.#reread) clearTimeout(this.#reread);
    this.#reread = null;
    try {
      this.#readAll();
    } catch {
      this.#reread = setTimeout(() => this.#readAgain(), REREAD_MS);
      this.#reread.unref();
    }
  }

  #apply(changes: readonly RtChange[]): void {
    let changed = false;
    for (const { op, record } of changes) {
      if (record.kind === 'link') changed = this.#applyLink(op, record.index, record.name) || changed;
      else if (record.kind === 'address') changed = this.#applyAddress(op, record) || changed;
    }
    if (changed) this.#changed();
  }

  #applyLink(op: RtChange['op'], index: number, name: string): boolean {
    if (op === 'set') {
      const renamed = this.#names.has(index) && this.#names.get(index) !== name;
      this.#names.set(index, name);
      return renamed;
    }
    this.#names.delete(index);
    let changed = false;
    for (const [key, row] of this.#rows) {
      if (row.linkIndex === index) changed = this.#rows.delete(key) || changed;
    }
    return changed;
  }

  #applyAddress(op: RtChange['op'], row: RtAddress): boolean {
    const key = keyOf(row);
    if (op === 'delete') return this.#rows.delete(key);
    // Router advertisements renew the same addresses every few seconds: that is no change.
    const before = this.#rows.get(key);
    this.#rows.set(key, row);
    return !before || !sameAddress(before, row);
  }

  #changed(): void {
    this.#snapshot = null;
    if (this.#notice || this.#closed) return;
    this.#notice = setImmediate(() => {
      this.#notice = null;
      for (const listener of [...this.#listeners]) listener();
    });
  }
}
