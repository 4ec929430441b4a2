/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asking the kernel's own connection tracking, while connections that it translates are still about (a switch from
 * nft or ipvs). The kernel functions are optional: tp_knobs.has_ct_lookup is constant, and what it forbids is
 * pruned before the verifier looks for them. */
#ifndef TRIPLANE_KERNEL_H
#define TRIPLANE_KERNEL_H

#include "nat.h"
#include "pick.h"

/* enum tcp_conntrack: a SYN begins another connection there. */
#define KERNEL_TCP_TIME_WAIT 7
#define KERNEL_TCP_CLOSE 8
/* enum ip_conntrack_dir */
#define KERNEL_REPLY 1
/* NAT ports tried while the kernel's NAT has each of them. */
#define KERNEL_PORT_TRIES 16
/* BPF_F_CURRENT_NETNS, as struct bpf_ct_opts has it. */
#define KERNEL_THIS_NETNS -1

/* What is read of the kernel's entry; the names are the kernel's. */
union nf_conntrack_man_proto {
	__u16 all;
} __attribute__((preserve_access_index));
struct nf_conntrack_man {
	struct tp_addr u3;
	union nf_conntrack_man_proto u;
} __attribute__((preserve_access_index));
struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
} __attribute__((preserve_access_index));
struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} __attribute__((preserve_access_index));
struct ip_ct_tcp {
	__u8 state;
} __attribute__((preserve_access_index));
union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
} __attribute__((preserve_access_index));
struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	union nf_conntrack_proto proto;
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

/* Whether the entry delivers the packet elsewhere than it was sent. That is so with NAT, and with IPVS as well, which
 * sets none of NAT's bits; a connection that the kernel merely saw passing is not its. A SYN that begins another
 * connection belongs to none that is over. */
static __always_inline int kernel_translates(struct nf_conn *conn, const struct packet *p)
{
	struct tp_addr backend = {};
	__u16 port = 0;
	__u8 state = 0;

	if (p->proto == IPPROTO_TCP && is_opening(p)) {
		bpf_probe_read_kernel(&state, sizeof(state), &conn->proto.tcp.state);
		if (state == KERNEL_TCP_TIME_WAIT || state == KERNEL_TCP_CLOSE)
			return 0;
	}
	bpf_probe_read_kernel(&backend, sizeof(backend), &conn->tuplehash[KERNEL_REPLY].tuple.src.u3);
	bpf_probe_read_kernel(&port, sizeof(port), &conn->tuplehash[KERNEL_REPLY].tuple.src.u.all);
	return port != p->dport || !same_addr(&backend, &p->dst, p->family);
}

/* Whether the kernel has the packet's connection and translates it. */
#define KERNEL_OWNS(name, context, lookup)                                                          \
	TP_RARE int name(context *ctx, const struct packet *p)                                      \
	{                                                                                           \
		struct bpf_ct_opts___tp opts = {};                                                  \
		struct bpf_sock_tuple tuple = {};                                                   \
		struct nf_conn *conn;                                                               \
		int owns;                                                                           \
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
		owns = kernel_translates(conn, p);                                                  \
		bpf_ct_release(conn);                                                               \
		if (owns)                                                                           \
			count(TP_N_KERNEL_OWNED);                                                   \
		return owns;                                                                        \
	}

KERNEL_OWNS(skb_kernel_owns, struct __sk_buff, bpf_skb_ct_lookup)
KERNEL_OWNS(xdp_kernel_owns, struct xdp_md, bpf_xdp_ct_lookup)

enum kernel_wish {
	KERNEL_ANY = 0,
	/* Not one that is over. */
	KERNEL_ALIVE,
};

/* Whether the kernel has a connection between the two ends, in either direction. */
TP_RARE int skb_kernel_has(struct __sk_buff *skb, const struct packet *p, __u32 wish)
{
	struct bpf_ct_opts___tp opts = {};
	struct bpf_sock_tuple tuple = {};
	struct nf_conn *conn;
	__u8 state = 0;

	if (!p || !tp_knobs.has_ct_lookup || p->proto == IPPROTO_SCTP)
		return 0;
	opts.netns_id = KERNEL_THIS_NETNS;
	opts.l4proto = p->proto;
	if (kernel_tuple(&tuple, p) == sizeof(tuple.ipv4))
		conn = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	else
		conn = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));
	if (!conn)
		return 0;
	if (wish == KERNEL_ALIVE && p->proto == IPPROTO_TCP)
		bpf_probe_read_kernel(&state, sizeof(state), &conn->proto.tcp.state);
	bpf_ct_release(conn);
	return state != KERNEL_TCP_TIME_WAIT && state != KERNEL_TCP_CLOSE;
}

/* Whether the kernel has seen a connection, not over yet, between the client and the backend. */
TP_RARE int skb_kernel_has_ends(struct __sk_buff *skb, const struct packet *p, __u32 backend)
{
	struct tp_backend *b = backend_at(backend);
	struct packet answer = {};

	if (!b || !p)
		return 0;
	answer.proto = p->proto;
	answer.family = p->family;
	copy_addr(&answer.src, &b->addr);
	copy_addr(&answer.dst, &p->src);
	answer.sport = b->port;
	answer.dport = p->sport;
	return skb_kernel_has(skb, &answer, KERNEL_ALIVE);
}

/* Gives a connection that has its NAT address another port while the kernel's own NAT has one toward the same backend
 * from the same address and port: answers could not be told apart. Not 0: no port is left, counted. */
TP_RARE int skb_avoid_kernel_port(struct __sk_buff *skb, __u32 conn)
{
	struct tp_conn *c = conn_at(conn);
	struct tp_backend *b;
	__u32 port;

	if (!c)
		return 1;
	b = backend_at(c->backend);
	if (!b)
		return 1;
	for (int try = 0; try < KERNEL_PORT_TRIES; try++) {
		struct packet answer = { .proto = c->proto, .family = c->family };

		copy_addr(&answer.src, &b->addr);
		copy_addr(&answer.dst, &c->nat_addr);
		answer.sport = b->port;
		answer.dport = c->nat_port;
		if (!skb_kernel_has(skb, &answer, KERNEL_ANY))
			return 0;
		port = nat_claim_any(conn, tp_hash_nat(tp_knobs.seed, &b->addr, b->port, c->proto, c->family));
		if (!port)
			break;
		nat_release(c, conn, b, c->family);
		c->nat_port = port;
	}
	count(TP_N_NAT_FULL);
	return 1;
}

#endif
