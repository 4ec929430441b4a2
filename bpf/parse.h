/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to a struct packet. Each helper checks its own bounds; whatever is malformed, truncated or of a
 * length that lies is not ours: it goes to the stack untouched, which drops it as it always did. */
#ifndef TRIPLANE_PARSE_H
#define TRIPLANE_PARSE_H

#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

enum packet_kind {
	/* Not to be touched. */
	PACKET_FOREIGN = 0,
	/* TCP, UDP or SCTP with its whole transport header at l4. */
	PACKET_FLOW,
	/* An ICMP error about another packet, which is quoted behind the 8 bytes at l4. */
	PACKET_ICMP_ERROR,
	/* A fragment of a datagram; the first one has its transport header at l4. */
	PACKET_FRAGMENT,
	/* Any other protocol: addresses are known, ports are not. */
	PACKET_OTHER,
	/* IPv6 with extension headers, not walked yet. */
	PACKET_EXTENDED,
};

/* <linux/icmp.h> wants the C library's headers; RFC 792 has not changed. */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Chunk types (RFC 9260, 3.2). */
#define SCTP_INIT 1
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_SHUTDOWN_COMPLETE 14

#define IP_MORE 0x2000
#define IP_OFFSET 0x1fff

struct packet {
	struct tp_addr src;
	struct tp_addr dst;
	__u16 sport;
	__u16 dport;
	__u8 proto;
	/* RFC 9293 control bits; what means the same to SCTP (sctp_as_tcp()); 0 for UDP. */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 first_fragment;
	__u32 family;
	/* Offsets from the start of the frame. */
	__u32 l3;
	__u32 l4;
	/* Bytes from l3 to the end of the datagram, as its header says. */
	__u32 l3_len;
	__u32 fragment_id;
	/* A fragment but the first: ports are known, but not in the packet. */
	__u32 headless;
};

struct sctp_header {
	__be16 source;
	__be16 dest;
	__be32 tag;
	/* CRC32c, little endian. Zero: its sender has left it to the device. One in 2^32 is zero by itself, and is
	 * then taken for such a one. */
	__u32 check;
};

/* With the header of the first chunk, without which there is no packet (RFC 9260, 3). */
#define SCTP_MIN (sizeof(struct sctp_header) + 4)

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

struct extension {
	__u8 next;
	__u8 len;
	__u8 type;
	__u8 left;
};

struct fragment_extension {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* The protocol behind Ethernet and VLAN tags, and where it starts; 0 if there is none. */
static __always_inline __u16 parse_ethernet(void *data, void *end, __u32 *l3)
{
	struct ethhdr *eth = data;
	__u32 at = sizeof(*eth);
	__u16 proto;

	if ((void *)(eth + 1) > end)
		return 0;
	proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < TP_VLAN_TAGS; i++) {
		struct vlan_tag *tag = data + at;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return 0;
		proto = tag->proto;
		at += sizeof(*tag);
	}
	*l3 = at;
	return proto;
}

static __always_inline int parse_tcp(struct packet *p, void *l4, void *end, __u32 l4_len)
{
	struct tcphdr *tcp = l4;
	__u32 header;

	if ((void *)(tcp + 1) > end)
		return PACKET_FOREIGN;
	header = tcp->doff * 4;
	if (header < sizeof(*tcp) || header > l4_len)
		return PACKET_FOREIGN;
	p->sport = tcp->source;
	p->dport = tcp->dest;
	p->tcp_flags = ((__u8 *)l4)[13];
	return PACKET_FLOW;
}

static __always_inline int parse_udp(struct packet *p, void *l4, void *end, __u32 l4_len)
{
	struct udphdr *udp = l4;
	__u32 length;

	if ((void *)(udp + 1) > end)
		return PACKET_FOREIGN;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || length > l4_len)
		return PACKET_FOREIGN;
	p->sport = udp->source;
	p->dport = udp->dest;
	p->tcp_flags = 0;
	return PACKET_FLOW;
}

/* The first chunk in TCP's words: all that asks for, or ends, an association stands first or alone. */
static __always_inline __u8 sctp_as_tcp(__u8 chunk)
{
	if (chunk == SCTP_INIT)
		return TCP_SYN;
	if (chunk == SCTP_ABORT || chunk == SCTP_SHUTDOWN_COMPLETE)
		return TCP_RST;
	return chunk == SCTP_SHUTDOWN || chunk == SCTP_SHUTDOWN_ACK ? TCP_FIN | TCP_ACK : TCP_ACK;
}

