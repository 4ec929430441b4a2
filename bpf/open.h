/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making connections. A connection is *split* where both translations happen on their own side of netfilter
 * (destination at ingress, source at egress), and *whole* where both happen at once and netfilter is passed by. */
#ifndef TRIPLANE_OPEN_H
#define TRIPLANE_OPEN_H

#include "hop.h"
#include "nat.h"
#include "pick.h"
#include "traffic.h"

/* A new connection while it is made: who asks, and what has been settled. */
struct opening {
	__u64 hash;
	__u64 pool;
	__u32 frontend;
	__u32 origin;
	__u32 backend;
	/* The entry, once there is one. */
	__u32 conn;
	/* Whole connections: the next hop as index + 1. */
	__u32 hop;
	/* An entry of the same client and frontend that is to be used again, as index + 1. */
	__u32 retake;
	/* Another connection has the same two ends toward the backend: of ours, or one that the kernel has seen passing. */
	__u32 shared;
	struct nat_wish nat;
};

/* Takes a live entry whose backend is not to be used any more out of the indexes, for its own client and frontend
 * to be filled anew. 0: another processor was first. */
TP_RARE int conn_retake(__u32 index)
{
	struct tp_conn *c = conn_at(index);
	__u32 tag;

	if (!c)
		return 0;
	tag = c->state & ~TP_STATE_MASK;
	if (!cas32(&c->state, tag | TP_LIVE, tag | TP_BUSY))
		return 0;
	conn_unlink(c, index);
	count(TP_N_REPICKED);
	return 1;
}

/* An entry of our own, index + 1; 0: none, counted. */
static __always_inline __u32 open_claim(const struct opening *o)
{
	struct tp_conn *c;
	__u32 claimed;

	if (o->retake) {
		if (conn_retake(o->retake - 1))
			return o->retake;
		count(TP_N_BUSY);
		return 0;
	}
	claimed = conn_claim(o->hash);
	if (!claimed) {
		count(TP_N_CONNS_FULL);
		return 0;
	}
	if (!conn_contended(claimed - 1, o->hash))
		return claimed;
	c = conn_at(claimed - 1);
	if (c)
		conn_free(c);
	count(TP_N_BUSY);
	return 0;
}

/* The entry cannot be filled after all. */
static __always_inline void open_abandon(const struct opening *o, struct tp_conn *c)
{
	if (o->retake)
		conn_park(c);
	else
		conn_free(c);
}

/* Claims and fills an entry; it stays invisible until conn_publish(). */
static __always_inline struct tp_conn *open_entry(struct opening *o, const struct packet *p)
{
	__u32 claimed = open_claim(o);
	struct tp_conn *c;

	if (!claimed)
		return NULL;
	o->conn = claimed - 1;
	c = conn_at(o->conn);
	if (!c)
		return NULL;
	conn_fill(c, p, o->frontend);
	c->backend = o->backend;
	return c;
}

static __always_inline int open_nat_port(struct tp_conn *c, const struct opening *o)
{
	__u32 port = nat_claim(o->conn, &o->nat);

	if (!port) {
		count(TP_N_NAT_FULL);
		return V_DROP;
	}
	c->nat_port = port;
	return GO_ON;
}

static __always_inline int open_pair(struct tp_conn *c, const struct opening *o)
{
	if (!pair_put(conn_pair_hash(o->conn, conn_inner_port(c)), o->conn)) {
		count(TP_N_PAIRS_FULL);
		return V_DROP;
	}
	c->flags |= TP_C_PAIR;
	return GO_ON;
}

/* The source of a split connection. A process of this node has a NAT port in any case: both translations of its
 * answers happen at once, before netfilter. Where it is not masqueraded it keeps its address. */
static __always_inline int open_source(struct tp_conn *c, const struct opening *o, const struct packet *p,
				       int masqueraded)
{
	if (o->shared)
		c->flags |= TP_C_REMAP;
	if (masqueraded || o->origin == FROM_NODE)
		c->flags |= TP_C_MASQ;
	if (!(c->flags & (TP_C_MASQ | TP_C_REMAP)))
		return GO_ON;
	if (!masqueraded && o->origin == FROM_NODE)
		copy_addr(&c->nat_addr, &p->src);
	return open_nat_port(c, o);
}

/* The way back to a split connection. A process of this node gets both translations at once, by its NAT port. */
static __always_inline int open_ends(struct tp_conn *c, const struct opening *o)
{
	if (o->origin != FROM_NODE)
		return open_pair(c, o);
	c->flags |= TP_C_NODE;
	return GO_ON;
}

/* Takes the connection's key out of the NAT index. Not inline: the frames of a chain of calls have 512
 * bytes together, each rounded up to 32 (Linux 6.1; later ones to 16), and conn_evict() ends the longest chain. */
TP_RARE int nat_drop(__u32 index)
{
	struct tp_conn *c = conn_at(index);
	struct tp_backend *b;

	if (!c || !c->nat_port)
		return 0;
	b = backend_at(c->backend);
	if (b)
		nat_release(c, index, b, c->family);
	return 0;
}

/* Takes a connection down before its time; what still holds it sees it parked. */
TP_RARE int conn_evict(__u32 index)
{
	struct tp_conn *c = conn_at(index);
	__u32 tag;

	if (!c)
		return 0;
	tag = c->state & ~TP_STATE_MASK;
	if (!cas32(&c->state, tag | TP_LIVE, tag | TP_BUSY))
		return 0;
	nat_drop(index);
	if (c->flags & TP_C_PAIR)
		pair_drop(conn_pair_hash(index, conn_inner_port(c)), index);
	if (c->flags & TP_C_DIRECT)
		pair_drop(conn_pair_hash(index, c->client_port), index);
	conn_park(c);
	return 1;
}

