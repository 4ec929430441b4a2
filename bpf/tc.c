/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc, on the uplinks and on the pods' host side. Ingress replaces the destination of what goes to a frontend, and
 * gives answers to NAT ports back to the client; egress replaces the source of what is masqueraded, and gives
 * answers the frontend's address. So netfilter, between the two, sees the real client and the real backend.
 *
 * The programs end with TC_ACT_UNSPEC wherever they have not decided against a packet: at tcx the next program
 * runs, at clsact the next filter. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "cluster.h"
#include "direct.h"
#include "kernel.h"
#include "open.h"
#include "skb.h"

/* Filled from user space once all programs are loaded, each at its TP_TAIL_ number: they are loaded side by side. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, TP_TAILS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} tp_tails SEC(".maps");

#include "send.h"

static __always_inline int refuse(struct __sk_buff *skb, int verdict)
{
	if (verdict == V_PASS)
		return TC_ACT_UNSPEC;
	if (verdict == V_REJECT)
		bpf_tail_call(skb, &tp_tails, TP_TAIL_REJECT);
	count(TP_N_DROPPED);
	return TC_ACT_SHOT;
}

/* A connection that nobody has seen. GO_ON: o->conn is a split connection. */
TP_RARE int tc_open(struct __sk_buff *skb, const struct packet *p, struct opening *o)
{
	const struct tp_settings *set = settings();
	struct tp_frontend *f;
	int verdict;

	if (!p || !o || !set)
		return V_PASS;
	f = frontend_at(o->frontend);
	if (!f)
		return V_PASS;
	if (o->origin != FROM_NODE)
		o->origin = origin_for(set, f, p, skb->ifindex);
	verdict = answer_new(set, f, p, o->origin, &o->pool);
	if (verdict != GO_ON)
		return verdict;
	if (open_pick(o, p) != GO_ON)
		return V_DROP;
	/* One that the client has with the backend directly, which only the kernel has seen. */
	if (o->origin != FROM_NODE && !o->retake)
		o->shared = skb_kernel_has_ends(skb, p, o->backend);
	return open_split(o, p);
}

/* The connection of a packet to a frontend, made if need be; ref->conn is set if GO_ON is returned. */
static __always_inline int tc_connection(struct __sk_buff *skb, struct packet *p, __u32 frontend,
					 struct conn_ref *ref, int family, int origin)
{
	struct opening o = { .frontend = frontend, .origin = origin };
	const struct tp_settings *set = settings();
	struct tp_backend *b;
	int verdict;

	o.hash = tp_hash_conn(tp_knobs.seed, &p->src, p->sport, frontend, family);
	conn_find(ref, p, o.hash, frontend, family);
	if (ref->conn && set) {
		b = backend_at(ref->conn->backend);
		if (b && (p->headless || !conn_needs_pick(ref->conn, b, p))) {
			conn_saw_forward(ref->conn, p);
			return GO_ON;
		}
		if (set->flags & TP_S_DRAIN) {
			/* Whoever picks now has the rest of this connection, too: our entry may not be in its way. */
			conn_evict(ref->index);
			return V_PASS;
		}
		o.retake = ref->index + 1;
	}
	if (p->headless)
		return V_PASS;
	if (!o.retake && origin != FROM_NODE && set && asks_kernel(set) && skb_kernel_owns(skb, p))
		return V_PASS;
	verdict = tc_open(skb, p, &o);
	/* What was over, and is not ours any more: it may not get the rest of the new one. */
	if (o.retake && verdict != GO_ON && verdict != V_DROP)
		conn_evict(ref->index);
	if (verdict == V_GONE)
		return cluster_verdict(p);
	if (verdict != GO_ON)
		return verdict;
	ref->index = o.conn;
	ref->conn = conn_at(o.conn);
	return ref->conn ? GO_ON : V_DROP;
}

