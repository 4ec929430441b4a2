/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sending at tc what passes the stack by: the kernel is asked for the way, and its neighbours for the rest. */
#ifndef TRIPLANE_SEND_H
#define TRIPLANE_SEND_H

/* Where a packet goes from here that passes the stack by. */
struct route {
	__u32 ifindex;
	/* 0: not known. */
	__u32 mtu;
};

/* Asks for the way from `from` to `to`: a BPF_FIB_LKUP_RET_*, or less than zero. */
TP_RARE int skb_route(struct __sk_buff *skb, const struct packet *p, const struct tp_addr *from,
		      const struct tp_addr *to, struct route *r)
{
	struct bpf_fib_lookup fib = {};
	long rc;

	if (!p || !from || !to || !r)
		return -1;
	fib.ifindex = skb->ifindex;
	fib.l4_protocol = p->proto;
	/* Any length asks for the path's MTU, which comes back in its place. */
	fib.tot_len = 1;
	if (p->family == 4) {
		fib.family = TP_AF_INET;
		fib.ipv4_src = from->w[0];
		fib.ipv4_dst = to->w[0];
	} else {
		fib.family = TP_AF_INET6;
		__builtin_memcpy(fib.ipv6_src, from, 16);
		__builtin_memcpy(fib.ipv6_dst, to, 16);
	}
	rc = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	r->ifindex = fib.ifindex;
	r->mtu = fib.mtu_result > 1 ? fib.mtu_result : 0;
	return rc;
}

static __always_inline int has_way(int rc)
{
	return rc == BPF_FIB_LKUP_RET_SUCCESS || rc == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* Bytes of one packet on the wire from l3 on: what receive offload has merged goes out in pieces again. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 header = p->l4 - p->l3 + sizeof(struct udphdr);
	__u8 offset = 0;

	if (!skb->gso_size)
		return p->l3_len;
	/* Each as large as its sender has made it. */
	if (skb->gso_size == SKB_BY_FRAGS)
		return 0;
	if (p->proto == IPPROTO_TCP) {
		bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1);
		header = p->l4 - p->l3 + (offset >> 4) * 4;
	}
	return header + skb->gso_size;
}

/* No verdict of tc: the packet cannot go on, and skb->cb[0] says why to tp_stuck. */
#define SKB_STUCK -2

TP_RARE int skb_translate_and_send(struct __sk_buff *skb, struct packet *p, const struct end *from, const struct end *to)
{
	struct route r = {};

	if (!p || !from || !to)
		return TC_ACT_SHOT;
	if (!has_way(skb_route(skb, p, &from->addr, &to->addr, &r))) {
		count(TP_N_NO_ROUTE);
		return TC_ACT_SHOT;
	}
	if (p->ttl <= 1 || (r.mtu && wire_length(skb, p) > r.mtu)) {
		skb->cb[0] = p->ttl <= 1 ? 0 : r.mtu;
		return SKB_STUCK;
	}
	if (skb_set_end(skb, p, from) || skb_set_end(skb, p, to))
		return TC_ACT_SHOT;
	skb_decrement_ttl(skb, p);
	return bpf_redirect_neigh(r.ifindex, NULL, 0, 0);
}

/* Gives a whole connection's packet both of its new ends and sends it on: never to the stack, which would take its
 * source for its own. The tail call stands in the program itself: older kernels (6.1) refuse one in a function whose
 * callers have 256 bytes of stack. */
static __always_inline int skb_send(struct __sk_buff *skb, struct packet *p, const struct end *from,
				    const struct end *to)
{
	int verdict = skb_translate_and_send(skb, p, from, to);

	if (verdict != SKB_STUCK)
		return verdict;
	bpf_tail_call(skb, &tp_tails, TP_TAIL_STUCK);
	return TC_ACT_SHOT;
}

static __always_inline void make_end(struct end *end, int side, const struct tp_addr *addr, __u16 port)
{
	copy_addr(&end->addr, addr);
	end->port = port;
	end->side = side;
}

#endif
