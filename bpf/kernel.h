/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asking the kernel's own connection tracking, while connections that it translates are still about (a switch from
 * nft or ipvs). The kernel functions are optional: tp_knobs.has_ct_lookup is constant, and what it forbids is
 * pruned before the verifier looks for them. */
#ifndef TRIPLANE_KERNEL_H
#define TRIPLANE_KERNEL_H

#include "pick.h"

/* enum ip_conntrack_status: the destination was replaced. */
#define KERNEL_DST_NAT (1 << 5)
/* BPF_F_CURRENT_NETNS, as struct bpf_ct_opts has it. */
#define KERNEL_THIS_NETNS -1

struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

/* struct bpf_ct_opts as it was first (12 bytes), which every later kernel takes too. */
struct bpf_ct_opts___tp {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts___tp *opts, __u32 opts__sz) __ksym __weak;
extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts___tp *opts, __u32 opts__sz) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *conn) __ksym __weak;

static __always_inline int asks_kernel(const struct tp_settings *set)
{
	return tp_knobs.has_ct_lookup && (set->flags & TP_S_ASK_KERNEL);
}

/* The packet's tuple; its length, as the kernel wants it, tells the family. */
static __always_inline __u32 kernel_tuple(struct bpf_sock_tuple *tuple, const struct packet *p)
{
	if (p->family == 4) {
		tuple->ipv4.saddr = p->src.w[0];
		tuple->ipv4.daddr = p->dst.w[0];
		tuple->ipv4.sport = p->sport;
		tuple->ipv4.dport = p->dport;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, &p->src, 16);
	__builtin_memcpy(tuple->ipv6.daddr, &p->dst, 16);
	tuple->ipv6.sport = p->sport;
	tuple->ipv6.dport = p->dport;
	return sizeof(tuple->ipv6);
}

/* Whether the kernel has the packet's connection, and translates it: one that it merely saw passing is not its. */
#define KERNEL_OWNS(name, context, lookup)                                                          \
	TP_RARE int name(context *ctx, const struct packet *p)                                      \
	{                                                                                           \
		struct bpf_ct_opts___tp opts = {};                                                  \
		struct bpf_sock_tuple tuple = {};                                                   \
		struct nf_conn *conn;                                                               \
		unsigned long status;                                                               \
                                                                                                    \
		if (!p || !tp_knobs.has_ct_lookup)                                                  \
			return 0;                                                                   \
		/* It tells nothing of SCTP: what does not open an association may belong to one of its. */ \
		if (p->proto == IPPROTO_SCTP)                                                       \
			return !is_opening(p);                                                      \
		opts.netns_id = KERNEL_THIS_NETNS;                                                  \
		opts.l4proto = p->proto;                                                            \
		if (kernel_tuple(&tuple, p) == sizeof(tuple.ipv4))                                  \
			conn = lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));        \
		else                                                                                \
			conn = lookup(ctx, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));        \
		if (!conn)                                                                          \
			return 0;                                                                   \
		status = conn->status;                                                              \
		bpf_ct_release(conn);                                                               \
		if (!(status & KERNEL_DST_NAT))                                                     \
			return 0;                                                                   \
		count(TP_N_KERNEL_OWNED);                                                           \
		return 1;                                                                           \
	}

KERNEL_OWNS(skb_kernel_owns, struct __sk_buff, bpf_skb_ct_lookup)
KERNEL_OWNS(xdp_kernel_owns, struct xdp_md, bpf_xdp_ct_lookup)

#endif
