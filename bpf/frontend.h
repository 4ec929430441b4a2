/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which frontend an address, port and protocol are. A packet that is for none costs one cache line. */
#ifndef TRIPLANE_FRONTEND_H
#define TRIPLANE_FRONTEND_H

#include "hash.h"
#include "maps.h"
#include "parse.h"

static __always_inline int same_addr(const struct tp_addr *a, const struct tp_addr *b, int family)
{
	if (a->w[0] != b->w[0])
		return 0;
	return family == 4 || (a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3]);
}

static __always_inline void copy_addr(struct tp_addr *to, const struct tp_addr *from)
{
	to->w[0] = from->w[0];
	to->w[1] = from->w[1];
	to->w[2] = from->w[2];
	to->w[3] = from->w[3];
}

static __always_inline int no_addr(const struct tp_addr *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}

#define SLOT_WORD(tag, index) ((__u64)(__u32)(tag) << 32 | ((index) + 1))
#define SLOT_INDEX(word) ((__u32)(word) - 1)
#define SLOT_TAG(word) ((__u32)((word) >> 32))

/* The first slot with this tag, or 0. `full` says that there is no free slot: the next bucket may have more. */
static __always_inline __u64 bucket_match(const struct tp_bucket *bucket, __u32 tag, int *full)
{
	__u64 word = 0;

	*full = bucket->slot[TP_BUCKET_SLOTS - 1] != 0;
#pragma unroll
	for (int i = 0; i < TP_BUCKET_SLOTS; i++) {
		word = bucket->slot[i];
		if (SLOT_TAG(word) == tag && word)
			return word;
	}
	return 0;
}

static __always_inline struct tp_frontend *frontend_at(__u32 index)
{
	return bpf_map_lookup_elem(&tp_frontends, &index);
}

static __always_inline int frontend_is(const struct tp_frontend *f, const struct tp_addr *addr, __u16 port,
				       __u8 proto, int family)
{
	return f->port == port && f->proto == proto && f->family == family && same_addr(&f->addr, addr, family);
}

/* What frontend_find() does not see at once: two tags that are alike, a bucket that ran over. Index + 1 or 0. */
TP_RARE __u32 frontend_find_far(const struct packet *p, __u64 hash)
{
	if (!p)
		return 0;
	for (int try = 0; try < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; try++) {
		__u32 where = ((__u32)hash + try / TP_BUCKET_SLOTS) & tp_knobs.index_mask;
		struct tp_bucket *bucket = bpf_map_lookup_elem(&tp_index, &where);
		struct tp_frontend *f;
		__u64 word;

		if (!bucket)
			return 0;
		word = bucket->slot[try % TP_BUCKET_SLOTS];
		if (SLOT_TAG(word) != SLOT_TAG(hash) || !word)
			continue;
		f = frontend_at(SLOT_INDEX(word));
		if (f && frontend_is(f, &p->dst, p->dport, p->proto, p->family))
			return (__u32)word;
	}
	return 0;
}

/* The frontend that p goes to; `index` receives its identity. */
static __always_inline struct tp_frontend *frontend_find(const struct packet *p, int family, __u32 *index)
{
	__u64 hash = tp_hash_frontend(tp_knobs.seed, &p->dst, p->dport, p->proto, family);
	__u32 where = (__u32)hash & tp_knobs.index_mask;
	struct tp_bucket *bucket = bpf_map_lookup_elem(&tp_index, &where);
	__u32 found;
	__u64 word;
	int full;

	if (!bucket)
		return NULL;
	word = bucket_match(bucket, SLOT_TAG(hash), &full);
	if (word) {
		struct tp_frontend *f = frontend_at(SLOT_INDEX(word));

		*index = SLOT_INDEX(word);
		if (f && frontend_is(f, &p->dst, p->dport, p->proto, family))
			return f;
	}
	if (!word && !full)
		return NULL;
	found = frontend_find_far(p, hash);
	if (!found)
		return NULL;
	*index = found - 1;
	return frontend_at(found - 1);
}

#endif
