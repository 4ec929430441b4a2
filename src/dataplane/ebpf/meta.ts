/** tp_meta: what the agent that comes next must know of a set of maps. */
import { statSync } from 'node:fs';
import { ABI } from './abi.ts';
import type { PortRange, Sizes } from './knobs.ts';
import { lifeNative } from './native-life.ts';
import type { Mapped } from './tables.ts';

export interface Meta {
  readonly layout: number;
  /** The folder under which the maps are pinned, and the network namespace that they serve. */
  readonly root: string;
  readonly netns: string;
  /** Of that namespace, and never of another one until the machine starts anew; '' or not there: the kernel has none. */
  readonly cookie?: string;
  readonly sizes: Sizes;
  readonly natPorts: readonly PortRange[];
  /** 16 bytes in hexadecimal: the tables are in its order. */
  readonly seed: string;
  readonly hz: number;
  /** The first full state has been written: until then nothing is adopted. */
  readonly complete: boolean;
  /** ip_local_reserved_ports as it was; null: not touched. */
  readonly reservedBefore: string | null;
  /** net.ipv4.conf.lo.accept_local as it was; null: not touched. */
  readonly acceptLocalBefore: string | null;
  /** Devices that have clsact filters of ours (kernels without tcx), by index. */
  readonly clsact: readonly number[];
}

/** What tells this network namespace from all others while it is there. */
export function netnsIdentity(): string {
  // Synchronous, because it is that of the thread that asks.
  const { dev, ino } = statSync('/proc/thread-self/ns/net');
  return `${dev}:${ino}`;
}

/** The cookie of a network namespace; '': the kernel has none (before 5.14), or it may not be asked. */
export function netnsCookie(netns: string): string {
  try {
    const cookie = lifeNative().netnsCookie(netns);
    return cookie === 0n ? '' : String(cookie);
  } catch {
    return '';
  }
}

/** Whether what describes itself so serves the network namespace of the calling thread. */
export function servesHere({ netns, cookie }: Pick<Meta, 'netns' | 'cookie'>): boolean {
  return netns === netnsIdentity() && isSameCookie(cookie, netnsCookie(''));
}

/** As far as both are known. */
export function isSameCookie(a: string | undefined, b: string): boolean {
  return !a || b === '' || a === b;
}

/** Of maps of any layout: whose they are and what was changed on the node stays readable. null: there is none. */
export function readMeta(map: Mapped): Meta | null {
  const end = map.bytes.indexOf(0);
  try {
    const meta = JSON.parse(Buffer.from(map.bytes.subarray(0, Math.max(end, 0))).toString()) as Meta;
    return typeof meta.layout === 'number' && typeof meta.root === 'string' ? meta : null;
  } catch {
    return null;
  }
}

/** Whether this version can read the tables themselves. */
export function isOurLayout({ layout }: Pick<Meta, 'layout'>): boolean {
  return layout === ABI.LAYOUT;
}

export function writeMeta(map: Mapped, meta: Meta): void {
  const text = Buffer.from(JSON.stringify(meta));
  if (text.length >= map.bytes.length) throw new RangeError('the description of the maps does not fit');
  map.bytes.fill(0);
  map.bytes.set(text);
}
