/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors about translated packets (RFC 5508, 4.2): the quoted packet and the outer addresses are translated
 * as the packet's own were, the other way round, half of it on each side of netfilter. */
#ifndef TRIPLANE_ICMP_H
#define TRIPLANE_ICMP_H

/* Bytes of the ICMP header before the quoted datagram. */
#define ICMP_HEADER 8

/* The quoted packet; offsets are from the start of the frame. */
static __always_inline int quoted_parse(struct __sk_buff *skb, const struct packet *p, struct packet *q)
{
	__u8 header[40];
	__u8 ports[4];

	q->l3 = p->l4 + ICMP_HEADER;
	q->family = p->family;
	if (p->family == 4) {
		if (bpf_skb_load_bytes(skb, q->l3, header, 20) || (header[0] & 0xf0) != 0x40)
			return PACKET_FOREIGN;
		/* A later fragment says nothing of ports. */
		if (header[7] || (header[6] & 0x1f))
			return PACKET_FOREIGN;
		q->proto = header[9];
		q->l4 = q->l3 + (header[0] & 15) * 4;
		q->l3_len = header[2] << 8 | header[3];
		q->first_fragment = (header[6] & 0x20) != 0;
		q->src.w[0] = *(__u32 *)&header[12];
		q->dst.w[0] = *(__u32 *)&header[16];
	} else {
		if (bpf_skb_load_bytes(skb, q->l3, header, 40))
			return PACKET_FOREIGN;
		q->proto = header[6];
		q->l4 = q->l3 + 40;
		q->l3_len = 40 + (header[4] << 8 | header[5]);
		__builtin_memcpy(&q->src, &header[8], 16);
		__builtin_memcpy(&q->dst, &header[24], 16);
	}
	if (q->proto != IPPROTO_TCP && q->proto != IPPROTO_UDP && q->proto != IPPROTO_SCTP)
		return PACKET_FOREIGN;
	if (bpf_skb_load_bytes(skb, q->l4, ports, 4))
		return PACKET_FOREIGN;
	q->sport = *(__u16 *)&ports[0];
	q->dport = *(__u16 *)&ports[2];
	return PACKET_FLOW;
}

/* Where the outer ICMP's own checksum is; the quoted bytes count in it. */
static __always_inline __u32 icmp_check(const struct packet *p)
{
	return p->l4 + 2;
}

/* The quoted transport checksum, if as much was quoted. */
static __always_inline void quoted_check(struct __sk_buff *skb, const struct packet *p, const struct packet *q,
					 __u64 diff)
{
	__u16 was, now;

	if (bpf_skb_load_bytes(skb, check_offset(q), &was, 2) || (q->proto == IPPROTO_UDP && !was))
		return;
	now = csum_update(was, diff);
	if (q->proto == IPPROTO_UDP && !now)
		now = 0xffff;
	bpf_l4_csum_replace(skb, icmp_check(p), was, now, 2);
	bpf_skb_store_bytes(skb, check_offset(q), &now, 2, 0);
}

/* SCTP's, by the length that the packet had before it was cut to be quoted: it is what its sender has sent again. */
static __always_inline void quoted_sctp_check(struct __sk_buff *skb, const struct packet *p, const struct packet *q,
					      const struct end *to)
{
	int src = to->side == SIDE_SRC;
	__u32 was, now;

	if (q->first_fragment || bpf_skb_load_bytes(skb, check_offset(q), &was, 4) || !was)
		return;
	now = was ^ sctp_check_change(q, src ? to->port : q->sport, src ? q->dport : to->port);
	bpf_l4_csum_replace(skb, icmp_check(p), was, now, 4);
	bpf_skb_store_bytes(skb, check_offset(q), &now, 4, 0);
}

