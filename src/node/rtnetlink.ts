/**
 * Links, addresses, routes and neighbours as the kernel tells them (rtnetlink(7)): dumps and notifications.
 * The addon gives rows of one layout (native/rt_row.cc); this is where they get names.
 */
import { formatAddress } from '../model/address.ts';
import type { Address, Cidr, Family } from '../model/records.ts';
import { loadNative, type NativeRtMonitor } from './native.ts';

export interface RtLink {
  readonly kind: 'link';
  readonly index: number;
  readonly name: string;
  /** IFF_* of linux/if.h; 1 is IFF_UP. */
  readonly flags: number;
  /** IF_OPER_* of linux/if.h; 6 is up. */
  readonly operState: number;
  readonly mtu: number;
  /** The bridge or bond that it belongs to; 0: none. */
  readonly masterIndex: number;
  /** "veth", "dummy", "bridge"; '' for a physical one. */
  readonly type: string;
  /** "02:00:00:00:00:01"; '' when it has none. */
  readonly mac: string;
}

export interface RtAddress {
  readonly kind: 'address';
  readonly family: Family;
  readonly address: Address;
  /** The other end of a point-to-point link; else the address itself. */
  readonly peer: Address;
  readonly prefixLength: number;
  /** RT_SCOPE_* of linux/rtnetlink.h: 0 global, 253 link, 254 host. */
  readonly scope: number;
  /** IFA_F_* of linux/if_addr.h. */
  readonly flags: number;
  readonly linkIndex: number;
}

export interface RtRoute {
  readonly kind: 'route';
  readonly family: Family;
  readonly destination: Cidr;
  readonly gateway: Address | null;
  /** The source address that the kernel prefers on it. */
  readonly source: Address | null;
  /** Of several next hops the first stands here. 0: none (blackhole and the like). */
  readonly linkIndex: number;
  /** RT_TABLE_*: 254 main, 255 local. */
  readonly table: number;
  readonly priority: number;
  /** RTN_*: 1 unicast, 2 local. */
  readonly type: number;
}

export interface RtNeighbour {
  readonly kind: 'neighbour';
  readonly family: Family;
  readonly address: Address;
  readonly linkIndex: number;
  /** '' while it is not known. */
  readonly mac: string;
  /** NUD_* bits of linux/neighbour.h. */
  readonly state: number;
}

export type RtRecord = RtLink | RtAddress | RtRoute | RtNeighbour;
export interface RtChange {
  readonly op: 'set' | 'delete';
  readonly record: RtRecord;
}

const ROW_BYTES = 112;
/** RTM_NEW* and RTM_DEL* of linux/rtnetlink.h come in fours: link 16, address 20, route 24, neighbour 28. */
const RTM_NEWLINK = 16;
const KINDS = ['link', 'address', 'route', 'neighbour'] as const;
/** The numbers of RtKind in native/rt_row.h. */
const DUMP = { link: 0, address: 1, route: 2, neighbour: 3, defaultRoute: 4, localRoute: 5 } as const;

export type RtGroup = (typeof KINDS)[number];

function textAt(rows: Uint8Array, at: number, bytes: number): string {
  const field = rows.subarray(at, at + bytes);
  const end = field.indexOf(0);
  return new TextDecoder('utf-8').decode(end < 0 ? field : field.subarray(0, end));
}

