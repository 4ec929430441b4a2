/** Which program stands where. A new program is a row; rows whose program the object does not have are left out. */

/** Numbers of enum bpf_attach_type (linux/bpf.h). */
export const ATTACH_TYPE = {
  xdp: 37,
  tcxIngress: 46,
  tcxEgress: 47,
  bind4: 8,
  bind6: 9,
  connect4: 10,
  connect6: 11,
  sendmsg4: 14,
  sendmsg6: 15,
  recvmsg4: 19,
  recvmsg6: 20,
  getpeername4: 29,
  getpeername6: 30,
} as const;

/** Devices that a program is for: where traffic from outside comes in, and every device that is followed. */
export type DeviceSet = 'uplinks' | 'all';

export type Attachment =
  | { readonly program: string; readonly hook: 'xdp'; readonly on: DeviceSet }
  | { readonly program: string; readonly hook: 'ingress' | 'egress'; readonly on: DeviceSet }
  | { readonly program: string; readonly hook: 'cgroup'; readonly attachType: number };

const socket = (name: Exclude<keyof typeof ATTACH_TYPE, 'xdp' | 'tcxIngress' | 'tcxEgress'>): Attachment => ({
  program: `tp_${name}`,
  hook: 'cgroup',
  attachType: ATTACH_TYPE[name],
});

export const ATTACHMENTS: readonly Attachment[] = [
  // What gives packets back to their clients comes before what translates new ones.
  { program: 'tp_egress', hook: 'egress', on: 'all' },
  { program: 'tp_ingress', hook: 'ingress', on: 'all' },
  { program: 'tp_xdp', hook: 'xdp', on: 'uplinks' },
  // A socket's view of its peer comes before the peer is changed.
  socket('recvmsg4'),
  socket('recvmsg6'),
  socket('getpeername4'),
  socket('getpeername6'),
  socket('sendmsg4'),
  socket('sendmsg6'),
  socket('connect4'),
  socket('connect6'),
  socket('bind4'),
  socket('bind6'),
];
