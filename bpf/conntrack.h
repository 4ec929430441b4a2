/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connection table: sets of four entries in an array, claimed by compare-and-swap. Nothing evicts an entry;
 * only the collector in user space takes one down, in two steps with a grace between them, so a program that
 * holds a pointer never sees the entry change hands. An entry whose backend is not to be used any more gets
 * another one in place (conn_retake), for the same client and frontend: whoever still holds the pointer then
 * writes of the same two ends. One that cannot be filled again is left to the collector (conn_park). */
#ifndef TRIPLANE_CONNTRACK_H
#define TRIPLANE_CONNTRACK_H

#include "atomic.h"
#include "frontend.h"
#include "parse.h"

/* A connection and its place in tp_conns, which the other indexes refer to. */
struct conn_ref {
	struct tp_conn *conn;
	__u32 index;
};

static __always_inline __u32 conn_tag(__u64 hash)
{
	return (__u32)(hash >> 32) & ~TP_STATE_MASK;
}

static __always_inline struct tp_conn_set *conn_set(__u32 where)
{
	return bpf_map_lookup_elem(&tp_conns, &where);
}

/* The sets of one connection lie apart, so that full ones do not crowd together. The first is its home. */
static __always_inline __u32 conn_where(__u64 hash, __u32 try)
{
	return ((__u32)hash + try * ((__u32)(hash >> 24) | 1)) & tp_knobs.conn_mask;
}

static __always_inline struct tp_conn *conn_at(__u32 index)
{
	struct tp_conn_set *set = conn_set(index / TP_CONN_WAYS);

	if (!set)
		return NULL;
	keep(set);
	return &set->way[index % TP_CONN_WAYS];
}

static __always_inline int conn_is(const struct tp_conn *c, const struct packet *p, __u32 frontend, int family)
{
	return c->client_port == p->sport && c->frontend == frontend && same_addr(&c->client, &p->src, family);
}

/* Makes an entry that the collector has marked live again. A lost race means it is gone. */
static __always_inline int conn_revive(struct tp_conn *c, __u32 state)
{
	__u32 tag = state & ~TP_STATE_MASK;

	return cas32(&c->state, tag | TP_DYING, tag | TP_LIVE) || c->state == (tag | TP_LIVE);
}

static __always_inline int conn_lives(struct tp_conn *c)
{
	__u32 state = c->state;

	if ((state & TP_STATE_MASK) == TP_DYING)
		return conn_revive(c, state);
	return (state & TP_STATE_MASK) == TP_LIVE;
}

/* What conn_find() does not see at once: an entry that the collector has marked, tags that are alike, a set
 * that ran over. Index + 1 or 0. */
TP_RARE __u32 conn_find_far(const struct packet *p, __u64 hash, __u32 frontend)
{
	if (!p)
		return 0;
	for (int try = 0; try < TP_CONN_TRIES * TP_CONN_WAYS; try++) {
		__u32 where = conn_where(hash, try / TP_CONN_WAYS);
		struct tp_conn_set *set = conn_set(where);
		struct tp_conn *c;
		__u32 state;

		if (!set)
			return 0;
		c = &set->way[try % TP_CONN_WAYS];
		state = c->state;
		if ((state & ~TP_STATE_MASK) == conn_tag(hash) && (state & TP_STATE_MASK) >= TP_LIVE &&
		    conn_is(c, p, frontend, p->family) && conn_lives(c))
			return where * TP_CONN_WAYS + try % TP_CONN_WAYS + 1;
		if (try % TP_CONN_WAYS == TP_CONN_WAYS - 1 && !set->way[0].spilled)
			return 0;
	}
	return 0;
}

/* The way of the first entry with this tag that can be used, 4: none. */
static __always_inline __u32 conn_match(const struct tp_conn_set *set, __u32 tag)
{
#pragma unroll
	for (__u32 way = 0; way < TP_CONN_WAYS; way++) {
		/* TP_LIVE and TP_DYING: the tag's low bits are zero. */
		if (set->way[way].state - tag - TP_LIVE < 2)
			return way;
	}
	return TP_CONN_WAYS;
}

