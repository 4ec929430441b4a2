/** Which program stands where. A new program is a row; rows whose program the object does not have are left out. */
import { SOCK_COUNTERS, SOCK_PROGRAMS } from './attach-types.ts';

/**
 * Devices that a program is for: where traffic from outside comes in; every device that is followed; those and
 * loopback, by which the node's own processes reach its own addresses.
 */
export type DeviceSet = 'uplinks' | 'all' | 'all-and-loopback';

export type Attachment =
  | { readonly program: string; readonly hook: 'xdp'; readonly on: DeviceSet }
  | { readonly program: string; readonly hook: 'ingress' | 'egress'; readonly on: DeviceSet }
  | { readonly program: string; readonly hook: 'cgroup'; readonly attachType: number };

const SOCKETS = Object.entries({ ...SOCK_COUNTERS, ...SOCK_PROGRAMS }).map(
  ([program, attachType]): Attachment => ({ program, hook: 'cgroup', attachType }),
);
/** A socket's view of its peer comes before the peer is changed. */
const BACKWARD = /recvmsg|getpeername/;

export const ATTACHMENTS: readonly Attachment[] = [
  // What gives packets back to their clients comes before what translates new ones.
  { program: 'tp_egress', hook: 'egress', on: 'all-and-loopback' },
  { program: 'tp_ingress', hook: 'ingress', on: 'all' },
  { program: 'tp_xdp', hook: 'xdp', on: 'uplinks' },
  ...SOCKETS.filter(({ program }) => BACKWARD.test(program)),
  ...SOCKETS.filter(({ program }) => !BACKWARD.test(program)),
];
