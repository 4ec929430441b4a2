/** DesiredNode and the agent's options -> struct tp_settings. */
import { cidrParts, familyOf, putAddress } from '../../model/address.ts';
import type { DesiredNode } from '../../model/desired.ts';
import type { Address, Cidr, Family } from '../../model/records.ts';
import type { Refusal } from '../dataplane.ts';
import { ABI, LAYOUTS } from './abi.ts';
import { Settings } from './settings.ts';
import type { Mapped } from './tables.ts';

export type SocketLb = 'all' | 'host' | 'off';

/** What sets flags beside the desired state. */
export interface NodeRules {
  readonly socketLb: SocketLb;
  readonly sourceRoutes: 'none' | 'some';
  /** Whether there are cgroups in tp_optouts. */
  readonly optOuts: 'none' | 'some';
  /** Whether the kernel may still translate connections from before: then it is asked first. */
  readonly kernelConnections: 'none' | 'some';
  /** 'on': nothing new is picked; what there is goes on. */
  readonly drain: 'on' | 'off';
  /** Whether programs over older tables stand before ours and go on with what they have. */
  readonly older: 'none' | 'some';
}

const FAMILIES = [4, 6] as const;

/** Families in which the detector can tell pods from others. */
export function familiesOf({ detector }: DesiredNode): Set<Family> {
  if (detector.by === 'cidr') return new Set(detector.cidrs.map(familyOf));
  return new Set(detector.by === 'none' ? [] : FAMILIES);
}

/**
 * Families in which each pod of this node is known to be one. A detector by interface goes by the device that a
 * packet comes by, which a socket does not know: what that decides is left to the wire.
 */
export function podsKnownIn(node: DesiredNode): Set<Family> {
  return node.detector.by === 'cidr' ? familiesOf(node) : new Set();
}

export function settingFlags(node: DesiredNode, rules: NodeRules): number {
  let flags = 0;
  if (familiesOf(node).size > 0) flags |= ABI.S_DETECTOR;
  if (rules.socketLb !== 'off') flags |= ABI.S_SOCK_NODE;
  if (rules.socketLb === 'all') flags |= ABI.S_SOCK_POD;
  // What sockets did not translate (source ranges, sockets from before) is translated as it leaves.
  flags |= ABI.S_NODE_EGRESS;
  if (rules.sourceRoutes === 'some') flags |= ABI.S_SOURCE_ROUTES;
  if (rules.kernelConnections === 'some') flags |= ABI.S_ASK_KERNEL;
  if (rules.optOuts === 'some') flags |= ABI.S_SOCK_OPTOUT;
  if (rules.drain === 'on') flags |= ABI.S_DRAIN;
  if (rules.older === 'some') flags |= ABI.S_OLDER;
  return flags;
}

/** The prefixes, if they are not what the settings say; what has no room is refused by name. */
export function writePrefixes(map: Mapped, node: DesiredNode): Refusal[] {
  const refusals: Refusal[] = [];
  const scratch = copyOf(map);
  const pods = node.detector.by === 'cidr' ? node.detector.cidrs : [];
  for (const family of FAMILIES)
    for (const [which, cidrs] of [
      ['pod', pods],
      ['service', node.serviceCIDRs],
    ] as const) {
      const own = cidrs.filter((cidr) => familyOf(cidr) === family);
      new Settings(scratch).setPrefixes(which, family, own);
      // A list is empty for a moment while it is written: not for nothing.
      if (!samePrefixes(scratch, map)) new Settings(map).setPrefixes(which, family, own);
      const rest = own.slice(ABI.PREFIXES);
      if (rest.length > 0) {
        const reason = `no room for the ${which} CIDRs ${rest.join(', ')}: at most ${ABI.PREFIXES} of a family`;
        refusals.push({ service: '', reason });
      }
    }
  return refusals;
}

function copyOf(map: Mapped): Mapped {
  const bytes = map.bytes.slice();
  const { buffer } = bytes;
  return {
    bytes,
    words: new Uint32Array(buffer),
    longs: new BigUint64Array(buffer),
    view: new DataView(buffer),
    entries: map.entries,
  };
}

function samePrefixes(a: Mapped, b: Mapped): boolean {
  const { service_cidrs: from } = LAYOUTS.tp_settings.members;
  const to = LAYOUTS.tp_settings.bytes;
  return Buffer.compare(a.bytes.subarray(from, to), b.bytes.subarray(from, to)) === 0;
}

/** The lowest and the highest address. */
type Span = readonly [Uint8Array, Uint8Array];
const NOTHING: Span = [new Uint8Array(16).fill(255), new Uint8Array(16)];

/**
 * The span of all cluster IPs and service CIDRs of a family: what is outside costs programs no second look-up. It
 * only grows, until it is reckoned anew.
 */
export class ClusterSpan {
  readonly family: Family;
  readonly #settings: Settings;
  #low: Uint8Array = NOTHING[0];
  #high: Uint8Array = NOTHING[1];

  constructor(family: Family, settings: Settings) {
    this.family = family;
    this.#settings = settings;
  }

  /** Makes it hold these and all that it held. */
  grow(addresses: Iterable<Address>, cidrs: readonly Cidr[]): void {
    this.#write([this.#low, this.#high], addresses, cidrs);
  }

  /** Makes it hold these and nothing else. */
  renew(addresses: Iterable<Address>, cidrs: readonly Cidr[]): void {
    this.#write(NOTHING, addresses, cidrs);
  }

  #write(start: Span, addresses: Iterable<Address>, cidrs: readonly Cidr[]): void {
    let [low, high] = start;
    const include = ([first, last]: Span) => {
      if (compareAddresses(first, low) < 0) low = first.slice();
      if (compareAddresses(last, high) > 0) high = last.slice();
    };
    // One for all of them: nearly every address lies within what is known already.
    const bytes = new Uint8Array(16);
    const one: Span = [bytes, bytes];
    for (const address of addresses) {
      if (familyOf(address) !== this.family) continue;
      putAddress(bytes, 0, address);
      include(one);
    }
    for (const cidr of cidrs) if (familyOf(cidr) === this.family) include(endsOf(cidr));
    if (Buffer.compare(low, this.#low) === 0 && Buffer.compare(high, this.#high) === 0) return;
    [this.#low, this.#high] = [low, high];
    this.#settings.setClusterSpan(this.family, low, high);
  }
}

/** As memcmp() of 16 bytes. */
function compareAddresses(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < 16; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return 0;
}

function padded(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(16);
  out.set(bytes);
  return out;
}

function endsOf(cidr: Cidr): Span {
  const { bytes, bits } = cidrParts(cidr);
  const last = padded(bytes);
  for (let bit = bits; bit < bytes.length * 8; bit++) last[bit >> 3]! |= 128 >> (bit & 7);
  return [padded(bytes), last];
}
