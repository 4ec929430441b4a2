/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting at tc. A checksum may be partial there (the device is to finish it), complete (the driver has summed
 * the whole packet) or final; only the kernel knows which.
 *
 * The usual packet, with nothing between its IP header and its ports, has its headers read, changed and stored at once:
 * a call to the kernel costs more than all of the work in it. Whether the sum is partial the kernel's own struct says
 * (since 6.2); a complete one BPF_F_RECOMPUTE_CSUM keeps right. No direct writes: for those the verifier puts a check for
 * cloned buffers before the whole program, which would cost every packet that is not ours.
 *
 * Any other packet, and with older kernels every one, is changed field by field by the helpers that know all of this:
 * - addresses change the pseudo header: BPF_F_PSEUDO_HDR; ports do not;
 * - with IPv6 the kernel takes a pseudo header's change out of a complete sum although address and checksum
 *   cancel out in it (fixed in 6.16 by BPF_F_IPV6): BPF_F_RECOMPUTE_CSUM on the address puts it in again;
 * - SCTP has no pseudo header, and its sum is of another kind, of which bpf_l4_csum_replace knows nothing: where it
 *   is left to the device (zero) it stays so. */
#ifndef TRIPLANE_ENDS_H
#define TRIPLANE_ENDS_H

#include <bpf/bpf_core_read.h>

#include "crc32c.h"
#include "csum.h"
#include "frontend.h"

enum side {
	SIDE_SRC = 0,
	SIDE_DST,
};

/* One end of a packet, to be replaced. */
struct end {
	struct tp_addr addr;
	__u16 port;
	__u16 spare;
	__u32 side;
};

static __always_inline __u32 addr_offset(__u32 l3, int family, int side)
{
	if (family == 4)
		return l3 + (side == SIDE_SRC ? 12 : 16);
	return l3 + (side == SIDE_SRC ? 8 : 24);
}

static __always_inline __u32 check_offset(const struct packet *p)
{
	if (p->proto == IPPROTO_SCTP)
		return p->l4 + offsetof(struct sctp_header, check);
	return p->l4 + (p->proto == IPPROTO_TCP ? 16 : 6);
}

/* The sum of the change of an address, for the helpers that take one. */
static __always_inline __u32 addr_change(const struct tp_addr *from, const struct tp_addr *to, int family)
{
	return csum_fold32(csum_replace_addr(0, from, to, family));
}

static __always_inline void store_addr(struct __sk_buff *skb, __u32 l3, int side, const struct tp_addr *from,
				       const struct tp_addr *to, int family)
{
	__u32 at = addr_offset(l3, family, side);

	if (family == 4) {
		bpf_l3_csum_replace(skb, l3 + 10, from->w[0], to->w[0], 4);
		bpf_skb_store_bytes(skb, at, to, 4, 0);
	} else {
		bpf_skb_store_bytes(skb, at, to, 16, BPF_F_RECOMPUTE_CSUM);
	}
}

/* SCTP's port and sum. Not 0: impossible, as the sum is over a datagram of which this is the first fragment. */
static __always_inline int sctp_set_port(struct __sk_buff *skb, const struct packet *p, const struct end *to)
{
	int src = to->side == SIDE_SRC;
	__u32 check;

	if (p->first_fragment || bpf_skb_load_bytes(skb, check_offset(p), &check, 4)) {
		count(TP_N_FRAGMENT_LOST);
		return -1;
	}
	if (check) {
		check ^= sctp_check_change(p, src ? to->port : p->sport, src ? p->dport : to->port);
		bpf_skb_store_bytes(skb, check_offset(p), &check, 4, BPF_F_RECOMPUTE_CSUM);
	}
	return bpf_skb_store_bytes(skb, p->l4 + (src ? 0 : 2), &to->port, 2, BPF_F_RECOMPUTE_CSUM);
}