/* Gives the quoted packet another end, the outer checksum following. */
TP_RARE int quoted_set_end(struct __sk_buff *skb, const struct packet *p, struct packet *q, const struct end *to)
{
	struct tp_addr *addr;
	__u16 *port;
	__u64 diff;
	int side;

	if (!p || !q || !to)
		return -1;
	side = to->side;
	addr = side == SIDE_SRC ? &q->src : &q->dst;
	port = side == SIDE_SRC ? &q->sport : &q->dport;
	diff = csum_replace_addr(0, addr, &to->addr, q->family);
	/* IPv4: address and header checksum cancel out in the outer sum. */
	if (q->family == 6)
		bpf_l4_csum_replace(skb, icmp_check(p), 0, csum_fold32(diff), 0);
	if (q->family == 6)
		bpf_skb_store_bytes(skb, addr_offset(q->l3, 6, side), &to->addr, 16, 0);
	else
		store_addr(skb, q->l3, side, addr, &to->addr, 4);
	diff = csum_replace(diff, *port, to->port);
	bpf_l4_csum_replace(skb, icmp_check(p), *port, to->port, 2);
	bpf_skb_store_bytes(skb, q->l4 + (side == SIDE_SRC ? 0 : 2), &to->port, 2, 0);
	if (q->proto == IPPROTO_SCTP)
		quoted_sctp_check(skb, p, q, to);
	else
		quoted_check(skb, p, q, diff);
	copy_addr(addr, &to->addr);
	*port = to->port;
	return 0;
}

static __always_inline void set_quoted(struct __sk_buff *skb, const struct packet *p, struct packet *q, int side,
				       const struct tp_addr *addr, __u16 port)
{
	struct end to = { .port = port, .side = side };

	copy_addr(&to.addr, addr);
	quoted_set_end(skb, p, q, &to);
}

/* The outer header's address; ICMPv6 sums a pseudo header, ICMP does not. */
TP_RARE int outer_set_addr(struct __sk_buff *skb, struct packet *p, const struct end *to)
{
	struct tp_addr *addr;

	if (!p || !to)
		return -1;
	addr = to->side == SIDE_SRC ? &p->src : &p->dst;
	if (p->family == 6)
		bpf_l4_csum_replace(skb, icmp_check(p), 0, addr_change(addr, &to->addr, 6), BPF_F_PSEUDO_HDR);
	store_addr(skb, p->l3, to->side, addr, &to->addr, p->family);
	copy_addr(addr, &to->addr);
	return 0;
}

static __always_inline void set_outer(struct __sk_buff *skb, struct packet *p, int side, const struct tp_addr *addr)
{
	struct end to = { .side = side };

	copy_addr(&to.addr, addr);
	outer_set_addr(skb, p, &to);
}

/* The outer source is the reporting router's own, unless it is the end that the quoted packet was sent to. */
static __always_inline int reported_by(const struct packet *p, const struct tp_addr *addr)
{
	return same_addr(&p->src, addr, p->family);
}

/* Sends a translated error on; none is made about an error (RFC 1122, 3.2.2). */
static __always_inline int send_error(struct __sk_buff *skb, const struct packet *p)
{
	struct route r = {};

	if (!has_way(skb_route(skb, p, &p->src, &p->dst, &r))) {
		count(TP_N_NO_ROUTE);
		return TC_ACT_SHOT;
	}
	if (p->ttl <= 1)
		return TC_ACT_SHOT;
	skb_decrement_ttl(skb, p);
	return bpf_redirect_neigh(r.ifindex, NULL, 0, 0);
}

/* About a packet that we sent to a backend from a NAT port: it comes to the NAT address. */
static __always_inline int icmp_to_nat(struct __sk_buff *skb, struct packet *p, struct packet *q,
				       struct conn_ref *ref)
{
	struct tp_conn *c = ref->conn;
	struct tp_frontend *f = frontend_at(c->frontend);
	int at_once = c->flags & (TP_C_WHOLE | TP_C_NODE);

	if (!f)
		return TC_ACT_UNSPEC;
	if (at_once && reported_by(p, &q->dst))
		set_outer(skb, p, SIDE_SRC, &f->addr);
	set_quoted(skb, p, q, SIDE_SRC, &c->client, at_once ? c->client_port : conn_inner_port(c));
	set_outer(skb, p, SIDE_DST, &c->client);
	if (!at_once)
		return TC_ACT_UNSPEC;
	set_quoted(skb, p, q, SIDE_DST, &f->addr, f->port);
	count(TP_N_ICMP_TRANSLATED);
	return c->flags & TP_C_NODE ? TC_ACT_UNSPEC : send_error(skb, p);
}

/* About an answer that we sent to a client from a frontend: it comes to the frontend's address. Or from the backend
 * itself, whose answer went to another port. */
static __always_inline int icmp_to_frontend(struct __sk_buff *skb, struct packet *p, struct packet *q,
					    struct conn_ref *ref)
{
	struct tp_conn *c = ref->conn;
	struct tp_backend *b = backend_at(c->backend);