/* Finds the connection of p's source toward a frontend. ref->conn is NULL if there is none. */
static __always_inline void conn_find(struct conn_ref *ref, const struct packet *p, __u64 hash, __u32 frontend,
				      int family)
{
	__u32 where = conn_where(hash, 0);
	struct tp_conn_set *set = conn_set(where);
	__u32 way, found;

	ref->conn = NULL;
	if (!set)
		return;
	way = conn_match(set, conn_tag(hash));
	if (way == TP_CONN_WAYS && !set->way[0].spilled)
		return;
	if (way < TP_CONN_WAYS) {
		struct tp_conn *c = &set->way[way];

		if (conn_is(c, p, frontend, family) && (c->state & TP_STATE_MASK) == TP_LIVE) {
			ref->index = where * TP_CONN_WAYS + way;
			ref->conn = c;
			return;
		}
	}
	found = conn_find_far(p, hash, frontend);
	if (!found)
		return;
	ref->index = found - 1;
	ref->conn = conn_at(found - 1);
}

/* conn_claim() in sets other than the first. */
TP_RARE __u32 conn_claim_far(__u64 hash)
{
	for (int try = 0; try < TP_CONN_TRIES * TP_CONN_WAYS; try++) {
		__u32 where = conn_where(hash, try / TP_CONN_WAYS);
		struct tp_conn_set *set = conn_set(where);
		struct tp_conn *c;

		if (!set)
			return 0;
		c = &set->way[try % TP_CONN_WAYS];
		if (c->state == TP_FREE && cas32(&c->state, TP_FREE, conn_tag(hash) | TP_BUSY))
			return where * TP_CONN_WAYS + try % TP_CONN_WAYS + 1;
		if (try % TP_CONN_WAYS == TP_CONN_WAYS - 1)
			set->way[0].spilled = 1;
	}
	return 0;
}

/* Claims an entry for a connection that is not in the table; it is TP_BUSY until conn_publish(). Returns its
 * index + 1, or 0 if the sets are full. */
static __always_inline __u32 conn_claim(__u64 hash)
{
	__u32 where = conn_where(hash, 0);
	struct tp_conn_set *set = conn_set(where);

	if (!set)
		return 0;
#pragma unroll
	for (__u32 way = 0; way < TP_CONN_WAYS; way++) {
		__u32 *state = &set->way[way].state;

		if (*state == TP_FREE && cas32(state, TP_FREE, conn_tag(hash) | TP_BUSY))
			return where * TP_CONN_WAYS + way + 1;
	}
	return conn_claim_far(hash);
}

/* An entry that conn_park() left to the collector: nobody's, though the tag is still there. */
static __always_inline int conn_is_parked(const struct tp_conn *c)
{
	return (c->state & TP_STATE_MASK) == TP_DYING && c->frontend == TP_NOBODY;
}

/* What conn_contended() does not see at once. */
TP_RARE int conn_contended_far(__u32 index, __u64 hash)
{
	for (__u32 try = 0; try < TP_CONN_TRIES * TP_CONN_WAYS; try++) {
		__u32 where = conn_where(hash, try / TP_CONN_WAYS), way = try % TP_CONN_WAYS;
		struct tp_conn_set *set = conn_set(where);
		struct tp_conn *c;

		if (!set)
			return 1;
		c = &set->way[way];
		if (where * TP_CONN_WAYS + way != index && (c->state & ~TP_STATE_MASK) == conn_tag(hash) &&
		    c->state != TP_FREE && !conn_is_parked(c))
			return 1;
		if (way == TP_CONN_WAYS - 1 && !set->way[0].spilled)
			return 0;
	}
	return 0;
}

/* Whether another processor works on the same connection at this moment: an entry with our tag, but not ours, in
 * any set where the connection may be. Each looks after it has claimed, so of two at least one sees the other. */
static __always_inline int conn_contended(__u32 index, __u64 hash)
{
	struct tp_conn_set *set = conn_set(conn_where(hash, 0));
	__u32 same = 0;

	if (!set)
		return 1;
#pragma unroll
	for (__u32 way = 0; way < TP_CONN_WAYS; way++)
		same += (set->way[way].state & ~TP_STATE_MASK) == conn_tag(hash);
	/* One is ours. */
	return (same > 1 || set->way[0].spilled) && conn_contended_far(index, hash);
}

