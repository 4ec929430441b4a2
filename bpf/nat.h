/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two ways back from a backend's packet to its connection: by NAT port where the source was masqueraded,
 * by both ends where it was not. Both hold connection indexes and are checked against the connection itself. */
#ifndef TRIPLANE_NAT_H
#define TRIPLANE_NAT_H

#include "conntrack.h"

/* Port number n (from 0) of the two ranges, in the machine's byte order. */
static __always_inline __u32 nat_port_count(void)
{
	__u32 second = tp_knobs.nat_ports[2] ? tp_knobs.nat_ports[3] - tp_knobs.nat_ports[2] + 1 : 0;

	return tp_knobs.nat_ports[1] - tp_knobs.nat_ports[0] + 1 + second;
}

static __always_inline __u16 nat_port_number(__u32 n)
{
	__u32 first = tp_knobs.nat_ports[1] - tp_knobs.nat_ports[0] + 1;

	return n < first ? tp_knobs.nat_ports[0] + n : tp_knobs.nat_ports[2] + (n - first);
}

/* Takes the port as it is in the packet. */
static __always_inline int is_nat_port(__u16 port)
{
	port = bpf_ntohs(port);
	if (port >= tp_knobs.nat_ports[0] && port <= tp_knobs.nat_ports[1])
		return 1;
	return tp_knobs.nat_ports[2] && port >= tp_knobs.nat_ports[2] && port <= tp_knobs.nat_ports[3];
}

#define NAT_WORD(tag, index) ((__u32)(tag) << 24 | ((index) + 1))
#define NAT_INDEX(word) (((word) & 0xffffff) - 1)
#define NAT_TAG(word) ((word) >> 24)

/* The slot of `port` (machine order) in the part of tp_nat that belongs to this backend. */
static __always_inline __u32 *nat_slot(__u64 hash, __u16 port)
{
	__u32 at = ((__u32)hash + port) & tp_knobs.nat_mask;
	__u32 where = at / TP_NAT_SLOTS;
	struct tp_nat_line *line = bpf_map_lookup_elem(&tp_nat, &where);

	if (!line)
		return NULL;
	keep(line);
	return &line->slot[at % TP_NAT_SLOTS];
}

static __always_inline __u32 nat_tag(__u64 hash, __u16 port)
{
	return ((__u32)(hash >> 32) ^ port) & 255;
}

/* A port by chance, in the machine's byte order. A function of its own, because the verifier would follow a
 * known number through every turn of the loop below. */
TP_RARE __u32 nat_port_any(void)
{
	return nat_port_number(((__u64)bpf_get_prandom_u32() * nat_port_count()) >> 32);
}

/* Claims another NAT port by chance for the connection, toward the backend of which `hash` is. Network order, 0:
 * exhausted. */
TP_RARE __u32 nat_claim_any(__u32 conn, __u64 hash)
{
	for (int try = 0; try < TP_NAT_TRIES; try++) {
		__u32 port = nat_port_any() & 0xffff;
		__u32 *slot = nat_slot(hash, port);

		if (!slot)
			return 0;
		if (!*slot && cas32(slot, 0, NAT_WORD(nat_tag(hash, port), conn)))
			return bpf_htons(port);
	}
	return 0;
}

/* A NAT port that a connection would like to have. */
struct nat_wish {
	__u64 hash;
	/* In the machine's byte order. */
	__u32 port;
	/* What its slot held: 0 is free. */
	__u32 word;
};

/* Looks at the slot of the port that the connection will try first: its client's own (network order) if it is in
 * range, else one by chance. Before the entry is claimed, so that the processor fetches both at a time: a claim, which
 * is a locked instruction, lets no later read begin before it. */
