/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting at XDP: straight in the frame, with the change of each sum reckoned here. */
#ifndef TRIPLANE_REWRITE_H
#define TRIPLANE_REWRITE_H

#include "crc32c.h"
#include "csum.h"
#include "parse.h"

/* The addresses and ports that a packet is to have. */
struct tuple {
	const struct tp_addr *src;
	const struct tp_addr *dst;
	__u16 sport;
	__u16 dport;
};

struct frame {
	struct xdp_md *ctx;
	void *data;
	void *end;
};

/* The transport header again, with its bounds checked once more: the verifier forgets what the parser knew. */
static __always_inline void *frame_l4(const struct frame *fr, const struct packet *p)
{
	void *l4 = fr->data + (p->l4 & 0x7ff);
	__u32 need = p->proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);

	if (l4 + sizeof(struct tcphdr) <= fr->end)
		return l4;
	return need == sizeof(struct udphdr) && l4 + sizeof(struct udphdr) <= fr->end ? l4 : NULL;
}

static __always_inline __u64 rewrite_ipv4(struct iphdr *ip, const struct tuple *to)
{
	__u64 diff = 0, check;
	__u16 *ttl_word = (__u16 *)&ip->ttl;
	__u16 ttl_was = *ttl_word;

	diff = csum_replace(diff, ip->saddr, to->src->w[0]);
	diff = csum_replace(diff, ip->daddr, to->dst->w[0]);
	ip->saddr = to->src->w[0];
	ip->daddr = to->dst->w[0];
	ip->ttl--;
	check = csum_replace(diff, ttl_was, *ttl_word);
	ip->check = csum_update(ip->check, check);
	return diff;
}

static __always_inline __u64 rewrite_ipv6(struct ipv6hdr *ip, const struct packet *p, const struct tuple *to)
{
	__u64 diff = csum_replace_addr(0, &p->src, to->src, 6);

	diff = csum_replace_addr(diff, &p->dst, to->dst, 6);
	__builtin_memcpy(&ip->saddr, to->src, 16);
	__builtin_memcpy(&ip->daddr, to->dst, 16);
	ip->hop_limit--;
	return diff;
}

static __always_inline void rewrite_l4(const struct packet *p, void *l4, void *end, __u64 diff,
				       const struct tuple *to)
{
	__u16 *ports = l4;

	diff = csum_replace(diff, p->sport, to->sport);
	diff = csum_replace(diff, p->dport, to->dport);
	ports[0] = to->sport;
	ports[1] = to->dport;
	if (p->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) <= end)
			tcp->check = csum_update(tcp->check, diff);
	} else if (p->proto == IPPROTO_SCTP) {
		struct sctp_header *sctp = l4;

		if ((void *)(sctp + 1) <= end)
			sctp->check ^= sctp_check_change(p, to->sport, to->dport);
	} else {
		struct udphdr *udp = l4;
		__u16 check;

		/* RFC 768: zero says there is none. */
		if (!udp->check)
			return;
		check = csum_update(udp->check, diff);
		udp->check = check ? check : 0xffff;
	}
}

/* Whether the sender left the sum to its device: then only the stack knows how to finish it. */
static __always_inline int looks_partial(const struct packet *p, void *l4, void *end, int family)
{
	__u16 check;

	if (p->proto == IPPROTO_SCTP) {
		struct sctp_header *sctp = l4;

		return (void *)(sctp + 1) > end || !sctp->check;
	}
	if (!tp_knobs.partial_checksums)
		return 0;
	if (p->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return 1;
		check = tcp->check;
	} else {
		check = ((struct udphdr *)l4)->check;
		if (!check)
			return 0;
	}
	return check == csum_pseudo(&p->src, &p->dst, p->l3_len - (p->l4 - p->l3), p->proto, family);
}

#endif
