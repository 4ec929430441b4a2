/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* XDP on the uplinks: forwards masqueraded connections whose backend is on another node, and drops early what
 * source ranges forbid. Everything else, and every doubt (options that do not parse, no next hop, one that XDP cannot
 * send by, too big, partial checksum, fragments, ICMP), goes to tc with the packet untouched. */
#include <linux/bpf.h>

#include "rewrite.h"
#include "kernel.h"
#include "open.h"

/* Rewrites and sends. The last point where the packet is still as it came. */
static __always_inline int forward(struct frame *fr, struct packet *p, const struct tuple *to,
				   const struct tp_hop *hop, const struct tp_conn *c, int way, int family)
{
	struct ethhdr *eth = fr->data;
	void *l3 = fr->data + sizeof(*eth);
	void *l4 = frame_l4(fr, p);
	__u64 diff;

	if (!l4 || p->ttl <= 1 || p->l3_len > hop->mtu || !(hop->flags & TP_D_XDP_SEND) ||
	    looks_partial(p, l4, fr->end, family))
		return XDP_PASS;
	if (l3 + (family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) > fr->end)
		return XDP_PASS;
	/* What is left to tc is counted there. */
	count_packet(c->frontend, c->backend, way, p->l3_len);
	diff = family == 4 ? rewrite_ipv4(l3, to) : rewrite_ipv6(l3, p, to);
	rewrite_l4(p, l4, fr->end, diff, to);
	copy_mac(eth->h_dest, hop->dmac);
	copy_mac(eth->h_source, hop->smac);
	if (hop->ifindex == fr->ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(hop->ifindex, 0);
}

/* The next hop toward a backend, shared by its connections unless routes depend on the source. Index + 1, or
 * 0: none without the stack's help (no route, no neighbour yet, forwarding off, table full). */
TP_RARE __u32 xdp_backend_hop(struct xdp_md *ctx, const struct packet *p, __u32 backend)
{
	const struct tp_settings *set = settings();
	struct tp_backend *b = backend_at(backend);
	__u32 hop, gen;
	int shared;

	if (!set || !b || !p)
		return 0;
	shared = !(set->flags & TP_S_SOURCE_ROUTES);
	gen = set->route_gen;
	if (shared && b->hop_gen == gen && b->hop)
		return b->hop;
	hop = fib_ask(ctx, ctx->ingress_ifindex, &p->src, &b->addr, p->proto, p->family, gen);
	if (shared && hop) {
		b->hop = hop;
		b->hop_gen = gen;
	}
	return hop;
}

TP_RARE __u32 xdp_client_hop(struct xdp_md *ctx, const struct packet *p, __u32 conn)
{
	const struct tp_settings *set = settings();
	struct tp_conn *c = conn_at(conn);
	struct tp_frontend *f;

	if (!set || !c || !p)
		return 0;
	f = frontend_at(c->frontend);
	if (!f)
		return 0;
	return fib_ask(ctx, ctx->ingress_ifindex, &f->addr, &c->client, p->proto, p->family, set->route_gen);
}

static __always_inline void conn_new_gen(struct tp_conn *c, __u32 gen)
{
	if (c->hop_gen == (__u16)gen)
		return;
	c->hop_forward = 0;
	c->hop_reply = 0;
	c->hop_gen = gen;
}

static __always_inline int send_forward(struct frame *fr, struct packet *p, const struct conn_ref *ref,
					const struct tp_backend *b, const struct tp_settings *set, int family)
{
	struct tp_conn *c = ref->conn;
	struct tp_hop *hop;
	struct tuple to;

	conn_new_gen(c, set->route_gen);
	hop = hop_if_true(c->hop_forward, set->route_gen);
	if (!hop) {
		c->hop_forward = xdp_backend_hop(fr->ctx, p, c->backend);
		hop = hop_if_true(c->hop_forward, set->route_gen);
		if (!hop)
			return XDP_PASS;
	}
	to.src = &c->nat_addr;
	to.dst = &b->addr;
	to.sport = c->nat_port;
	to.dport = b->port;
	return forward(fr, p, &to, hop, c, WAY_IN, family);
}

static __always_inline int send_reply(struct frame *fr, struct packet *p, const struct conn_ref *ref,
				      const struct tp_settings *set, int family)
{
	struct tp_conn *c = ref->conn;
	struct tp_frontend *f = frontend_at(c->frontend);
	struct tp_hop *hop;
	struct tuple to;

	if (!f)
		return XDP_PASS;
	conn_new_gen(c, set->route_gen);
	hop = hop_if_true(c->hop_reply, set->route_gen);
	if (!hop) {
		c->hop_reply = xdp_client_hop(fr->ctx, p, ref->index);
		hop = hop_if_true(c->hop_reply, set->route_gen);
		if (!hop)
			return XDP_PASS;
	}
	to.src = &f->addr;
	to.dst = &c->client;
	to.sport = f->port;
	to.dport = c->client_port;
	return forward(fr, p, &to, hop, c, WAY_OUT, family);
}

/* IPv4 datagrams that arrive larger than the next link carries are fragmented (RFC 791, 2.3), which only the stack
 * can do: such connections are split. TCP hears of it by ICMP. */
static __always_inline int stack_may_fragment(struct xdp_md *ctx, const struct packet *p, const struct tp_hop *hop)
{
	__u32 mtu = 0;

	if (p->family != 4 || p->proto != IPPROTO_UDP)
		return 0;
	bpf_check_mtu(ctx, 0, &mtu, 0, 0);
	return mtu > hop->mtu;
}

/* A connection that nobody has seen: made here if XDP can forward it, or made here for tc (so that the choice of
 * backend is made once), or left to tc altogether. GO_ON: o->conn is a whole connection; else an XDP action. */
#define XDP_GO_ON -1

TP_RARE int xdp_open(struct xdp_md *ctx, struct packet *p, struct opening *o)
{
	const struct tp_settings *set = settings();
	struct tp_frontend *f;
	struct tp_backend *b;
	struct tp_hop *hop;
	int verdict;

	if (!p || !o || !set)
		return XDP_PASS;
	f = frontend_at(o->frontend);
	if (!f)
		return XDP_PASS;
	if (!o->retake && (set->flags & TP_S_OLDER))
		return XDP_PASS;
	o->origin = origin_for(set, f, p, ctx->ingress_ifindex);
	if (!o->retake && asks_kernel(set) && xdp_kernel_owns(ctx, p))
		return XDP_PASS;
	verdict = answer_new(set, f, p, o->origin, &o->pool);
	if (verdict == V_GUARDED)
		return XDP_DROP;
	if (verdict != GO_ON || !(f->flags & TP_F_XDP) || !TP_POOL_MASQ(o->pool))
		return XDP_PASS;
	if (open_pick(o, p) != GO_ON)
		return XDP_PASS;
	b = backend_at(o->backend);
	if (!b)
		return XDP_PASS;
	if (b->flags & TP_B_LOCAL)
		o->hop = 0;
	else if (b->hop && b->hop_gen == set->route_gen && !(set->flags & TP_S_SOURCE_ROUTES))
		o->hop = b->hop;
	else
		o->hop = xdp_backend_hop(ctx, p, o->backend);
	hop = hop_if_true(o->hop, set->route_gen);
	/* While the kernel's NAT may have the port that we choose, tc looks at the choice. */
	if (hop && (!(hop->flags & TP_D_XDP_SEND) || asks_kernel(set) || stack_may_fragment(ctx, p, hop)))
		hop = NULL;
	if (!hop || (p->family == 4 ? !hop->nat4 : no_addr(&hop->nat6))) {
		open_split(o, p);
		return XDP_PASS;
	}
	return open_whole(o, p, set, hop, b) == GO_ON ? XDP_GO_ON : XDP_DROP;
}

static __always_inline int to_new(struct frame *fr, struct packet *p, struct opening *o,
				  const struct tp_settings *set, int family)
{
	struct tp_backend *b;
	struct conn_ref ref;
	int action = xdp_open(fr->ctx, p, o);

	if (action != XDP_GO_ON)
		return action >= XDP_ABORTED && action <= XDP_REDIRECT ? action : XDP_PASS;
	ref.index = o->conn;
	ref.conn = conn_at(o->conn);
	b = backend_at(o->backend);
	if (!ref.conn || !b)
		return XDP_PASS;
	return send_forward(fr, p, &ref, b, set, family);
}

static __always_inline int to_frontend(struct frame *fr, struct packet *p, __u32 frontend,
				       const struct tp_settings *set, int family)
{
	struct opening o = { .frontend = frontend };
	struct tp_backend *b;
	struct conn_ref ref;

	o.hash = tp_hash_conn(tp_knobs.seed, &p->src, p->sport, frontend, family);
	conn_find(&ref, p, o.hash, frontend, family);
	if (!ref.conn)
		return to_new(fr, p, &o, set, family);
	if (!(ref.conn->flags & TP_C_WHOLE))
		return XDP_PASS;
	b = backend_at(ref.conn->backend);
	if (!b)
		return XDP_PASS;
	if (conn_needs_pick(ref.conn, b, p)) {
		if (set->flags & TP_S_DRAIN) /* tc takes it out of the way of whoever picks now. */
			return XDP_PASS;
		o.retake = ref.index + 1;
		return to_new(fr, p, &o, set, family);
	}
	conn_saw_forward(ref.conn, p);
	return send_forward(fr, p, &ref, b, set, family);
}

static __always_inline int to_nat_port(struct frame *fr, struct packet *p, const struct tp_settings *set,
				       int family)
{
	struct conn_ref ref;

	nat_find(&ref, &p->src, p->sport, &p->dst, p->dport, p->proto, family);
	if (!ref.conn || !(ref.conn->flags & TP_C_WHOLE) || (ref.conn->flags & TP_C_NODE))
		return XDP_PASS;
	conn_saw_reply(ref.conn, p);
	return send_reply(fr, p, &ref, set, family);
}

static __always_inline int xdp_ip(struct frame *fr, int family)
{
	const struct tp_settings *set;
	struct tp_frontend *f;
	struct packet p = {};
	__u32 frontend = 0;

	if (parse_ip(&p, fr->data, fr->end, sizeof(struct ethhdr), fr->end - fr->data, family) != PACKET_FLOW)
		return XDP_PASS;
	f = frontend_find(&p, family, &frontend);
	if (!f && !is_nat_port(p.dport))
		return XDP_PASS;
	set = settings();
	if (!set)
		return XDP_PASS;
	if (f)
		return to_frontend(fr, &p, frontend, set, family);
	return to_nat_port(fr, &p, set, family);
}

static __always_inline int xdp_packet(struct xdp_md *ctx)
{
	struct frame fr = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct ethhdr *eth = fr.data;

	if ((void *)(eth + 1) > fr.end)
		return XDP_PASS;
	/* Tagged frames belong to a VLAN device, whose routes are not this device's: tc sees them there. */
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return xdp_ip(&fr, 4);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return xdp_ip(&fr, 6);
	return XDP_PASS;
}

SEC("xdp")
int tp_xdp(struct xdp_md *ctx)
{
	return xdp_packet(ctx);
}