static __always_inline void nat_wish(struct nat_wish *wish, const struct tp_backend *b, __u16 own, __u8 proto,
				     int family)
{
	__u32 *slot;

	wish->hash = tp_hash_nat(tp_knobs.seed, &b->addr, b->port, proto, family);
	wish->port = is_nat_port(own) ? bpf_ntohs(own) :
					nat_port_number(((__u64)bpf_get_prandom_u32() * nat_port_count()) >> 32);
	slot = nat_slot(wish->hash, wish->port);
	wish->word = slot ? *(volatile __u32 *)slot : 1;
}

/* Claims a NAT port, the one that was looked at if it is still free. Network order, 0: exhausted. */
static __always_inline __u32 nat_claim(__u32 conn, const struct nat_wish *wish)
{
	__u32 *slot = wish->word ? NULL : nat_slot(wish->hash, wish->port);

	if (slot && cas32(slot, 0, NAT_WORD(nat_tag(wish->hash, wish->port), conn)))
		return bpf_htons(wish->port);
	return nat_claim_any(conn, wish->hash);
}

static __always_inline void nat_release(const struct tp_conn *c, __u32 index, const struct tp_backend *b,
					int family)
{
	__u64 hash = tp_hash_nat(tp_knobs.seed, &b->addr, b->port, c->proto, family);
	__u16 port = bpf_ntohs(c->nat_port);
	__u32 *slot = nat_slot(hash, port);

	if (slot)
		cas32(slot, NAT_WORD(nat_tag(hash, port), index), 0);
}

/* The connection whose backend is (addr, port) and whose NAT address and port are (nat_addr, nat_port): the
 * whole reply tuple. */
static __always_inline void nat_find(struct conn_ref *ref, const struct tp_addr *addr, __u16 port,
				     const struct tp_addr *nat_addr, __u16 nat_port, __u8 proto, int family)
{
	__u64 hash = tp_hash_nat(tp_knobs.seed, addr, port, proto, family);
	__u32 *slot = nat_slot(hash, bpf_ntohs(nat_port));
	struct tp_backend *b;
	struct tp_conn *c;
	__u32 word;

	ref->conn = NULL;
	if (!slot)
		return;
	word = *slot;
	if (!word || NAT_TAG(word) != nat_tag(hash, bpf_ntohs(nat_port)))
		return;
	c = conn_at(NAT_INDEX(word));
	if (!c || !conn_lives(c) || c->nat_port != nat_port || c->proto != proto || c->family != family)
		return;
	if (!same_addr(&c->nat_addr, nat_addr, family))
		return;
	b = backend_at(c->backend);
	if (!b || b->port != port || !same_addr(&b->addr, addr, family))
		return;
	ref->conn = c;
	ref->index = NAT_INDEX(word);
}

enum direction {
	NO_DIRECTION = 0,
	FORWARD,
	REPLY,
};

static __always_inline int pair_direction(const struct tp_conn *c, const struct tp_backend *b,
					  const struct packet *p, int family)
{
	if (conn_inner_port(c) == p->sport && b->port == p->dport && same_addr(&c->client, &p->src, family) &&
	    same_addr(&b->addr, &p->dst, family))
		return FORWARD;
	if (conn_inner_port(c) == p->dport && b->port == p->sport && same_addr(&c->client, &p->dst, family) &&
	    same_addr(&b->addr, &p->src, family))
		return REPLY;
	return NO_DIRECTION;
}

/* Whether tp_conns[index] is the connection of p's two ends. */
static __always_inline int pair_check(struct conn_ref *ref, __u32 index, const struct packet *p, int family)
{
	struct tp_conn *c = conn_at(index);
	struct tp_backend *b;

	if (!c || c->proto != p->proto || c->family != family || !conn_lives(c))
		return NO_DIRECTION;
	b = backend_at(c->backend);
	if (!b)
		return NO_DIRECTION;
	ref->conn = c;
	ref->index = index;
	return pair_direction(c, b, p, family);
}

static __always_inline __u64 pair_hash(const struct packet *p, int family)
{
	return tp_hash_pair(tp_knobs.seed, &p->src, p->sport, &p->dst, p->dport, p->proto, family);
}

