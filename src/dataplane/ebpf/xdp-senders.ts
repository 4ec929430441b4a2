/** By which devices XDP may send: what a driver cannot take from it, it drops without a word. */
import { loadNative } from '../../node/native.ts';
import type { DeviceRole } from './device-roles.ts';

/** NETDEV_XDP_ACT_NDO_XMIT of linux/netdev.h: takes what XDP on another device redirects to it. */
const NDO_XMIT = 4;

/** NETDEV_XDP_ACT_*; -1: this kernel does not tell (before 6.3), or the device has gone. */
export function xdpFeatures(netns: string, ifindex: number): number {
  const native = loadNative() as unknown as { xdpFeatures(netns: string, ifindex: number): number };
  try {
    return native.xdpFeatures(netns, ifindex);
  } catch {
    return -1;
  }
}

/**
 * Generic XDP sends through the stack's own queues, so by every device. Native XDP sends back by the device that
 * the packet came by, which every driver with XDP can, and by others that say so. A veth takes something only while
 * its other end is ready for it, which only its features say.
 */
export function xdpSenders(
  roles: ReadonlyMap<number, DeviceRole>,
  modes: ReadonlyMap<number, 'native' | 'generic'>,
  features: (ifindex: number) => number,
): Set<number> {
  if (modes.size === 0) return new Set();
  if ([...modes.values()].every((mode) => mode === 'generic')) return new Set(roles.keys());
  const takes = (ifindex: number) => {
    const known = features(ifindex);
    return known >= 0 && (known & NDO_XMIT) !== 0;
  };
  return new Set(
    [...roles].flatMap(([ifindex, { type, uplink }]) => {
      // Pods' devices are many, and nothing goes out by them to another node.
      if (type === 'veth' && !uplink) return [];
      const onlyOne = modes.size === 1 && modes.get(ifindex) === 'native' && type !== 'veth';
      return onlyOne || takes(ifindex) ? [ifindex] : [];
    }),
  );
}