/* Gives back an entry that was never published: nobody else can hold it. */
static __always_inline void conn_free(struct tp_conn *c)
{
	cas32(&c->state, c->state, TP_FREE);
}

/* Leaves a busy entry that once was live to the collector: it is found by nothing any more, but other processors may
 * still hold it, so it may not be claimed before the collector's grace is over. */
static __always_inline void conn_park(struct tp_conn *c)
{
	__u32 tag = c->state & ~TP_STATE_MASK;

	c->frontend = TP_NOBODY;
	c->flags = 0;
	c->nat_port = 0;
	c->seen_forward |= TP_SEEN_RST;
	cas32(&c->state, tag | TP_BUSY, tag | TP_DYING);
}

static __always_inline void conn_publish(struct tp_conn *c, __u64 hash)
{
	cas32(&c->state, conn_tag(hash) | TP_BUSY, conn_tag(hash) | TP_LIVE);
}

static __always_inline void conn_fill(struct tp_conn *c, const struct packet *p, __u32 frontend)
{
	struct tp_addr none = {};

	c->frontend = frontend;
	copy_addr(&c->client, &p->src);
	c->client_port = p->sport;
	c->proto = p->proto;
	c->flags = 0;
	c->last_seen = ticks_now();
	c->nat_port = 0;
	c->seen_forward = TP_SEEN_ANY;
	c->seen_reply = 0;
	copy_addr(&c->nat_addr, &none);
	c->hop_forward = 0;
	c->hop_reply = 0;
	c->hop_gen = 0;
	c->family = p->family;
}

/* At most once a tick, so that an idle cache line is not made dirty by every packet. */
static __always_inline void conn_touch(struct tp_conn *c)
{
	__u32 now = ticks_now();

	if (c->last_seen != now)
		c->last_seen = now;
}

static __always_inline __u8 seen_of(__u8 tcp_flags)
{
	__u8 seen = TP_SEEN_ANY;

	if (tcp_flags & TCP_FIN)
		seen |= TP_SEEN_FIN;
	if (tcp_flags & TCP_RST)
		seen |= TP_SEEN_RST;
	return seen;
}

static __always_inline void conn_saw_forward(struct tp_conn *c, const struct packet *p)
{
	__u8 seen = c->seen_forward | seen_of(p->tcp_flags);

	if (!(p->tcp_flags & TCP_SYN))
		seen |= TP_SEEN_MORE;
	if (c->seen_forward != seen)
		c->seen_forward = seen;
	conn_touch(c);
}

static __always_inline void conn_saw_reply(struct tp_conn *c, const struct packet *p)
{
	__u8 seen = c->seen_reply | seen_of(p->tcp_flags);

	if (c->seen_reply != seen)
		c->seen_reply = seen;
	conn_touch(c);
}

/* The client's port as the backend and everything before it know it. */
static __always_inline __u16 conn_inner_port(const struct tp_conn *c)
{
	return c->flags & TP_C_REMAP ? c->nat_port : c->client_port;
}

static __always_inline int is_opening(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Both sides are done, or one has reset: the client may use its port for another connection (RFC 9293, 3.6.1). */
static __always_inline int conn_is_over(const struct tp_conn *c)
{
	if ((c->seen_forward | c->seen_reply) & TP_SEEN_RST)
		return 1;
	return (c->seen_forward & c->seen_reply & TP_SEEN_FIN) != 0;
}

static __always_inline struct tp_backend *backend_at(__u32 index)
{
	return bpf_map_lookup_elem(&tp_backends, &index);
}

/* A connection of TCP or SCTP goes on with the backend it has, member of the pool or not (it may be draining); only a new
 * connection of the same tuple, or a datagram, is picked again. */
static __always_inline int conn_needs_pick(const struct tp_conn *c, const struct tp_backend *b,
					   const struct packet *p)
{
	if (p->proto != IPPROTO_UDP && !is_opening(p))
		return 0;
	if (p->proto != IPPROTO_UDP && conn_is_over(c))
		return 1;
	return !(b->flags & (TP_B_IN_CLUSTER | TP_B_IN_LOCAL));
}

#endif
