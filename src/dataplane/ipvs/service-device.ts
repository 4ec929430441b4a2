/**
 * Service addresses made local to this node: IPVS sees only what is delivered here. For each there is a local route by way of
 * a device of our own, however many ports use it; the set `addresses` of our table has the same ones and keeps the node's own
 * ports from being reached through them. Routes, and not addresses of the device: nobody takes them for the node's own
 * addresses, and a route says which source the node's own sockets get.
 */
import { addressBytes, formatAddress } from '../../model/address.ts';
import type { Address, Family } from '../../model/records.ts';
import type { NativeRtMonitor } from '../../node/native.ts';
import {
  type RtChange,
  type RtRoute,
  readAddresses,
  readLinks,
  readLocalRoutes,
  watchRtnetlink,
} from '../../node/rtnetlink.ts';
import { KUBE_PROXY_LINK, SERVICE_LINK } from '../../node/service-link.ts';
import { isSwitchedOff } from '../../node/switches.ts';
import { readSet } from '../nft/kernel-image.ts';
import { addressSize } from '../nft/layout.ts';
import { NFPROTO, type NftSocket } from '../nft/native.ts';
import { NO_OWNER, OP, PackedWriter } from '../nft/packed.ts';
import { ipvsNative } from './native.ts';
import { IPVS_SCHEME, IPVS_SET, IPVS_TABLE } from './scheme.ts';

/** Kinds of links that carry addresses and no traffic, best first. */
const KINDS = ['dummy', 'bridge', 'ifb', 'veth'] as const;
const LOOPBACK = 1;
/** RT_TABLE_LOCAL and RTN_LOCAL of linux/rtnetlink.h. */
const LOCAL_TABLE = 255;
const LOCAL_ROUTE = 2;
/** linux/if.h. */
const IFF_UP = 1;
const OP_ADD = 1;
const OP_REMOVE = 2;

export interface DeviceProblem {
  readonly address: Address;
  readonly reason: string;
}

function destinationOf({ destination }: RtRoute): Address {
  return destination.slice(0, destination.indexOf('/')) as Address;
}

function familyOfBytes(address: Address): Family {
  return address.includes(':') ? 6 : 4;
}

/** A new one, or the one that is there. '' : no kind of link can be had. */
function makeLink(netns: string, kinds: readonly string[]): string {
  const { ipvsLink } = ipvsNative();
  const existing = readLinks(netns).find((link) => link.name === SERVICE_LINK);
  if (existing) {
    ipvsLink(netns, SERVICE_LINK, '');
    return existing.type;
  }
  const usable = kinds.filter((kind) => kind !== 'dummy' || !isSwitchedOff('dummy'));
  return usable.find((kind) => ipvsLink(netns, SERVICE_LINK, kind) === '') ?? '';
}

export class ServiceDevice {
  private readonly netns: string;
  private readonly socket: NftSocket;
  private readonly kinds: readonly string[];
  private readonly bound = new Set<Address>();
  private readonly guarded = new Set<Address>();
  /** What the node's own sockets have as their address toward services: addresses of other devices. */
  private readonly sources = new Set<Address>();
  /** Bound, with a source that this node has no more. */
  private readonly stale = new Set<Address>();
  private index = 0;
  private monitor: NativeRtMonitor | null = null;
  /** What carries the addresses: a link's kind, or "routes". */
  carrier = '';

  /** @param kinds of links to try, best first; none: local routes */
  constructor(netns: string, socket: NftSocket, kinds: readonly string[] = KINDS) {
    this.netns = netns;
    this.kinds = kinds;
    this.socket = socket;
  }

  /** Calls `onTaken` when somebody else has taken the device, or addresses from it: IPVS delivers nothing then. */
  watch(onTaken: () => void): void {
    this.monitor = watchRtnetlink(this.netns, ['link', 'address', 'route'], {
      onChanges: (changes) => {
        if (changes.some((change) => this.isTaken(change))) onTaken();
      },
      onOverrun: onTaken,
    });
  }