function macAt(rows: Uint8Array, at: number): string {
  if (rows[at + 6] !== 6) return '';
  return Array.from(rows.subarray(at, at + 6), (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function addressAt(rows: Uint8Array, at: number, family: number): Address {
  return formatAddress(rows.slice(at, at + (family === 4 ? 4 : 16)));
}

function addressOrNull(rows: Uint8Array, at: number, family: number): Address | null {
  if (family !== 4 && family !== 6) return null;
  return rows.subarray(at, at + 16).some((byte) => byte !== 0) ? addressAt(rows, at, family) : null;
}

function destinationAt(rows: Uint8Array, at: number, family: Family, bits: number): Cidr {
  const address = addressAt(rows, at, family);
  // A route to IPv4-mapped addresses (::ffff:0:0/96) has an IPv4 address as its short form; its prefix not.
  if (family === 4 || address.includes(':')) return `${address}/${bits}` as Cidr;
  const group = (offset: number) => (rows[at + offset]! * 256 + rows[at + offset + 1]!).toString(16);
  return `::ffff:${group(12)}:${group(14)}/${bits}` as Cidr;
}

function readRow(rows: Uint8Array, view: DataView, at: number): RtChange {
  const type = view.getUint16(at, true);
  const op = (type - RTM_NEWLINK) % 4 === 0 ? 'set' : 'delete';
  const kind = KINDS[(type - RTM_NEWLINK) >>> 2]!;
  const family = rows[at + 2] as Family;
  const linkIndex = view.getUint32(at + 4, true);
  const flags = view.getUint32(at + 8, true);
  const state = view.getUint16(at + 12, true);
  const table = view.getUint32(at + 16, true);
  const priority = view.getUint32(at + 20, true);
  if (kind === 'link') {
    const name = textAt(rows, at + 80, 16);
    const linkType = textAt(rows, at + 96, 16);
    const mac = macAt(rows, at + 72);
    const link = { index: linkIndex, name, flags, operState: state, mtu: priority, masterIndex: table };
    return { op, record: { kind, ...link, type: linkType, mac } };
  }
  if (kind === 'route') {
    const destination = destinationAt(rows, at + 24, family, rows[at + 3]!);
    const gateway = addressOrNull(rows, at + 40, rows[at + 79]!);
    const source = addressOrNull(rows, at + 56, family);
    const routeType = rows[at + 15]!;
    return {
      op,
      record: { kind, family, destination, gateway, source, linkIndex, table, priority, type: routeType },
    };
  }
  const address = addressAt(rows, at + 24, family);
  if (kind === 'neighbour') {
    return { op, record: { kind, family, address, linkIndex, mac: macAt(rows, at + 72), state } };
  }
  const peer = addressOrNull(rows, at + 40, family) ?? address;
  const prefixLength = rows[at + 3]!;
  return {
    op,
    record: { kind, family, address, peer, prefixLength, scope: rows[at + 14]!, flags, linkIndex },
  };
}

function readRows(rows: Uint8Array): RtChange[] {
  const view = new DataView(rows.buffer, rows.byteOffset, rows.byteLength);
  const changes: RtChange[] = [];
  for (let at = 0; at + ROW_BYTES <= rows.length; at += ROW_BYTES) changes.push(readRow(rows, view, at));
  return changes;
}

function recordsOf<T extends RtRecord>(rows: Uint8Array): T[] {
  return readRows(rows).map((change) => change.record as T);
}

/** All links of the network namespace at `netns` ('': the current one). Throws an Error with an errno code. */
export function readLinks(netns: string): RtLink[] {
  return recordsOf(loadNative().rtDumpSync(netns, DUMP.link));
}

export function readAddresses(netns: string): RtAddress[] {
  return recordsOf(loadNative().rtDumpSync(netns, DUMP.address));
}

/** All routes of all tables; may be many. */
export async function readRoutes(netns: string): Promise<RtRoute[]> {
  return recordsOf(await loadNative().rtDump(netns, DUMP.route));
}

/** Only routes to everywhere, of both families and all tables. */
export async function readDefaultRoutes(netns: string): Promise<RtRoute[]> {
  return recordsOf(await loadNative().rtDump(netns, DUMP.defaultRoute));
}

/** Only those of the table `local` (255), of both families. */
export async function readLocalRoutes(netns: string): Promise<RtRoute[]> {
  return recordsOf(await loadNative().rtDump(netns, DUMP.localRoute));
}

export async function readNeighbours(netns: string): Promise<RtNeighbour[]> {
  return recordsOf(await loadNative().rtDump(netns, DUMP.neighbour));
}

export interface RtListener {
  /** Once for each turn of the event loop in which something came, in the kernel's order. */
  onChanges(changes: readonly RtChange[]): void;
  /** Notifications were lost: what they told must be read anew. */
  onOverrun(): void;
}

/**
 * Follows changes of the named groups. Subscribe first and dump then: whatever happens in between is told
 * twice rather than never. Does not keep the event loop alive until ref().
 */
export function watchRtnetlink(
  netns: string,
  groups: readonly RtGroup[],
  listener: RtListener,
): NativeRtMonitor {
  const bits = groups.reduce((sum, group) => sum | (1 << KINDS.indexOf(group)), 0);
  return new (loadNative().RtMonitor)(netns, bits, (rows) => {
    if (rows) listener.onChanges(readRows(rows));
    else listener.onOverrun();
  });
}
