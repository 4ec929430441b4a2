/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Refusing aloud: a TCP reset (RFC 9293, 3.10.7.1) or an ICMP port unreachable (RFC 792; RFC 4443, 3.1), made out
 * of the packet that is refused and sent back where it came from.
 *
 * The packet's checksum may have been left to the device, which then will still sum from the old transport header
 * on and write where the old checksum was. So a reset stands where the TCP header stood and has such a sum again;
 * before an ICMP message takes a packet's place the kernel is made to forget: see sum_here(). */
#ifndef TRIPLANE_REJECT_H
#define TRIPLANE_REJECT_H

struct reset {
	__be16 sport, dport;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

static __always_inline void swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], turned[12];

	if (bpf_skb_load_bytes(skb, 0, macs, 12))
		return;
	__builtin_memcpy(turned, macs + 6, 6);
	__builtin_memcpy(turned + 6, macs, 6);
	bpf_skb_store_bytes(skb, 0, turned, 12, 0);
}

/* A fresh IP header in the place of the old one: from p's destination to its source, `length` bytes behind it. */
static __always_inline void write_ip(struct __sk_buff *skb, const struct packet *p, __u8 proto, __u16 length)
{
	if (p->family == 4) {
		struct iphdr ip = {
			.version = 4, .ihl = 5, .ttl = 64, .protocol = proto,
			.tot_len = bpf_htons(sizeof(ip) + length), .frag_off = bpf_htons(0x4000),
			.saddr = p->dst.w[0], .daddr = p->src.w[0],
		};

		ip.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
		bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
	} else {
		struct ipv6hdr ip = {
			.version = 6, .nexthdr = proto, .hop_limit = 64, .payload_len = bpf_htons(length),
		};

		__builtin_memcpy(&ip.saddr, &p->dst, 16);
		__builtin_memcpy(&ip.daddr, &p->src, 16);
		bpf_skb_store_bytes(skb, p->l3, &ip, sizeof(ip), 0);
	}
}

static __always_inline int is_partial(const struct packet *p, __u16 check, __u32 l4_len)
{
	return check == csum_pseudo(&p->src, &p->dst, l4_len, p->proto, p->family);
}

/* Whether the packet's sum looks as if it were left to the device. Less than 0: there is no packet. */
static __always_inline int skb_is_partial(struct __sk_buff *skb, const struct packet *p)
{
	__u16 check[2] = {};

	if (bpf_skb_load_bytes(skb, check_offset(p), check, p->proto == IPPROTO_SCTP ? 4 : 2))
		return -1;
	if (p->proto == IPPROTO_SCTP)
		return !check[0] && !check[1];
	return is_partial(p, check[0], p->l3_len - (p->l4 - p->l3));
}

static __always_inline void fill_reset(struct reset *r, const struct reset *to, __u32 l4_len)
{
	__u32 consumed = l4_len - (to->offset >> 4) * 4;

	if (to->flags & TCP_SYN)
		consumed++;
	if (to->flags & TCP_FIN)
		consumed++;
	r->sport = to->dport;
	r->dport = to->sport;
	r->offset = 5 << 4;
	if (to->flags & TCP_ACK) {
		r->seq = to->ack;
		r->flags = TCP_RST;
	} else {
		r->ack = bpf_htonl(bpf_ntohl(to->seq) + consumed);
		r->flags = TCP_RST | TCP_ACK;
	}
}

/* An IP header without options, so that the answer's transport header comes where the packet's was. */
static __always_inline int plain_header(const struct packet *p)
{
	return p->l4 - p->l3 == (p->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

/* Back to where the packet came from: onto the wire, or, for the node's own, in again. */
static __always_inline int send_back(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex, skb->ingress_ifindex ? 0 : BPF_F_INGRESS);
}

TP_RARE int reject_tcp(struct __sk_buff *skb, const struct packet *p)
{
	struct reset was, r = {};
	__u32 l4_len;
	__u16 pseudo;
	int partial;

	if (!p || bpf_skb_load_bytes(skb, p->l4, &was, sizeof(was)) || (was.flags & TCP_RST) || !plain_header(p))
		return TC_ACT_SHOT;
	l4_len = p->l3_len - (p->l4 - p->l3);
	partial = is_partial(p, was.check, l4_len);
	fill_reset(&r, &was, l4_len);
	if (bpf_skb_change_tail(skb, p->l4 + sizeof(r), 0))
		return TC_ACT_SHOT;
	pseudo = csum_pseudo(&p->dst, &p->src, sizeof(r), IPPROTO_TCP, p->family);
	r.check = partial ? pseudo : ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&r, sizeof(r), pseudo));
	bpf_skb_store_bytes(skb, p->l4, &r, sizeof(r), 0);
	write_ip(skb, p, IPPROTO_TCP, sizeof(r));
	swap_macs(skb);
	count(TP_N_REJECTED);
	return send_back(skb);
}

struct icmp_error {
	__u8 type, code;
	__be16 check;
	__be32 rest;
	__u8 quote[TP_QUOTE_BYTES];
};

