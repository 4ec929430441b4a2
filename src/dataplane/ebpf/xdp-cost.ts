/** What an XDP program on a device costs traffic that is none of ours. */
import { readlinkSync } from 'node:fs';
import path from 'node:path';
import type { DeviceRole } from './device-roles.ts';

/** Devices of which the sender is another guest or namespace, and hands over up to 64 KiB at once. */
const REASONS = {
  // Linux drivers/net/veth.c, veth_xdp_set(): the peer's NETIF_F_GSO_SOFTWARE goes.
  veth: 'the other end of a veth would send packets of the MTU instead of large segments',
  // Linux drivers/net/virtio_net.c, virtnet_xdp_set(): virtnet_clear_guest_offloads().
  virtio_net: 'virtio_net would receive packets of the MTU instead of large segments',
} as const;

/** The driver of a device of this network namespace; '': it has none, or nobody says. */
function driverOf(name: string): string {
  try {
    return path.basename(readlinkSync(`/sys/class/net/${name}/device/driver`));
  } catch {
    return '';
  }
}

/**
 * Why XDP there would make every stream that comes in slower, also those of pods and past all services; '': it would not. Where a
 * network card puts packets together, or the kernel does after XDP (GRO), it does not.
 */
export function xdpCost({ type, name }: Pick<DeviceRole, 'type' | 'name'>, driver = driverOf): string {
  if (type === 'veth') return REASONS.veth;
  return driver(name) === 'virtio_net' ? REASONS.virtio_net : '';
}
