/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A client that talks to a backend directly (to its own address, or by a socket that was translated) may do so from the
 * very port from which it talks, or talked, to it by way of a frontend. Behind the node both would have the same two
 * ends. As conntrack does, the second of them gets another port: it has an entry like any connection that is remapped,
 * but for a frontend. Whoever comes to no backend's port never gets here. */
#ifndef TRIPLANE_DIRECT_H
#define TRIPLANE_DIRECT_H

#include "open.h"

static __always_inline int is_backend_port(__u16 port)
{
	__u32 number = bpf_ntohs(port), where = number / 64;
	__u64 *bits = bpf_map_lookup_elem(&tp_backendports, &where);

	return bits && (*bits >> (number % 64) & 1);
}

/* What tp_pairs has for a packet that goes straight to a backend; both index + 1, 0: none. */
struct direct {
	/* The packet's own connection. */
	__u32 own;
	/* The connection whose ends the packet has, seen from behind the node. */
	__u32 holder;
};

static __always_inline void direct_note(struct direct *d, __u32 index, const struct packet *p)
{
	struct tp_conn *c = conn_at(index);
	struct tp_backend *b;

	if (!c || c->proto != p->proto || c->family != p->family || !conn_lives(c))
		return;
	b = backend_at(c->backend);
	if (!b || b->port != p->dport || !same_addr(&b->addr, &p->dst, p->family) ||
	    !same_addr(&c->client, &p->src, p->family))
		return;
	if (conn_inner_port(c) == p->sport)
		d->holder = index + 1;
	else if ((c->flags & TP_C_DIRECT) && c->client_port == p->sport)
		d->own = index + 1;
}

TP_RARE int direct_find(struct direct *d, const struct packet *p)
{
	__u64 hash;

	if (!d || !p)
		return 0;
	hash = pair_hash(p, p->family);
	for (__u32 try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u64 *slot = pair_slot(hash, try);

		/* No used slot stands behind a free one. */
		if (!slot || !*slot)
			return 0;
		if (SLOT_TAG(*slot) == SLOT_TAG(hash))
			direct_note(d, SLOT_INDEX(*slot), p);
	}
	return 0;
}

/* The packet's own connection with a backend: index + 1, 0: none that we know of. */
static __always_inline __u32 direct_own(const struct packet *p)
{
	struct direct d = {};

	if (is_backend_port(p->dport))
		direct_find(&d, p);
	return d.own;
}

/* An entry for the packet's connection, beside that of `holder` (index). Index + 1; 0: no room, counted. */
TP_RARE __u32 direct_open(const struct packet *p, __u32 holder)
{
	struct tp_conn *c = conn_at(holder);
	struct opening o = {};
	struct tp_backend *b;

	if (!p || !c)
		return 0;
	o.backend = c->backend;
	o.frontend = TP_TO_BACKEND(o.backend);
	o.hash = tp_hash_conn(tp_knobs.seed, &p->src, p->sport, o.frontend, p->family);
	b = backend_at(o.backend);
	if (!b)
		return 0;
	nat_wish(&o.nat, b, 0, p->proto, p->family);
	c = open_entry(&o, p);
	if (!c)
		return 0;
	c->flags = TP_C_DIRECT | TP_C_REMAP;
	if (open_nat_port(c, &o) != GO_ON || open_pair(c, &o) != GO_ON ||
	    !pair_put(conn_pair_hash(o.conn, c->client_port), o.conn)) {
		conn_unlink(c, o.conn);
		conn_free(c);
		return 0;
	}
	conn_publish(c, o.hash);
	count(TP_N_TUPLE_TAKEN);
	return o.conn + 1;
}

/* What direct_conn() says where there is no room: no connection's index + 1. */
#define DIRECT_FULL 0xffffffffu

/* The connection whose port a packet to a backend goes on from: index + 1; 0: it goes on from its own. */
TP_RARE __u32 direct_conn(const struct packet *p)
{
	const struct tp_settings *set;
	struct direct d = {};
	struct tp_conn *c;
	__u32 opened;

	if (!p)
		return 0;
	direct_find(&d, p);
	if (d.own) {
		c = conn_at(d.own - 1);
		if (c && !(is_opening(p) && conn_is_over(c) && conn_evict(d.own - 1))) {
			conn_saw_forward(c, p);
			return d.own;
		}
	}
	set = settings();
	/* What older programs have translated has the ends of theirs. */
	if (!d.holder || !set || (set->flags & TP_S_OLDER))
		return 0;
	c = conn_at(d.holder - 1);
	/* What does not open one began before the connection that has its ends. */
	if (!c || p->headless || (p->proto != IPPROTO_UDP && !is_opening(p)))
		return 0;
	/* From the port that the one before it had. */
	if (p->proto != IPPROTO_UDP && conn_is_over(c) && conn_evict(d.holder - 1))
		return 0;
	opened = direct_open(p, d.holder - 1);
	return opened ? opened : DIRECT_FULL;
}

#endif