  /** What we unbind ourselves is out of `bound` before the kernel tells of it. */
  private isTaken({ op, record }: RtChange): boolean {
    if (record.kind === 'address') return op === 'delete' && this.sources.has(record.address);
    if (record.kind === 'route')
      return op === 'delete' && this.isOurs(record) && this.bound.has(destinationOf(record));
    if (record.kind !== 'link' || record.index !== this.index) return false;
    return op === 'delete' || (record.flags & IFF_UP) === 0;
  }

  close(): void {
    this.monitor?.close();
  }

  /** Sees that there is a device, and reads which addresses it and the table's set hold. */
  async read(): Promise<void> {
    const kind = makeLink(this.netns, this.kinds);
    this.carrier = kind || 'routes';
    this.index = kind === '' ? LOOPBACK : readLinks(this.netns).find((l) => l.name === SERVICE_LINK)!.index;
    await this.readBound();
    await this.readGuarded();
  }

  private async readBound(): Promise<void> {
    const routes = await readLocalRoutes(this.netns);
    const here = new Set(readAddresses(this.netns).map(({ address }) => address));
    // Not before: what is taken meanwhile is told by what was known until now.
    this.bound.clear();
    this.sources.clear();
    this.stale.clear();
    for (const route of routes) {
      if (!this.isOurs(route)) continue;
      const address = destinationOf(route);
      // The kernel's own, of the addresses that loopback, or each device, has.
      if (this.carrier === 'routes' && (here.has(address) || address.startsWith('127.'))) continue;
      if (address.startsWith('fe80:')) continue;
      this.bound.add(address);
      if (route.source === null || route.source === address) continue;
      if (here.has(route.source)) this.sources.add(route.source);
      else this.stale.add(address);
    }
  }

  /** A local route to a single address by way of the carrier. */
  private isOurs({ table, type, linkIndex, destination }: RtRoute): boolean {
    if (table !== LOCAL_TABLE || type !== LOCAL_ROUTE || linkIndex !== this.index) return false;
    return destination.endsWith(destination.includes(':') ? '/128' : '/32');
  }

  private async readGuarded(): Promise<void> {
    this.guarded.clear();
    for (const family of [4, 6] as const) {
      const names = await this.socket.dumpNames(NFPROTO[family], IPVS_TABLE);
      if (names.tableFlags < 0) continue;
      const layouts = IPVS_SCHEME.layouts(family);
      const set = await readSet(this.socket, NFPROTO[family], layouts, IPVS_TABLE, IPVS_SET.addresses);
      for (const { key } of set.elements.values())
        this.guarded.add(formatAddress(Buffer.from(key.slice(1), 'latin1')));
    }
  }

  /** Where routes carried the addresses: removes those that the table's set names. One line each. */
  async removeRoutes(): Promise<string[]> {
    this.carrier = 'routes';
    this.index = LOOPBACK;
    await this.readBound();
    await this.readGuarded();
    const routed = [...this.bound].filter((address) => this.guarded.has(address));
    this.bind(OP_REMOVE, routed);
    return routed.map((address) => `local route of ${address}`);
  }

  /**
   * Addresses that other devices of this node have: they are local already, and the node's own ports stay open. What
   * stands on kube-proxy's device goes with it, so it does not count.
   */
  private elsewhere(): Set<Address> {
    const rows = readAddresses(this.netns);
    const leaving = readLinks(this.netns).find(({ name }) => name === KUBE_PROXY_LINK)?.index;
    const others = rows.filter(
      ({ linkIndex }) => linkIndex !== leaving && (this.carrier === 'routes' || linkIndex !== this.index),
    );
    return new Set(others.map((row) => row.address));
  }

