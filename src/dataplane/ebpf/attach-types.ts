/** Numbers of <linux/bpf.h> (enum bpf_attach_type), and which program goes where. */

export const ATTACH_XDP = 37;
export const ATTACH_TCX_INGRESS = 46;
export const ATTACH_TCX_EGRESS = 47;

/** XDP_FLAGS_* of <linux/if_link.h>. */
export const XDP_GENERIC = 1 << 1;
export const XDP_NATIVE = 1 << 2;

/** Programs of the cgroup and their attach types. */
export const SOCK_PROGRAMS = {
  tp_bind4: 8,
  tp_bind6: 9,
  tp_connect4: 10,
  tp_connect6: 11,
  tp_sendmsg4: 14,
  tp_sendmsg6: 15,
  tp_recvmsg4: 19,
  tp_recvmsg6: 20,
  tp_getpeername4: 29,
  tp_getpeername6: 30,
} as const;

/** What counts the packets of translated sockets, loaded where those are counted. */
export const SOCK_COUNTERS = { tp_skb_in: 0, tp_skb_out: 1 } as const;