/* Changes an end by the helpers, one field at a time: whatever the packet is, and wherever its headers lie. */
TP_RARE int skb_set_end_far(struct __sk_buff *skb, const struct packet *p, const struct end *to)
{
	const struct tp_addr *addr;
	__u64 flags;
	__u16 port;

	if (!p || !to)
		return -1;
	addr = to->side == SIDE_SRC ? &p->src : &p->dst;
	port = to->side == SIDE_SRC ? p->sport : p->dport;
	if (p->proto == IPPROTO_SCTP) {
		if (!p->headless && port != to->port && sctp_set_port(skb, p, to))
			return -1;
	} else if (!p->headless) {
		flags = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
		bpf_l4_csum_replace(skb, check_offset(p), 0, addr_change(addr, &to->addr, p->family),
				    flags | BPF_F_PSEUDO_HDR);
		if (port != to->port) {
			bpf_l4_csum_replace(skb, check_offset(p), port, to->port, flags | 2);
			bpf_skb_store_bytes(skb, p->l4 + (to->side == SIDE_SRC ? 0 : 2), &to->port, 2, 0);
		}
	}
	store_addr(skb, p->l3, to->side, addr, &to->addr, p->family);
	return 0;
}

/* A packet's headers from where a translation changes them on. */
struct headers {
	union {
		struct {
			__u8 none[20];
			__u8 ttl;
			__u8 proto;
			__u16 check;
			__u32 src;
			__u32 dst;
		} v4;
		struct {
			struct tp_addr src;
			struct tp_addr dst;
		} v6;
	};
	__u16 sport;
	__u16 dport;
	union {
		/* The last of UDP's; TCP has 12 bytes more. */
		struct {
			__u16 len;
			__u16 check;
		} udp;
		struct {
			__u8 kept[12];
			__u16 check;
			__u16 urgent;
		} tcp;
	};
};
TP_STATIC_ASSERT(sizeof(struct headers) == 52, "IPv6 addresses and a TCP header");
/* Without it the compiler takes a packet's headers for bytes, and copies each of them. */
#define WORDS(headers) __builtin_assume_aligned(headers, 4)
#define HEADERS_BEFORE_IPV4 offsetof(struct headers, v4.ttl)
#define HEADERS_BEHIND_UDP (sizeof(struct headers) - offsetof(struct headers, udp) - 4)

/* The kernel's struct sk_buff, which is what a program at tc gets. */
struct sk_buff___tp {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));
/* <linux/skbuff.h> */
#define CHECKSUM_PARTIAL 3

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* Whether the transport's checksum is left to the device: the field then has the pseudo header's sum. */
static __always_inline int skb_sum_is_partial(struct __sk_buff *skb)
{
	const struct sk_buff___tp *kernel = bpf_cast_to_kern_ctx(skb);

	return BPF_CORE_READ_BITFIELD(kernel, ip_summed) == CHECKSUM_PARTIAL;
}

/* The transport's checksum after addresses and ports changed by so much. */
static __always_inline __u16 transport_check(__u16 check, __u64 addresses, __u64 ports, int partial)
{
	return partial ? csum_fold(check + addresses) : csum_update(check, addresses + ports);
}

/* Another end in the headers; `partial`: the sum is left to the device. */
static __always_inline void headers_set_end(struct headers *h, const struct packet *p, const struct end *to,
					    int family, int partial)
{
	const int src = to->side == SIDE_SRC;
	__u16 *port = src ? &h->sport : &h->dport;
	__u64 ports = csum_replace(0, *port, to->port), addresses;

	*port = to->port;
	if (family == 4) {
		__u32 *addr = src ? &h->v4.src : &h->v4.dst;

		addresses = csum_replace(0, *addr, to->addr.w[0]);
		*addr = to->addr.w[0];
		h->v4.check = csum_update(h->v4.check, addresses);
	} else {
		struct tp_addr *addr = src ? &h->v6.src : &h->v6.dst;

		addresses = csum_replace_addr(0, addr, &to->addr, 6);
		copy_addr(addr, &to->addr);
	}
	if (p->proto == IPPROTO_TCP) {
		h->tcp.check = transport_check(h->tcp.check, addresses, ports, partial);
	} else if (h->udp.check) {
		/* RFC 768: zero says there is none. */
		h->udp.check = transport_check(h->udp.check, addresses, ports, partial);
		if (!h->udp.check)
			h->udp.check = 0xffff;
	}
}