  /** What `wanted` lacks or has too much, one line each. After read(). */
  differences(wanted: ReadonlySet<Address>): string[] {
    const elsewhere = this.elsewhere();
    const lines: string[] = [];
    for (const address of wanted)
      if (!elsewhere.has(address) && !(this.bound.has(address) && this.guarded.has(address)))
        lines.push(`service address ${address} was gone`);
    for (const address of this.stale)
      lines.push(`the node's own sockets had a source toward ${address} that is gone`);
    for (const address of this.bound)
      if (!wanted.has(address)) lines.push(`address ${address} is no service's`);
    return lines;
  }

  /** The bound addresses. */
  addresses(): Iterable<Address> {
    return this.bound;
  }

  /** @returns operations and what could not be bound */
  async add(addresses: Iterable<Address>): Promise<{ operations: number; problems: DeviceProblem[] }> {
    const stale = [...this.stale];
    this.stale.clear();
    // Away and anew: their source is what the node has by the way to them that is not local.
    this.bind(OP_REMOVE, stale);
    for (const address of stale) this.bound.delete(address);
    const all = new Set([...addresses, ...stale]);
    const missing = [...all].filter((one) => !this.bound.has(one) || !this.guarded.has(one));
    if (missing.length === 0) return { operations: 0, problems: [] };
    const elsewhere = this.elsewhere();
    const ours = missing.filter((one) => !elsewhere.has(one));
    // The guard first: at no time does an address of a service lead to the node's own ports.
    await this.guard(
      OP.addElement,
      ours.filter((one) => !this.guarded.has(one)),
    );
    const problems: DeviceProblem[] = [];
    const answers = this.bind(
      OP_ADD,
      ours.filter((one) => !this.bound.has(one)),
    );
    for (const [address, errno] of answers) {
      if (errno === '' || errno === 'EEXIST') this.bound.add(address);
      else
        problems.push({
          address,
          reason: `${address} could not be made local by ${SERVICE_LINK} (${errno})`,
        });
    }
    return { operations: ours.length, problems };
  }

  async remove(addresses: Iterable<Address>): Promise<number> {
    const list = [...addresses].filter((one) => this.bound.has(one) || this.guarded.has(one));
    this.bind(
      OP_REMOVE,
      list.filter((one) => this.bound.has(one)),
    );
    for (const address of list) this.bound.delete(address);
    await this.guard(
      OP.delElement,
      list.filter((one) => this.guarded.has(one)),
    );
    return list.length;
  }

  /** Each address with '' or the kernel's error. */
  private bind(op: number, addresses: readonly Address[]): [Address, string][] {
    const answers: [Address, string][] = [];
    for (const family of [4, 6] as const) {
      const own = addresses.filter((one) => familyOfBytes(one) === family);
      if (own.length === 0) continue;
      const bytes = Buffer.concat(own.map(addressBytes));
      const size = addressSize(family);
      const [errnos, sources] = ipvsNative().ipvsAddresses(this.netns, this.index, op, size, bytes);
      errnos.forEach((errno, at) => {
        answers.push([own[at]!, errno]);
      });
      for (const source of sources) this.sources.add(formatAddress(source));
    }
    return answers;
  }

  private async guard(op: number, addresses: readonly Address[]): Promise<void> {
    for (const family of [4, 6] as const) {
      const out = new PackedWriter();
      const own = addresses.filter((one) => familyOfBytes(one) === family);
      for (const address of own) {
        out.u8(op);
        out.u32(NO_OWNER);
        out.u8(IPVS_SET.addresses);
        out.u8(0);
        out.address(address);
        out.text('');
      }
      if (own.length === 0) continue;
      const layouts = IPVS_SCHEME.layouts(family);
      await this.socket.commit(NFPROTO[family], IPVS_TABLE, layouts, Buffer.from(out.take()), false);
    }
    for (const address of addresses) {
      if (op === OP.addElement) this.guarded.add(address);
      else this.guarded.delete(address);
    }
  }
}
