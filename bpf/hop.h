/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Next hops: asked of the kernel's FIB once, kept by index in connections and backends, and doubted as soon as
 * user space has seen any route, neighbour, link or address change (route_gen). */
#ifndef TRIPLANE_HOP_H
#define TRIPLANE_HOP_H

#include "atomic.h"
#include "frontend.h"
#include "parse.h"

#define TP_AF_INET 2
#define TP_AF_INET6 10
/* What every IPv6 link carries (RFC 8200, 5): larger packets are left to the stack. */
#define TP_MTU_UNKNOWN 1280

static __always_inline struct tp_hop *hop_at(__u32 index)
{
	return bpf_map_lookup_elem(&tp_hops, &index);
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	const __u16 *x = (const __u16 *)from;
	__u16 *y = (__u16 *)to;

	y[0] = x[0];
	y[1] = x[1];
	y[2] = x[2];
}

static __always_inline void hop_refresh(struct tp_hop *hop, const struct bpf_fib_lookup *fib, __u32 gen)
{
	__u32 ifindex = fib->ifindex;
	struct tp_device *device = bpf_map_lookup_elem(&tp_devices, &ifindex);
	struct tp_addr none = {};

	copy_mac(hop->smac, fib->smac);
	hop->flags = device ? device->flags : 0;
	hop->nat4 = device ? device->nat4 : 0;
	copy_addr(&hop->nat6, device ? &device->nat6 : &none);
	hop->gen = gen;
}

/* The record of (ifindex, dmac, mtu), made if need be. Records are never renamed, so an index that a connection
 * holds stays what it was; user space empties the table when it fills up. Returns index + 1, 0: no room. */
static __always_inline __u32 hop_remember(const struct bpf_fib_lookup *fib, __u32 mtu, __u32 gen)
{
	const __u16 *mac = (const __u16 *)fib->dmac;
	__u32 at = (fib->ifindex ^ mac[0] ^ (__u32)mac[1] << 8 ^ (__u32)mac[2] << 16) * 0x9e3779b1;

	at ^= at >> 15;
	for (int try = 0; try < TP_HOP_TRIES; try++) {
		__u32 where = (at + try) & tp_knobs.hop_mask;
		struct tp_hop *hop = hop_at(where);

		if (!hop)
			return 0;
		if (hop->state == TP_LIVE && hop->ifindex == fib->ifindex && hop->mtu == mtu &&
		    same_mac(hop->dmac, fib->dmac)) {
			hop_refresh(hop, fib, gen);
			return where + 1;
		}
		if (hop->state != TP_FREE || !cas32(&hop->state, TP_FREE, TP_BUSY))
			continue;
		hop->ifindex = fib->ifindex;
		copy_mac(hop->dmac, fib->dmac);
		hop->mtu = mtu;
		hop_refresh(hop, fib, gen);
		cas32(&hop->state, TP_BUSY, TP_LIVE);
		return where + 1;
	}
	return 0;
}

static __always_inline __u32 fib_ask(void *ctx, __u32 ifindex, const struct tp_addr *src, const struct tp_addr *dst,
				     __u8 proto, int family, __u32 gen)
{
	struct bpf_fib_lookup fib = {};

	fib.ifindex = ifindex;
	fib.l4_protocol = proto;
	/* Any length asks for the path's MTU, which comes back in its place (since 5.13). */
	fib.tot_len = 1;
	if (family == 4) {
		fib.family = TP_AF_INET;
		fib.ipv4_src = src->w[0];
		fib.ipv4_dst = dst->w[0];
	} else {
		fib.family = TP_AF_INET6;
		__builtin_memcpy(fib.ipv6_src, src, 16);
		__builtin_memcpy(fib.ipv6_dst, dst, 16);
	}
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return 0;
	return hop_remember(&fib, fib.mtu_result > 1 ? fib.mtu_result : TP_MTU_UNKNOWN, gen);
}

/* A hop that is known and still true, or NULL. */
static __always_inline struct tp_hop *hop_if_true(__u32 hop, __u32 gen)
{
	struct tp_hop *h;

	if (!hop)
		return NULL;
	h = hop_at(hop - 1);
	return h && h->gen == gen ? h : NULL;
}

/* The address that masquerade gives to what leaves by this hop. Not 0: none, nothing can be masqueraded. */
static __always_inline int hop_nat_addr(const struct tp_hop *hop, struct tp_addr *addr, int family)
{
	if (family == 4) {
		addr->w[0] = hop->nat4;
		addr->w[1] = addr->w[2] = addr->w[3] = 0;
	} else {
		copy_addr(addr, &hop->nat6);
	}
	return no_addr(addr);
}

#endif