/* Reads the headers, changes an end and writes them back, at once. Not 0: they are not all in the linear part. */
static __always_inline int skb_headers(struct __sk_buff *skb, const struct packet *p, const struct end *to,
				       int family)
{
	const __u32 before = family == 4 ? HEADERS_BEFORE_IPV4 : 0;
	const __u32 at = (p->l3 & 0x1f) + (family == 4 ? offsetof(struct iphdr, ttl) : offsetof(struct ipv6hdr, saddr));
	const __u32 length = sizeof(struct headers) - before;
	void *data = (void *)(long)skb->data + at, *end = (void *)(long)skb->data_end;
	int partial = skb_sum_is_partial(skb);
	struct headers h;

	if (p->proto == IPPROTO_TCP) {
		if (data + length > end)
			return -1;
		__builtin_memcpy((void *)&h + before, WORDS(data), length);
		headers_set_end(&h, p, to, family, partial);
		return bpf_skb_store_bytes(skb, at, (void *)&h + before, length, BPF_F_RECOMPUTE_CSUM);
	}
	if (data + length - HEADERS_BEHIND_UDP > end)
		return -1;
	__builtin_memcpy((void *)&h + before, WORDS(data), length - HEADERS_BEHIND_UDP);
	headers_set_end(&h, p, to, family, partial);
	return bpf_skb_store_bytes(skb, at, (void *)&h + before, length - HEADERS_BEHIND_UDP, BPF_F_RECOMPUTE_CSUM);
}

/* skb_set_end_far() for the usual packet, by one call to the kernel. Not 0: it is another one. */
TP_RARE int skb_set_end_near(struct __sk_buff *skb, const struct packet *p, const struct end *to)
{
	if (!tp_knobs.has_kernel_context || !p || !to)
		return -1;
	if (p->headless || p->first_fragment || p->proto == IPPROTO_SCTP)
		return -1;
	if (p->family == 4)
		return p->l4 == p->l3 + sizeof(struct iphdr) ? skb_headers(skb, p, to, 4) : -1;
	return p->l4 == p->l3 + sizeof(struct ipv6hdr) ? skb_headers(skb, p, to, 6) : -1;
}

/* Gives p another source or destination, in the skb and in *p. Not 0: it could not; the packet is to be dropped. */
static __always_inline int skb_set_end(struct __sk_buff *skb, struct packet *p, const struct end *to)
{
	if (skb_set_end_near(skb, p, to) && skb_set_end_far(skb, p, to))
		return -1;
	if (to->side == SIDE_SRC) {
		copy_addr(&p->src, &to->addr);
		p->sport = to->port;
	} else {
		copy_addr(&p->dst, &to->addr);
		p->dport = to->port;
	}
	return 0;
}

static __always_inline int set_end(struct __sk_buff *skb, struct packet *p, int side, const struct tp_addr *addr,
				   __u16 port)
{
	struct end to = { .port = port, .side = side };

	copy_addr(&to.addr, addr);
	return skb_set_end(skb, p, &to);
}

/* One hop further. */
static __always_inline void skb_decrement_ttl(struct __sk_buff *skb, const struct packet *p)
{
	__u8 was[2], now[2];

	if (p->family == 6) {
		now[0] = p->ttl - 1;
		bpf_skb_store_bytes(skb, p->l3 + 7, now, 1, BPF_F_RECOMPUTE_CSUM);
		return;
	}
	was[0] = p->ttl;
	was[1] = p->proto;
	now[0] = p->ttl - 1;
	now[1] = p->proto;
	bpf_l3_csum_replace(skb, p->l3 + 10, *(__u16 *)was, *(__u16 *)now, 2);
	bpf_skb_store_bytes(skb, p->l3 + 8, now, 1, 0);
}

#endif
