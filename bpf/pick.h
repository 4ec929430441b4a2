/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What answers a new connection, and which backend gets it. */
#ifndef TRIPLANE_PICK_H
#define TRIPLANE_PICK_H

#include "conntrack.h"

enum verdict {
	GO_ON = 0,
	/* Not for us: to the stack, untouched. */
	V_PASS,
	V_DROP,
	V_REJECT,
	/* The frontend was withdrawn: to a new connection its address and port are those of none. */
	V_GONE,
	/* Source ranges say no; dropped like V_DROP, but XDP may do it too. */
	V_GUARDED,
};

/* Where a new connection comes from, as the local detector says. */
enum origin {
	FROM_STRANGER = 0,
	FROM_POD,
	FROM_NODE,
};

static __always_inline int prefix_has(const struct tp_prefix *prefix, const struct tp_addr *addr, int family)
{
	if ((addr->w[0] & prefix->mask.w[0]) != prefix->addr.w[0])
		return 0;
	if (family == 4)
		return 1;
	return (addr->w[1] & prefix->mask.w[1]) == prefix->addr.w[1] &&
	       (addr->w[2] & prefix->mask.w[2]) == prefix->addr.w[2] &&
	       (addr->w[3] & prefix->mask.w[3]) == prefix->addr.w[3];
}

static __always_inline int prefixes_have(const struct tp_prefix *prefixes, __u32 count, const struct tp_addr *addr,
					 int family)
{
	for (__u32 i = 0; i < TP_PREFIXES; i++) {
		if (i >= count)
			break;
		if (prefix_has(&prefixes[i], addr, family))
			return 1;
	}
	return 0;
}

#define FAMILY_INDEX(family) ((family) == 4 ? 0 : 1)

/* The origin of what arrives through a device; the node's own packets do not arrive. */
static __always_inline int origin_of(const struct tp_settings *set, const struct packet *p, __u32 ifindex,
				     int family)
{
	const int f = FAMILY_INDEX(family);
	struct tp_device *device;

	if (prefixes_have(set->pod_cidrs[f], set->pod_cidr_count[f], &p->src, family))
		return FROM_POD;
	device = bpf_map_lookup_elem(&tp_devices, &ifindex);
	return device && (device->flags & TP_D_PODS) ? FROM_POD : FROM_STRANGER;
}

/* Asked only where it makes a difference. */
static __always_inline int origin_for(const struct tp_settings *set, const struct tp_frontend *f,
				      const struct packet *p, __u32 ifindex)
{
	if (f->inside == f->outside && !(f->flags & TP_F_MASQ_STRANGERS))
		return FROM_STRANGER;
	return origin_of(set, p, ifindex, p->family);
}

static __always_inline int guard_allows(const struct tp_frontend *f, const struct packet *p)
{
	struct tp_range_key key = { .prefixlen = 32 + 128, .guard = f->guard };

	copy_addr(&key.addr, &p->src);
	return bpf_map_lookup_elem(&tp_ranges, &key) != NULL;
}

/* The pool that answers a new connection, or the verdict where none does. */
static __always_inline int answer_new(const struct tp_settings *set, const struct tp_frontend *f,
				      const struct packet *p, int origin, __u64 *pool)
{
	/* A reset that belongs to nothing makes no connection. */
	if ((set->flags & TP_S_DRAIN) || (p->tcp_flags & TCP_RST))
		return V_PASS;
	*pool = *(const volatile __u64 *)(origin == FROM_STRANGER ? &f->outside : &f->inside);
	if (TP_POOL_ANSWER(*pool) == TP_GONE)
		return V_GONE;
	if ((f->flags & TP_F_GUARDED) && !guard_allows(f, p)) {
		count(TP_N_GUARDED);
		return V_GUARDED;
	}
	if (TP_POOL_ANSWER(*pool) == TP_REJECT)
		return V_REJECT;
	if (TP_POOL_ANSWER(*pool) == TP_DROP || !TP_POOL_COUNT(*pool))
		return V_DROP;
	return GO_ON;
}

/* A backend of the pool by chance; index + 1, 0 if the tables contradict each other. */
static __always_inline __u32 pick_any(__u64 pool)
{
	__u32 n = ((__u64)bpf_get_prandom_u32() * TP_POOL_COUNT(pool)) >> 32;
	__u32 where = TP_POOL_BASE(pool) + n;
	__u32 *slot = bpf_map_lookup_elem(&tp_pool_slots, &where);

	return slot ? *slot + 1 : 0;
}

/* The backend that this client had before, if it still belongs to the pool's kind: index + 1, else 0. */
static __always_inline __u32 affinity_find(const struct tp_frontend *f, const struct tp_affinity_key *key, __u64 pool)
{
	__u16 member = TP_POOL_ANSWER(pool) == TP_LOCAL ? TP_B_IN_LOCAL : TP_B_IN_CLUSTER;
	struct tp_affinity *a = bpf_map_lookup_elem(&tp_affinities, key);
	__u32 now = ticks_now();
	struct tp_backend *b;

	if (!a || now - a->last_used > f->affinity)
		return 0;
	b = backend_at(a->backend);
	if (!b || b->incarnation != a->incarnation || !(b->flags & member))
		return 0;
	a->last_used = now;
	return a->backend + 1;
}

static __always_inline void affinity_learn(const struct tp_affinity_key *key, __u32 backend)
{
	struct tp_affinity value = { .backend = backend, .last_used = ticks_now() };
	struct tp_backend *b = backend_at(backend);

	if (!b)
		return;
	value.incarnation = b->incarnation;
	if (bpf_map_update_elem(&tp_affinities, key, &value, BPF_ANY))
		count(TP_N_AFFINITY_FULL);
}

/* Index + 1 of the backend for a new connection of the client under a frontend with affinity; 0 if the tables
 * contradict each other. */
TP_RARE __u32 pick_sticky(const struct tp_addr *client, __u32 frontend, __u64 pool)
{
	struct tp_frontend *f = frontend_at(frontend);
	struct tp_affinity_key key = {};
	__u32 picked;

	if (!f || !client)
		return 0;
	copy_addr(&key.client, client);
	key.service = f->service;
	picked = affinity_find(f, &key, pool);
	if (picked)
		return picked;
	picked = pick_any(pool);
	if (picked)
		affinity_learn(&key, picked - 1);
	return picked;
}

static __always_inline int masquerades(const struct tp_settings *set, const struct tp_frontend *f,
				       __u64 pool, const struct tp_backend *b, const struct packet *p,
				       int origin)
{
	const int which = FAMILY_INDEX(p->family);

	if (TP_POOL_MASQ(pool))
		return 1;
	/* An address of the node's own may lie among the pods'. */
	if (origin == FROM_NODE && (f->flags & TP_F_MASQ_NODE) &&
	    !prefixes_have(set->pod_cidrs[which], set->pod_cidr_count[which], &p->src, p->family))
		return 1;
	if ((f->flags & TP_F_MASQ_STRANGERS) && (set->flags & TP_S_DETECTOR) && origin == FROM_STRANGER)
		return 1;
	/* Hairpin: the backend reaches itself, and would answer itself. */
	return same_addr(&b->addr, &p->src, p->family);
}

#endif