static __always_inline int parse_sctp(struct packet *p, void *l4, void *end, __u32 l4_len)
{
	struct sctp_header *sctp = l4;

	if (l4 + SCTP_MIN > end || l4_len < SCTP_MIN)
		return PACKET_FOREIGN;
	p->sport = sctp->source;
	p->dport = sctp->dest;
	p->tcp_flags = sctp_as_tcp(((__u8 *)l4)[sizeof(*sctp)]);
	return PACKET_FLOW;
}

/* The transport header at l4, whole as far as the datagram's own length goes. */
static __always_inline int parse_transport(struct packet *p, void *l4, void *end, __u32 l4_len)
{
	if (p->proto == IPPROTO_TCP)
		return parse_tcp(p, l4, end, l4_len);
	if (p->proto == IPPROTO_UDP)
		return parse_udp(p, l4, end, l4_len);
	return p->proto == IPPROTO_SCTP ? parse_sctp(p, l4, end, l4_len) : PACKET_OTHER;
}

static __always_inline int is_icmp4_error(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/* Errors have types below 128 (RFC 4443, 2.1). */
static __always_inline int is_icmp6_error(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* `size`: bytes of the frame, linear or not; `data`..`end` may be less of it. */
static __always_inline int parse_ipv4(struct packet *p, void *data, void *end, __u32 l3, __u32 size)
{
	struct iphdr *ip = data + l3;
	__u32 header, length;
	__u16 frag;
	__u8 *l4;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return PACKET_FOREIGN;
	header = ip->ihl * 4;
	length = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || length < header || l3 + length > size)
		return PACKET_FOREIGN;
	p->family = 4;
	p->src.w[0] = ip->saddr;
	p->dst.w[0] = ip->daddr;
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->l3 = l3;
	p->l4 = l3 + header;
	p->l3_len = length;
	p->first_fragment = 0;
	frag = bpf_ntohs(ip->frag_off);
	if (frag & (IP_MORE | IP_OFFSET)) {
		p->fragment_id = ip->id;
		p->first_fragment = !(frag & IP_OFFSET);
		return PACKET_FRAGMENT;
	}
	l4 = data + l3 + header;
	if (p->proto == IPPROTO_ICMP) {
		if (length < header + 8 || (void *)(l4 + 8) > end)
			return PACKET_OTHER;
		return is_icmp4_error(l4[0]) ? PACKET_ICMP_ERROR : PACKET_OTHER;
	}
	return parse_transport(p, l4, end, length - header);
}

/* Leaves p->proto at the first header behind the fixed one. PACKET_EXTENDED: an extension header that is for
 * skb_extensions() (tc) to walk. */
static __always_inline int parse_ipv6(struct packet *p, void *data, void *end, __u32 l3, __u32 size)
{
	struct ipv6hdr *ip = data + l3;
	__u8 *l4 = (__u8 *)(ip + 1);
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return PACKET_FOREIGN;
	length = bpf_ntohs(ip->payload_len);
	if (l3 + sizeof(*ip) + length > size)
		return PACKET_FOREIGN;
	p->family = 6;
	__builtin_memcpy(&p->src, &ip->saddr, 16);
	__builtin_memcpy(&p->dst, &ip->daddr, 16);
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->l3 = l3;
	p->l3_len = sizeof(*ip) + length;
	p->l4 = l3 + sizeof(*ip);
	p->first_fragment = 0;
	if (p->proto == IPPROTO_ICMPV6) {
		if (length < 8 || (void *)(l4 + 8) > end)
			return PACKET_OTHER;
		return is_icmp6_error(l4[0]) ? PACKET_ICMP_ERROR : PACKET_OTHER;
	}
	if (p->proto == IPPROTO_HOPOPTS || p->proto == IPPROTO_DSTOPTS || p->proto == IPPROTO_ROUTING ||
	    p->proto == IPPROTO_FRAGMENT)
		return PACKET_EXTENDED;
	return parse_transport(p, l4, end, length);
}

static __always_inline int parse_ip(struct packet *p, void *data, void *end, __u32 l3, __u32 size, int family)
{
	return family == 4 ? parse_ipv4(p, data, end, l3, size) : parse_ipv6(p, data, end, l3, size);
}

#endif