static __always_inline __u64 *pair_slot(__u64 hash, __u32 try)
{
	__u32 where = ((__u32)hash + try / TP_BUCKET_SLOTS) & tp_knobs.pair_mask;
	struct tp_bucket *bucket = bpf_map_lookup_elem(&tp_pairs, &where);

	if (!bucket)
		return NULL;
	keep(bucket);
	return &bucket->slot[try % TP_BUCKET_SLOTS];
}

/* What pair_find() does not see at once. Connection index + 1, or 0. */
TP_RARE __u32 pair_find_far(const struct packet *p, __u64 hash)
{
	if (!p)
		return 0;
	for (__u32 try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u64 *slot = pair_slot(hash, try);
		struct conn_ref ref;

		if (!slot)
			return 0;
		if (!*slot || SLOT_TAG(*slot) != SLOT_TAG(hash))
			continue;
		if (pair_check(&ref, SLOT_INDEX(*slot), p, p->family))
			return ref.index + 1;
	}
	return 0;
}

/* The connection between the two ends of p, and in which of its directions p goes. */
static __always_inline int pair_find(struct conn_ref *ref, const struct packet *p, int family)
{
	__u64 hash = pair_hash(p, family);
	__u32 where = (__u32)hash & tp_knobs.pair_mask;
	struct tp_bucket *bucket = bpf_map_lookup_elem(&tp_pairs, &where);
	int full, direction;
	__u32 found;
	__u64 word;

	if (!bucket)
		return NO_DIRECTION;
	word = bucket_match(bucket, SLOT_TAG(hash), &full);
	if (!word && !full)
		return NO_DIRECTION;
	if (word) {
		direction = pair_check(ref, SLOT_INDEX(word), p, family);
		if (direction)
			return direction;
	}
	found = pair_find_far(p, hash);
	return found ? pair_check(ref, found - 1, p, family) : NO_DIRECTION;
}

/* Puts the connection where `hash` belongs. A slot once used and left (TP_TOMB) is as good as a free one. */
TP_RARE int pair_put(__u64 hash, __u32 conn)
{
	__u64 word = SLOT_WORD(hash >> 32, conn);

	for (__u32 try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u64 *slot = pair_slot(hash, try);
		__u64 old;

		if (!slot)
			return 0;
		old = *slot;
		if ((!old || old == TP_TOMB) && cas64(slot, old, word))
			return 1;
	}
	return 0;
}

TP_RARE int pair_drop(__u64 hash, __u32 conn)
{
	__u64 word = SLOT_WORD(hash >> 32, conn);

	for (__u32 try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u64 *slot = pair_slot(hash, try);

		if (!slot)
			return 0;
		if (*slot == word && cas64(slot, word, TP_TOMB))
			return 1;
	}
	return 0;
}

/* Where a connection stands in tp_pairs by the client's port that is given: conn_inner_port(), and that of a
 * TP_C_DIRECT as the client knows it as well. */
TP_RARE __u64 conn_pair_hash(__u32 index, __u32 client_port)
{
	struct tp_conn *c = conn_at(index);
	struct tp_backend *b;

	if (!c)
		return 0;
	b = backend_at(c->backend);
	if (!b)
		return 0;
	return tp_hash_pair(tp_knobs.seed, &c->client, client_port, &b->addr, b->port, c->proto, c->family);
}

/* Takes the connection's keys out of both indexes, before its backend or its entry changes. */
static __always_inline void conn_unlink(const struct tp_conn *c, __u32 index)
{
	struct tp_backend *b = backend_at(c->backend);

	if (!b)
		return;
	if (c->nat_port)
		nat_release(c, index, b, c->family);
	if (c->flags & TP_C_PAIR)
		pair_drop(conn_pair_hash(index, conn_inner_port(c)), index);
}

#endif
