/** Addresses and ranges in objects, and which of them may never be a frontend or a backend. */
import { familyOf, isLoopback, parseAddress, parseCidr } from '../../model/address.ts';
import type { Address, Cidr } from '../../model/records.ts';
import { Refused, show } from './check.ts';

/** Longest text of an address (IPv6 with an embedded IPv4 address) plus a prefix length, with room for zeros. */
const TEXT_MAX = 64;

export type AddressClass = 'ordinary' | 'unspecified' | 'loopback' | 'link-local' | 'multicast' | 'broadcast';

/** What every frontend and backend must not be. */
export const NEVER_SERVED: readonly AddressClass[] = ['unspecified', 'loopback', 'multicast', 'broadcast'];

/**
 * As above, and link-local. For endpoints (CVE-2021-25737: whoever may write a slice could have the node's
 * own services or a cloud's metadata address proxied to) and external IPs, as the API server's validation.
 */
export const NEVER_BACKEND: readonly AddressClass[] = [...NEVER_SERVED, 'link-local'];

function classify4(address: string): AddressClass {
  const [first, second] = address.split('.', 2).map(Number) as [number, number];
  if (first === 0) return 'unspecified';
  if (first === 169 && second === 254) return 'link-local';
  if (first >= 224 && first < 240) return 'multicast';
  return address === '255.255.255.255' ? 'broadcast' : 'ordinary';
}

/**
 * Classes of RFC 6890. The address is canonical, which is what makes the patterns sufficient: an
 * IPv4-mapped address has become the IPv4 address that it is.
 */
export function classify(address: Address): AddressClass {
  if (isLoopback(address)) return 'loopback';
  if (familyOf(address) === 4) return classify4(address);
  if (address === '::') return 'unspecified';
  if (/^fe[89ab][0-9a-f]:/.test(address)) return 'link-local';
  if (/^ff[0-9a-f]{2}:/.test(address)) return 'multicast';
  return 'ordinary';
}

/** A canonical address of no forbidden class. Throws Refused. */
export function readAddress(value: unknown, path: string, forbidden: readonly AddressClass[]): Address {
  const address = typeof value === 'string' && value.length <= TEXT_MAX ? parseAddress(value) : null;
  if (address === null) throw new Refused(`${path} is ${show(value)}, not an IP address`);
  const found = classify(address);
  if (forbidden.includes(found))
    throw new Refused(`${path} is ${show(value)}: ${found} addresses are refused`);
  return address;
}

/** A canonical CIDR, blanks around it forgiven as the API server does. Throws Refused. */
export function readCidr(value: unknown, path: string): Cidr {
  const text = typeof value === 'string' && value.length <= TEXT_MAX ? value.trim() : '';
  const cidr = text.includes('/') ? parseCidr(text) : null;
  if (cidr === null) throw new Refused(`${path} is ${show(value)}, not a CIDR`);
  return cidr;
}

/** Reads a list whose bad entries are refused alone: what is refused goes to `faults`. */
export function readEntries<T>(
  list: readonly unknown[],
  path: string,
  faults: string[],
  read: (entry: unknown, path: string) => T | null,
): T[] {
  const entries: T[] = [];
  for (let i = 0; i < list.length; i++) {
    try {
      const entry = read(list[i], `${path}[${i}]`);
      if (entry !== null) entries.push(entry);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      faults.push(error.message);
    }
  }
  return entries;
}

/** The same values once each, in their order. */
export function unique<T extends string>(values: readonly T[]): T[] {
  return [...new Set(values)];
}
