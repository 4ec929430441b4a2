/**
 * Which devices traffic to services may come in by, what they are, and what masquerade uses on them. Pure.
 *
 * tc programs stand on every device but loopback: nftables sees traffic of every device, and so must we. Of a bridge
 * without the default route that means its ports, so that answers between two pods of one bridge, which never reach
 * the bridge itself, are translated as well.
 */
import type { LocalDetector } from '../../model/desired.ts';
import type { Address, Family } from '../../model/records.ts';
import type { RtAddress, RtLink } from '../../node/rtnetlink.ts';

export interface DeviceRole {
  readonly name: string;
  /** As RtLink has it. */
  readonly type: string;
  readonly attach: boolean;
  /** What the node sends to its own addresses goes by here. */
  readonly loopback: boolean;
  /** Traffic from outside the node comes in here: XDP is worth it. */
  readonly uplink: boolean;
  /** What arrives here is a pod's, as a detector by interface says. */
  readonly pods: boolean;
  /** What masquerade uses as the source of what leaves here; null: there is none. */
  readonly nat: Readonly<Record<Family, Address | null>>;
}

export interface DeviceFacts {
  readonly links: readonly RtLink[];
  readonly addresses: readonly RtAddress[];
  /** Devices of default routes. */
  readonly defaultDevices: ReadonlySet<number>;
  /** The address that the node has toward everywhere, by family: for devices without one. */
  readonly fallback: Readonly<Record<Family, Address | null>>;
}

/** Glob patterns ('cali*') of device names: 'except' is left alone whatever it is. */
export interface DeviceChoice {
  readonly except: readonly string[];
  readonly uplinks: readonly string[];
}

const IFF_LOOPBACK = 8;
/** Never part of a path from a client to us. */
const IDLE_TYPES = new Set(['dummy', 'ifb', 'nlmon', 'vrf', 'vcan', 'lo']);
const MASTERS_THAT_SEE_ALL = new Set(['bond', 'team']);
const SCOPE_GLOBAL = 0;
/** IFA_F_*: deprecated, tentative, failed duplicate detection, secondary (IPv4) or temporary (IPv6). */
const UNFIT_FLAGS = 0x20 | 0x40 | 0x08 | 0x01;

export function deviceRoles(
  facts: DeviceFacts,
  detector: LocalDetector,
  choice: DeviceChoice,
): Map<number, DeviceRole> {
  const byIndex = new Map(facts.links.map((link) => [link.index, link]));
  const addresses = addressesByDevice(facts.addresses);
  const isUplink = (link: RtLink) =>
    choice.uplinks.length > 0
      ? choice.uplinks.some((pattern) => matches(pattern, link.name))
      : facts.defaultDevices.has(link.index);
  const roles = new Map<number, DeviceRole>();
  for (const link of facts.links) {
    const master = byIndex.get(link.masterIndex) ?? null;
    const excepted = choice.except.some((pattern) => matches(pattern, link.name));
    const attach = !excepted && isPath(link, master, isUplink);
    const nat = (family: Family) =>
      addresses.get(link.index)?.[family] ??
      (master ? addresses.get(master.index)?.[family] : null) ??
      facts.fallback[family];
    roles.set(link.index, {
      name: link.name,
      type: link.type,
      attach,
      loopback: (link.flags & IFF_LOOPBACK) !== 0,
      uplink: attach && isUplink(link),
      pods: isPods(link, master, detector),
      nat: { 4: nat(4), 6: nat(6) },
    });
  }
  return roles;
}

/** Names of the devices by which traffic from outside comes in. */
export function uplinksOf(roles: ReadonlyMap<number, DeviceRole>): Map<number, string> {
  return new Map([...roles].flatMap(([index, { name, uplink }]) => (uplink ? [[index, name] as const] : [])));
}

function isPath(link: RtLink, master: RtLink | null, isUplink: (link: RtLink) => boolean): boolean {
  if ((link.flags & IFF_LOOPBACK) !== 0 || IDLE_TYPES.has(link.type)) return false;
  if (master && MASTERS_THAT_SEE_ALL.has(master.type)) return false;
  if (master?.type === 'bridge') return !isUplink(master);
  return link.type !== 'bridge' || isUplink(link);
}

function isPods(link: RtLink, master: RtLink | null, detector: LocalDetector): boolean {
  // What comes in by a port of a bridge is the bridge's to the IP layer, whose device the detector names.
  const { name } = master?.type === 'bridge' ? master : link;
  if (detector.by === 'bridge') return name === detector.name;
  return detector.by === 'prefix' && name.startsWith(detector.prefix);
}

type NatAddresses = Record<Family, Address | null>;

/** The first fit address of each device, as the kernel's own masquerade takes it (inet_select_addr). */
function addressesByDevice(rows: readonly RtAddress[]): Map<number, NatAddresses> {
  const found = new Map<number, NatAddresses>();
  for (const { linkIndex, family, address, scope, flags } of rows) {
    if (scope !== SCOPE_GLOBAL || (flags & UNFIT_FLAGS) !== 0) continue;
    const device = found.get(linkIndex) ?? { 4: null, 6: null };
    device[family] ??= address;
    found.set(linkIndex, device);
  }
  return found;
}

function matches(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : pattern === name;
}