	if (!b)
		return TC_ACT_UNSPEC;
	if (!(c->flags & TP_C_DIRECT)) {
		set_quoted(skb, p, q, SIDE_SRC, &b->addr, b->port);
		set_outer(skb, p, SIDE_DST, &b->addr);
	}
	if (c->flags & TP_C_REMAP)
		set_quoted(skb, p, q, SIDE_DST, &c->client, c->nat_port);
	if (!(c->flags & TP_C_WHOLE))
		return TC_ACT_UNSPEC;
	set_quoted(skb, p, q, SIDE_DST, &c->nat_addr, c->nat_port);
	set_outer(skb, p, SIDE_SRC, &c->nat_addr);
	count(TP_N_ICMP_TRANSLATED);
	return send_error(skb, p);
}

/* The connection to a frontend, or with a backend directly, whose answer is quoted: the quoted packet turned round is
 * its forward key. */
static __always_inline void icmp_forward_key(struct packet *turned, const struct packet *q)
{
	copy_addr(&turned->src, &q->dst);
	copy_addr(&turned->dst, &q->src);
	turned->sport = q->dport;
	turned->dport = q->sport;
	turned->proto = q->proto;
	turned->family = q->family;
}

TP_RARE __u32 icmp_find_forward(const struct packet *q)
{
	struct packet turned = {};
	struct conn_ref ref = {};
	__u32 frontend = 0;

	if (!q)
		return 0;
	icmp_forward_key(&turned, q);
	if (!frontend_find(&turned, turned.family, &frontend))
		return direct_own(&turned);
	conn_find(&ref, &turned, tp_hash_conn(tp_knobs.seed, &turned.src, turned.sport, frontend, turned.family),
		  frontend, turned.family);
	return ref.conn ? ref.index + 1 : 0;
}

SEC("tc")
int tp_in_icmp(struct __sk_buff *skb)
{
	struct packet p = {}, q = {};
	struct conn_ref ref = {};
	__u32 found;

	if (skb_parse(skb, &p) != PACKET_ICMP_ERROR || quoted_parse(skb, &p, &q) != PACKET_FLOW)
		return TC_ACT_UNSPEC;
	if (is_nat_port(q.sport)) {
		nat_find(&ref, &q.dst, q.dport, &q.src, q.sport, q.proto, q.family);
		if (ref.conn)
			return icmp_to_nat(skb, &p, &q, &ref);
	}
	found = icmp_find_forward(&q);
	if (!found)
		return TC_ACT_UNSPEC;
	ref.index = found - 1;
	ref.conn = conn_at(found - 1);
	return ref.conn ? icmp_to_frontend(skb, &p, &q, &ref) : TC_ACT_UNSPEC;
}

SEC("tc")
int tp_out_icmp(struct __sk_buff *skb)
{
	struct packet p = {}, q = {};
	struct conn_ref ref = {};
	struct tp_frontend *f;
	int direction;

	if (skb_parse(skb, &p) != PACKET_ICMP_ERROR || quoted_parse(skb, &p, &q) != PACKET_FLOW)
		return TC_ACT_UNSPEC;
	direction = pair_find(&ref, &q, q.family);
	if (direction == FORWARD) {
		/* On its way to the client, which knows the frontend only. */
		f = frontend_at(ref.conn->frontend);
		if (!f && !(ref.conn->flags & TP_C_DIRECT))
			return TC_ACT_UNSPEC;
		if (f && reported_by(&p, &q.dst))
			set_outer(skb, &p, SIDE_SRC, &f->addr);
		if (f)
			set_quoted(skb, &p, &q, SIDE_DST, &f->addr, f->port);
		if (ref.conn->flags & TP_C_REMAP)
			set_quoted(skb, &p, &q, SIDE_SRC, &ref.conn->client, ref.conn->client_port);
		count(TP_N_ICMP_TRANSLATED);
	} else if (direction == REPLY && (ref.conn->flags & TP_C_MASQ) && !no_addr(&ref.conn->nat_addr)) {
		/* On its way to the backend, which knows the NAT address only. */
		set_quoted(skb, &p, &q, SIDE_DST, &ref.conn->nat_addr, ref.conn->nat_port);
		set_outer(skb, &p, SIDE_SRC, &ref.conn->nat_addr);
		count(TP_N_ICMP_TRANSLATED);
	}
	return TC_ACT_UNSPEC;
}

#endif