static __always_inline int to_frontend_tc(struct __sk_buff *skb, struct packet *p, __u32 frontend, int family)
{
	struct conn_ref ref = {};
	struct tp_backend *b;
	int verdict = tc_connection(skb, p, frontend, &ref, family, FROM_STRANGER);

	if (verdict != GO_ON || !ref.conn)
		return refuse(skb, verdict);
	b = backend_at(ref.conn->backend);
	if (!b)
		return TC_ACT_SHOT;
	count_packet(frontend, ref.conn->backend, WAY_IN, p->l3_len);
	if (ref.conn->flags & TP_C_WHOLE) {
		struct end src = {}, dst = {};

		make_end(&src, SIDE_SRC, &ref.conn->nat_addr, ref.conn->nat_port);
		make_end(&dst, SIDE_DST, &b->addr, b->port);
		return skb_send(skb, p, &src, &dst);
	}
	if ((ref.conn->flags & TP_C_REMAP) && set_end(skb, p, SIDE_SRC, &ref.conn->client, ref.conn->nat_port))
		return TC_ACT_SHOT;
	return set_end(skb, p, SIDE_DST, &b->addr, b->port) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#define LOOPBACK_IFINDEX 1

/* Where a NAT address has just been settled: takes another port while the kernel's own NAT uses the one we have toward
 * the same backend. Not 0: there is none, and the packet cannot go; counted. */
static __always_inline int kernel_port_taken(struct __sk_buff *skb, __u32 conn)
{
	const struct tp_settings *set = settings();

	return set && asks_kernel(set) && skb_avoid_kernel_port(skb, conn);
}

/* In by lo, as what the node sends to itself comes in. IPv4 needs net.ipv4.conf.lo.accept_local there. */
static __always_inline int skb_to_self(struct __sk_buff *skb)
{
	__u8 macs[12] = {};

	bpf_skb_store_bytes(skb, 0, macs, 12, 0);
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

/* An answer to one of our NAT ports. Split: the client gets its address back here, the frontend's at egress. */
static __always_inline int to_nat_port_tc(struct __sk_buff *skb, struct packet *p, int family)
{
	struct end src = {}, dst = {};
	struct tp_frontend *f;
	struct route way = {};
	struct conn_ref ref;

	nat_find(&ref, &p->src, p->sport, &p->dst, p->dport, p->proto, family);
	if (!ref.conn)
		return TC_ACT_UNSPEC;
	/* The answer to an opening packet that is not ours: programs that have taken over give out the same ports. */
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && conn_is_over(ref.conn) &&
	    conn_evict(ref.index))
		return TC_ACT_UNSPEC;
	if (!(ref.conn->flags & (TP_C_WHOLE | TP_C_NODE)))
		return set_end(skb, p, SIDE_DST, &ref.conn->client, conn_inner_port(ref.conn)) ? TC_ACT_SHOT :
												 TC_ACT_UNSPEC;
	f = frontend_at(ref.conn->frontend);
	if (!f)
		return TC_ACT_UNSPEC;
	conn_saw_reply(ref.conn, p);
	count_packet(ref.conn->frontend, ref.conn->backend, WAY_OUT, p->l3_len);
	make_end(&src, SIDE_SRC, &f->addr, f->port);
	make_end(&dst, SIDE_DST, &ref.conn->client, ref.conn->client_port);
	if (!(ref.conn->flags & TP_C_NODE))
		return skb_send(skb, p, &src, &dst);
	if (skb_set_end(skb, p, &src) || skb_set_end(skb, p, &dst))
		return TC_ACT_SHOT;
	/* A frontend at one of the node's own addresses: what has both its ends there, only lo may bring. */
	return same_addr(&f->addr, &ref.conn->client, family) ||
			       skb_route(skb, p, &ref.conn->client, &f->addr, &way) == BPF_FIB_LKUP_RET_NOT_FWDED ?
		       skb_to_self(skb) :
		       TC_ACT_UNSPEC;
}

/* No frontend, but perhaps a backend, and some client's connection with it. */
static __always_inline int to_backend_port(struct __sk_buff *skb, struct packet *p)
{
	__u32 found = direct_conn(p);
	struct tp_conn *c;

	if (!found)
		return TC_ACT_UNSPEC;
	c = conn_at(found - 1);
	if (!c) {
		count(TP_N_DROPPED);
		return TC_ACT_SHOT;
	}
	return set_end(skb, p, SIDE_SRC, &c->client, c->nat_port) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

static __always_inline int ingress_flow(struct __sk_buff *skb, struct packet *p, int family)
{
	const struct tp_settings *set;
	struct tp_frontend *f;
	__u32 frontend = 0;
	int verdict;

	f = frontend_find(p, family, &frontend);
	if (f)
		return to_frontend_tc(skb, p, frontend, family);
	if (is_nat_port(p->dport))
		return to_nat_port_tc(skb, p, family);
	set = settings();
	if (set && in_cluster_span(set, &p->dst, family)) {
		verdict = cluster_verdict(p);
		if (verdict != V_PASS)
			return refuse(skb, verdict);
	}
	return is_backend_port(p->dport) ? to_backend_port(skb, p) : TC_ACT_UNSPEC;
}

/* Protocols that no frontend has: of what comes in, and of what the node's own processes send. */
static __always_inline int verdict_other(const struct packet *p)
{
	const struct tp_settings *set = settings();

	if (!set || !in_cluster_span(set, &p->dst, p->family))
		return TC_ACT_UNSPEC;
	/* A ping to a cluster IP goes unanswered in every mode: only what no service has is dropped. */
	return cluster_verdict(p) == V_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

static __always_inline int leave_masqueraded(struct __sk_buff *skb, struct packet *p, const struct conn_ref *ref)
{
	struct tp_conn *c = ref->conn;
	__u32 ifindex = skb->ifindex;
	struct tp_device *device;

	if (no_addr(&c->nat_addr)) {
		device = bpf_map_lookup_elem(&tp_devices, &ifindex);
		if (!device)
			return TC_ACT_UNSPEC;
		if (p->family == 4)
			c->nat_addr.w[0] = device->nat4;
		else
			copy_addr(&c->nat_addr, &device->nat6);
		if (kernel_port_taken(skb, ref->index))
			return TC_ACT_SHOT;
	}
	if (no_addr(&c->nat_addr)) {
		count(TP_N_NO_ROUTE);
		return TC_ACT_SHOT;
	}
	return set_end(skb, p, SIDE_SRC, &c->nat_addr, c->nat_port) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Whether the packet was sent by a process of this node (forwarded ones have come by a device) to one of our
 * frontends, where cluster IPs are or, by a server of this node, to one of our NAT ports. */
static __always_inline int is_for_node(struct __sk_buff *skb, const struct packet *p, int family)
{
	const struct tp_settings *set;
	__u32 frontend = 0;

	if (skb->ingress_ifindex)
		return 0;
	set = settings();
	if (!set || !(set->flags & TP_S_NODE_EGRESS))
		return 0;
	return is_nat_port(p->dport) || frontend_find(p, family, &frontend) ||
	       in_cluster_span(set, &p->dst, family);
}

/* What goes between a client and a backend. */
static __always_inline int egress_pair(struct __sk_buff *skb, struct packet *p, int family)
{
	struct tp_frontend *f;
	struct conn_ref ref;
	int direction;

	direction = pair_find(&ref, p, family);
	if (direction == FORWARD && is_opening(p) && conn_is_over(ref.conn)) {
		/* One by way of the frontend would have been made anew at ingress: this one goes straight to the
		 * backend, from the port that the connection before it had, and its answers are not ours. */
		conn_evict(ref.index);
		return TC_ACT_UNSPEC;
	}
	if (direction == FORWARD)
		return ref.conn->flags & TP_C_MASQ ? leave_masqueraded(skb, p, &ref) : TC_ACT_UNSPEC;
	if (direction != REPLY)
		return TC_ACT_UNSPEC;
	f = frontend_at(ref.conn->frontend);
	if (!f && !(ref.conn->flags & TP_C_DIRECT))
		return TC_ACT_UNSPEC;
	conn_saw_reply(ref.conn, p);
	if (f)
		count_packet(ref.conn->frontend, ref.conn->backend, WAY_OUT, p->l3_len);
	if ((ref.conn->flags & TP_C_REMAP) && set_end(skb, p, SIDE_DST, &ref.conn->client, ref.conn->client_port))
		return TC_ACT_SHOT;
	return f && set_end(skb, p, SIDE_SRC, &f->addr, f->port) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

static __always_inline int egress_flow(struct __sk_buff *skb, struct packet *p, int family)
{
	if (is_for_node(skb, p, family))
		bpf_tail_call(skb, &tp_tails, TP_TAIL_NODE);
	return egress_pair(skb, p, family);
}

SEC("tc")
int tp_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	int kind = skb_parse(skb, &p);

	if (kind == PACKET_FLOW)
		return p.family == 4 ? ingress_flow(skb, &p, 4) : ingress_flow(skb, &p, 6);
	if (kind == PACKET_ICMP_ERROR)
		bpf_tail_call(skb, &tp_tails, TP_TAIL_IN_ICMP);
	if (kind == PACKET_FRAGMENT || kind == PACKET_EXTENDED)
		bpf_tail_call(skb, &tp_tails, TP_TAIL_IN_RARE);
	if (kind == PACKET_OTHER)
		return verdict_other(&p);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tp_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	int kind = skb_parse(skb, &p);

	if (kind == PACKET_FLOW)
		return p.family == 4 ? egress_flow(skb, &p, 4) : egress_flow(skb, &p, 6);
	if (kind == PACKET_ICMP_ERROR)
		bpf_tail_call(skb, &tp_tails, TP_TAIL_OUT_ICMP);
	if (kind == PACKET_FRAGMENT || kind == PACKET_EXTENDED)
		bpf_tail_call(skb, &tp_tails, TP_TAIL_OUT_RARE);
	if (kind == PACKET_OTHER && !skb->ingress_ifindex)
		return verdict_other(&p);
	return TC_ACT_UNSPEC;
}

/* Fragments and extension headers. An ICMP error behind an extension header is not translated. */
SEC("tc")
int tp_in_rare(struct __sk_buff *skb)
{
	struct packet p = {};
	int kind = skb_parse_rare(skb, &p);

	if (kind == PACKET_FLOW)
		return ingress_flow(skb, &p, p.family);
	return kind == PACKET_OTHER ? verdict_other(&p) : TC_ACT_UNSPEC;
}

SEC("tc")
int tp_out_rare(struct __sk_buff *skb)
{
	struct packet p = {};

	return skb_parse_rare(skb, &p) == PACKET_FLOW ? egress_flow(skb, &p, p.family) : TC_ACT_UNSPEC;
}

#include "icmp.h"
#include "node.h"
#include "reject.h"