/* The other connection than `except` (both index + 1) that has the same client and backend, and this port on the client's
 * side (network order): one client port used toward two frontends. 0: none. Both in one word, HOLDER_ASK(): the frame is full. */
#define HOLDER_ASK(except, port) ((__u64)(except) << 32 | (__u16)(port))
TP_RARE __u32 tuple_holder(const struct packet *p, __u32 backend, __u64 ask)
{
	struct tp_backend *b = backend_at(backend);
	__u64 hash;

	if (!p || !b)
		return 0;
	hash = tp_hash_pair(tp_knobs.seed, &p->src, (__u16)ask, &b->addr, b->port, p->proto, p->family);
	for (__u32 try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u64 *slot = pair_slot(hash, try);
		struct tp_backend *theirs;
		struct tp_conn *c;

		if (!slot || !*slot)
			return 0;
		if (SLOT_TAG(*slot) != SLOT_TAG(hash) || (__u32)*slot == ask >> 32)
			continue;
		c = conn_at(SLOT_INDEX(*slot));
		theirs = c ? backend_at(c->backend) : NULL;
		if (!theirs || c->proto != p->proto || c->family != p->family || conn_inner_port(c) != (__u16)ask)
			continue;
		/* The same pod may be a backend of several services. */
		if (theirs->port == b->port && same_addr(&theirs->addr, &b->addr, p->family) &&
		    same_addr(&c->client, &p->src, p->family) && conn_lives(c))
			return (__u32)*slot;
	}
	return 0;
}

/* Picks a backend. */
static __always_inline int open_pick(struct opening *o, const struct packet *p)
{
	struct tp_frontend *f = frontend_at(o->frontend);
	__u32 picked = f && !f->affinity ? pick_any(o->pool) : pick_sticky(&p->src, o->frontend, o->pool);

	if (!picked)
		return V_DROP;
	o->backend = picked - 1;
	return GO_ON;
}

/* Whether a connection that is not over has the two ends that this one would have. One that is over gives way. */
static __always_inline int open_shares(const struct opening *o, const struct packet *p)
{
	__u32 holder = tuple_holder(p, o->backend, HOLDER_ASK(o->retake, p->sport));
	struct tp_conn *c = holder ? conn_at(holder - 1) : NULL;

	if (!c || (p->proto != IPPROTO_UDP && conn_is_over(c) && conn_evict(holder - 1)))
		return 0;
	count(TP_N_TUPLE_TAKEN);
	return 1;
}

/* Of a client with a tenth of the NAT ports open toward one backend, one connection in a hundred thousand finds none. */
#define WISHES 4

/* A connection that goes on from another port of its client's own address: the client itself may talk to the backend from
 * the one that it wishes for, and has no NAT port for that. Another one, then. */
static __always_inline void open_wish_again(struct opening *o, const struct packet *p)
{
	struct tp_backend *b;

	if (!tuple_holder(p, o->backend, HOLDER_ASK(0, bpf_htons(o->nat.port))))
		return;
	b = backend_at(o->backend);
	if (b)
		nat_wish(&o->nat, b, 0, p->proto, p->family);
}

/* A split connection to the backend already picked. */
TP_RARE int open_split(struct opening *o, const struct packet *p)
{
	const struct tp_settings *set = settings();
	struct tp_frontend *f;
	struct tp_backend *b;
	struct tp_conn *c;
	int masquerade;

	if (!o || !p || !set)
		return V_DROP;
	f = frontend_at(o->frontend);
	b = backend_at(o->backend);
	if (!f || !b)
		return V_DROP;
	masquerade = masquerades(set, f, o->pool, b, p, o->origin);
	if (!o->shared)
		o->shared = o->origin != FROM_NODE && open_shares(o, p);
	if (masquerade || o->shared || o->origin == FROM_NODE)
		nat_wish(&o->nat, b, o->shared ? 0 : p->sport, p->proto, p->family);
	if (o->shared) {
		/* Unrolled: a counter finds no room in the frame. */
#pragma unroll
		for (int try = 0; try < WISHES; try++)
			open_wish_again(o, p);
	}
	c = open_entry(o, p);
	if (!c)
		return V_DROP;
	if (open_source(c, o, p, masquerade) != GO_ON || open_ends(c, o) != GO_ON) {
		conn_unlink(c, o->conn);
		open_abandon(o, c);
		return V_DROP;
	}
	conn_publish(c, o->hash);
	count(TP_N_NEW);
	count_connection(o->frontend, o->backend);
	return GO_ON;
}

/* A whole connection by way of o->hop, which is `hop`, to the backend already picked, which is `b`. */
static __always_inline int open_whole(struct opening *o, const struct packet *p, const struct tp_settings *set,
				      const struct tp_hop *hop, const struct tp_backend *b)
{
	struct tp_conn *c;

	nat_wish(&o->nat, b, p->sport, p->proto, p->family);
	c = open_entry(o, p);
	if (!c)
		return V_DROP;
	if (hop_nat_addr(hop, &c->nat_addr, p->family) != GO_ON || open_nat_port(c, o) != GO_ON) {
		conn_unlink(c, o->conn);
		open_abandon(o, c);
		return V_DROP;
	}
	c->flags |= TP_C_WHOLE | TP_C_MASQ;
	c->hop_forward = o->hop;
	c->hop_gen = set->route_gen;
	conn_publish(c, o->hash);
	count(TP_N_NEW);
	count_connection(o->frontend, o->backend);
	return GO_ON;
}

#endif