/* What an ICMP error says, and who says it. */
struct icmp_reason {
	struct tp_addr from;
	__be32 rest;
	__u8 type, code;
	__u16 spare;
};

/* Zeroes what lies behind `length` so that sums over the whole array are right. */
static __always_inline __u32 quote_length(const struct packet *p)
{
	__u32 length = p->l3_len < TP_QUOTE_BYTES ? p->l3_len : TP_QUOTE_BYTES;

	return length & ~1u;
}

/* More than lies before any transport header that plain_header() allows. */
#define FORGOTTEN 96

/* Makes the frame `size` bytes long and, where its sum was left to the device, ours: the place where the device was to
 * begin is moved out of the frame, and the next write that corrects sums finds it gone (kernel:
 * __skb_postpull_rcsum()). What is in the frame means nothing afterwards, but for Ethernet's header. */
static __always_inline int sum_here(struct __sk_buff *skb, __u32 size, int partial)
{
	if (!partial)
		return bpf_skb_change_tail(skb, size, 0);
	if (bpf_skb_change_tail(skb, size + FORGOTTEN, 0))
		return -1;
	return bpf_skb_adjust_room(skb, -FORGOTTEN, BPF_ADJ_ROOM_MAC, 0);
}

/* Turns the packet into an ICMP error about itself. */
TP_RARE int answer_icmp(struct __sk_buff *skb, const struct packet *p, const struct icmp_reason *why)
{
	struct icmp_error u = {};
	struct packet back = {};
	__u32 quote, length;
	__u64 sum = 0;
	int partial;

	if (!p || !why || !plain_header(p))
		return TC_ACT_SHOT;
	partial = skb_is_partial(skb, p);
	if (partial < 0)
		return TC_ACT_SHOT;
	quote = quote_length(p);
	keep(quote);
	if (quote < 28 || quote > TP_QUOTE_BYTES || bpf_skb_load_bytes(skb, p->l3, u.quote, quote))
		return TC_ACT_SHOT;
	length = 8 + quote;
	keep(length);
	u.type = why->type;
	u.code = why->code;
	u.rest = why->rest;
	if (p->family == 6)
		sum = csum_pseudo(&why->from, &p->src, length, IPPROTO_ICMPV6, 6);
	u.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&u, sizeof(u), sum));
	if (sum_here(skb, p->l4 + length, partial))
		return TC_ACT_SHOT;
	if (length < 36 || length > sizeof(u) || bpf_skb_store_bytes(skb, p->l4, &u, length, BPF_F_RECOMPUTE_CSUM))
		return TC_ACT_SHOT;
	copy_addr(&back.src, &p->src);
	copy_addr(&back.dst, &why->from);
	back.family = p->family;
	back.l3 = p->l3;
	write_ip(skb, &back, p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, length);
	swap_macs(skb);
	return send_back(skb);
}

static __always_inline int reject_datagram(struct __sk_buff *skb, const struct packet *p)
{
	struct icmp_reason why = {};

	why.type = p->family == 4 ? ICMP_DEST_UNREACH : 1;
	why.code = p->family == 4 ? 3 : 4;
	copy_addr(&why.from, &p->dst);
	count(TP_N_REJECTED);
	return answer_icmp(skb, p, &why);
}

SEC("tc")
int tp_reject(struct __sk_buff *skb)
{
	struct packet p = {};

	if (skb_parse(skb, &p) != PACKET_FLOW)
		return TC_ACT_SHOT;
	return p.proto == IPPROTO_TCP ? reject_tcp(skb, &p) : reject_datagram(skb, &p);
}

/* The address of the device that the packet came by: who says that it cannot go on (RFC 1812, 4.3.2.4). */
static __always_inline void answer_from(struct __sk_buff *skb, const struct packet *p, struct tp_addr *from)
{
	__u32 ifindex = skb->ifindex;
	struct tp_device *device = bpf_map_lookup_elem(&tp_devices, &ifindex);

	copy_addr(from, &p->dst);
	if (device && p->family == 4 && device->nat4)
		from->w[0] = device->nat4;
	if (device && p->family == 6 && !no_addr(&device->nat6))
		copy_addr(from, &device->nat6);
}

/* A packet of a whole connection that cannot go on, untouched so far: cb[0] is the MTU that it exceeds, 0: its time
 * is over. Fragments are not answered (RFC 1122, 3.2.2). */
SEC("tc")
int tp_stuck(struct __sk_buff *skb)
{
	struct icmp_reason why = {};
	__u32 mtu = skb->cb[0];
	struct packet p = {};

	if (skb_parse(skb, &p) != PACKET_FLOW)
		return TC_ACT_SHOT;
	if (p.family == 4) {
		why.type = mtu ? ICMP_DEST_UNREACH : ICMP_TIME_EXCEEDED;
		why.code = mtu ? 4 : 0;
	} else {
		why.type = mtu ? 2 : 3;
	}
	why.rest = bpf_htonl(mtu);
	answer_from(skb, &p, &why.from);
	count(TP_N_ICMP_ANSWERED);
	return answer_icmp(skb, &p, &why);
}

#endif
