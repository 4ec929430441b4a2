/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What other sockets of the client's network say against translating one. */
#ifndef TRIPLANE_SOCK_LOOKUP_H
#define TRIPLANE_SOCK_LOOKUP_H

#include "conntrack.h"

/* Whether this very pod may be the backend: then it is to see the node's address (hairpin), and tc does that. Asked
 * by whether its network has a socket that would take the packet. */
static __always_inline int sock_is_hairpin(struct bpf_sock_addr *ctx, const struct packet *p,
					   const struct tp_backend *b)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 length;

	if (!(b->flags & TP_B_LOCAL))
		return 0;
	if (p->family == 4) {
		tuple.ipv4.daddr = b->addr.w[0];
		tuple.ipv4.dport = b->port;
		length = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, &b->addr, 16);
		tuple.ipv6.dport = b->port;
		length = sizeof(tuple.ipv6);
	}
	sk = p->proto == IPPROTO_TCP ? bpf_sk_lookup_tcp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0) :
				       bpf_sk_lookup_udp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

/* Whether the socket has chosen a port (bind) that another one has toward this backend: it could not connect there
 * (EADDRNOTAVAIL), or would share that one's datagrams. The wire keeps the two apart. */
static __always_inline int sock_is_taken(struct bpf_sock_addr *ctx, const struct packet *p, const struct tp_backend *b)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk = ctx->sk;
	__u32 length, any;
	struct bpf_sock *found;
	int taken;

	if (!sk || !sk->src_port)
		return 0;
	if (p->family == 4) {
		tuple.ipv4.saddr = b->addr.w[0];
		tuple.ipv4.sport = b->port;
		tuple.ipv4.daddr = any = sk->src_ip4;
		tuple.ipv4.dport = bpf_htons(sk->src_port);
		length = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &b->addr, 16);
		tuple.ipv6.sport = b->port;
		tuple.ipv6.daddr[0] = sk->src_ip6[0];
		tuple.ipv6.daddr[1] = sk->src_ip6[1];
		tuple.ipv6.daddr[2] = sk->src_ip6[2];
		tuple.ipv6.daddr[3] = sk->src_ip6[3];
		tuple.ipv6.dport = bpf_htons(sk->src_port);
		any = tuple.ipv6.daddr[0] | tuple.ipv6.daddr[1] | tuple.ipv6.daddr[2] | tuple.ipv6.daddr[3];
		length = sizeof(tuple.ipv6);
	}
	/* With a port alone its address is not known yet. UDP's has one as well that has spoken before. */
	if (!any)
		return p->proto == IPPROTO_TCP;
	/* Of two types for the verifier, which therefore may not meet in one instruction. */
	if (p->proto == IPPROTO_TCP) {
		found = bpf_skc_lookup_tcp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0);
		if (!found)
			return 0;
		taken = found->state != BPF_TCP_LISTEN;
		bpf_sk_release(found);
		return taken;
	}
	found = bpf_sk_lookup_udp(ctx, &tuple, length, BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	/* Connected: to this backend then, or it would not have been found. */
	taken = found->state == BPF_TCP_ESTABLISHED;
	keep(taken);
	bpf_sk_release(found);
	return taken;
}

#endif
