/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a socket buffer to a struct packet. */
#ifndef TRIPLANE_SKB_H
#define TRIPLANE_SKB_H

#include "ends.h"

/* skb->gso_size of SCTP packets that are still to be made, one of each skb in the list (GSO_BY_FRAGS): pulling would
 * take bytes out of the first of them, and their headers are linear anyway. */
#define SKB_BY_FRAGS 0xffff

/* Parses the skb's own headers; those that are not in its linear part are pulled there first. */
static __always_inline int skb_parse(struct __sk_buff *skb, struct packet *p)
{
	__u32 want = skb->len < 150 ? skb->len : 150;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 l3 = 0;
	__u16 proto;

	if (data + want > end && skb->gso_size != SKB_BY_FRAGS) {
		if (bpf_skb_pull_data(skb, want))
			return PACKET_FOREIGN;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	proto = parse_ethernet(data, end, &l3);
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, data, end, l3, skb->len);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, data, end, l3, skb->len);
	return PACKET_FOREIGN;
}

/* The transport header at p->l4, read by the helper; `total`: where the datagram ends. */
static __always_inline int skb_transport(struct __sk_buff *skb, struct packet *p)
{
	__u8 header[SCTP_MIN] = {};
	__u32 total = p->l3 + p->l3_len;
	__u32 need = p->proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);

	if (p->proto == IPPROTO_ICMPV6) {
		if (p->l4 + 8 > total || bpf_skb_load_bytes(skb, p->l4, header, 8))
			return PACKET_OTHER;
		return is_icmp6_error(header[0]) ? PACKET_ICMP_ERROR : PACKET_OTHER;
	}
	if (p->proto == IPPROTO_SCTP)
		need = SCTP_MIN;
	else if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return PACKET_OTHER;
	if (p->l4 + need > total)
		return PACKET_FOREIGN;
	if (bpf_skb_load_bytes(skb, p->l4, header, p->proto == IPPROTO_UDP ? sizeof(struct udphdr) : 14))
		return PACKET_FOREIGN;
	p->sport = *(__u16 *)&header[0];
	p->dport = *(__u16 *)&header[2];
	p->tcp_flags = p->proto == IPPROTO_TCP ? header[13] : 0;
	if (p->proto == IPPROTO_SCTP)
		p->tcp_flags = sctp_as_tcp(header[sizeof(struct sctp_header)]);
	return PACKET_FLOW;
}

static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS || next == IPPROTO_ROUTING;
}

/* Walks IPv6 extension headers from p->l4 on; leaves p->proto and p->l4 at what follows them. Options, and routing
 * headers with no segment left, are skipped; one that has some is foreign, as its destination is not the last. */
TP_RARE int skb_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u8 ext[8];

	if (!p)
		return PACKET_FOREIGN;
	for (int i = 0; i < TP_EXTENSIONS; i++) {
		if (p->proto != IPPROTO_FRAGMENT && !is_extension(p->proto))
			return PACKET_FLOW;
		if (p->l4 > 1024 || bpf_skb_load_bytes(skb, p->l4, ext, 8))
			return PACKET_FOREIGN;
		if (p->proto == IPPROTO_FRAGMENT) {
			__u16 where = bpf_ntohs(*(__u16 *)&ext[2]);

			p->fragment_id = *(__u32 *)&ext[4];
			p->proto = ext[0];
			p->l4 += 8;
			/* An atomic fragment (RFC 6946) is a whole datagram. */
			if (!(where & 0xfff9))
				return PACKET_FLOW;
			p->first_fragment = !(where & 0xfff8);
			return PACKET_FRAGMENT;
		}
		if (p->proto == IPPROTO_ROUTING && ext[3])
			return PACKET_FOREIGN;
		p->proto = ext[0];
		p->l4 += (ext[1] + 1) * 8;
	}
	return PACKET_FOREIGN;
}

/* The ports of a fragment: the first one has and leaves them, the others find them. */
TP_RARE int skb_fragment(struct __sk_buff *skb, struct packet *p)
{
	struct tp_fragment_key key = {};
	struct tp_fragment ports = {}, *known;

	if (!p)
		return PACKET_FOREIGN;
	copy_addr(&key.src, &p->src);
	copy_addr(&key.dst, &p->dst);
	key.id = p->fragment_id;
	key.proto = p->proto;
	if (p->first_fragment) {
		if (skb_transport(skb, p) != PACKET_FLOW)
			return PACKET_FOREIGN;
		ports.sport = p->sport;
		ports.dport = p->dport;
		bpf_map_update_elem(&tp_fragments, &key, &ports, BPF_ANY);
		return PACKET_FLOW;
	}
	known = bpf_map_lookup_elem(&tp_fragments, &key);
	if (!known) {
		count(TP_N_FRAGMENT_LOST);
		return PACKET_FOREIGN;
	}
	p->sport = known->sport;
	p->dport = known->dport;
	p->tcp_flags = TCP_ACK;
	p->headless = 1;
	return PACKET_FLOW;
}

/* What skb_parse() leaves aside: fragments and extension headers. */
static __always_inline int skb_parse_rare(struct __sk_buff *skb, struct packet *p)
{
	int kind = skb_parse(skb, p);

	if (kind == PACKET_EXTENDED) {
		kind = skb_extensions(skb, p);
		if (kind == PACKET_FLOW)
			kind = skb_transport(skb, p);
	}
	if (kind == PACKET_FRAGMENT)
		kind = skb_fragment(skb, p);
	return kind;
}

#endif
