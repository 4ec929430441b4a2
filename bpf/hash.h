/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Hashes, shared with native/. Keys that clients choose go through SipHash-1-3 (Aumasson and Bernstein,
 * "SipHash: a fast short-input PRF", 2012) with a secret seed; keys that only the cluster's owner chooses go
 * through a seeded multiplication. */
#ifndef TRIPLANE_HASH_H
#define TRIPLANE_HASH_H

#include "abi.h"

#ifdef __bpf__
#define TP_INLINE static __always_inline
#else
#define TP_INLINE static inline
#endif

TP_INLINE __u64 tp_rotl(__u64 x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

struct tp_sip {
	__u64 v0, v1, v2, v3;
};

TP_INLINE void tp_sip_round(struct tp_sip *s)
{
	s->v0 += s->v1;
	s->v1 = tp_rotl(s->v1, 13) ^ s->v0;
	s->v0 = tp_rotl(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = tp_rotl(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = tp_rotl(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = tp_rotl(s->v1, 17) ^ s->v2;
	s->v2 = tp_rotl(s->v2, 32);
}

TP_INLINE void tp_sip_start(struct tp_sip *s, const volatile __u64 *seed)
{
	s->v0 = seed[0] ^ 0x736f6d6570736575ull;
	s->v1 = seed[1] ^ 0x646f72616e646f6dull;
	s->v2 = seed[0] ^ 0x6c7967656e657261ull;
	s->v3 = seed[1] ^ 0x7465646279746573ull;
}

TP_INLINE void tp_sip_word(struct tp_sip *s, __u64 word)
{
	s->v3 ^= word;
	tp_sip_round(s);
	s->v0 ^= word;
}

TP_INLINE __u64 tp_sip_end(struct tp_sip *s)
{
	s->v2 ^= 0xff;
	tp_sip_round(s);
	tp_sip_round(s);
	tp_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

TP_INLINE __u64 tp_addr_low(const struct tp_addr *a)
{
	return (__u64)a->w[1] << 32 | a->w[0];
}

TP_INLINE __u64 tp_addr_high(const struct tp_addr *a)
{
	return (__u64)a->w[3] << 32 | a->w[2];
}

TP_INLINE __u64 tp_mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 32);
}

/* Where a frontend stands in tp_index: bucket from the low half, tag from the high. */
TP_INLINE __u64 tp_hash_frontend(const volatile __u64 *seed, const struct tp_addr *addr, __u16 port, __u8 proto,
				 int family)
{
	__u64 h = seed[0];

	if (family == 4)
		return tp_mix(tp_mix(h, (__u64)addr->w[0] << 32 | (__u32)port << 8 | proto), seed[1]);
	h = tp_mix(h, tp_addr_low(addr));
	h = tp_mix(h, tp_addr_high(addr));
	return tp_mix(h, (__u64)port << 8 | proto | seed[1] << 32);
}

/* Where a backend's NAT ports begin in tp_nat (low half), and a tag that tells backends apart (high half). */
TP_INLINE __u64 tp_hash_nat(const volatile __u64 *seed, const struct tp_addr *addr, __u16 port, __u8 proto,
			    int family)
{
	return tp_hash_frontend(seed, addr, port, proto ^ 0x80, family);
}

/* Where a connection stands in tp_conns. */
TP_INLINE __u64 tp_hash_conn(const volatile __u64 *seed, const struct tp_addr *client, __u16 port, __u32 frontend,
			     int family)
{
	struct tp_sip s;

	tp_sip_start(&s, seed);
	if (family == 4) {
		/* Injective in the client for any one frontend. */
		tp_sip_word(&s, (__u64)client->w[0] << 32 | (frontend ^ (__u32)port << 16));
	} else {
		tp_sip_word(&s, tp_addr_low(client));
		tp_sip_word(&s, tp_addr_high(client));
		tp_sip_word(&s, (__u64)port << 32 | frontend);
	}
	return tp_sip_end(&s);
}

/* One to one, and not a straight line: see tp_hash_pair(). What differs most, the last byte of an address, is to be in
 * the middle of the word. */
TP_INLINE __u64 tp_mix_end(const volatile __u64 *seed, __u32 high, __u64 low)
{
	return tp_mix(seed[0], (__u64)high << 32 | low);
}

/* Where the two ends of a connection stand in tp_pairs; the same from both directions. Each address is mixed
 * before the two are added: mixing is one to one, so for any one backend the sums tell all clients apart, and a client
 * gains nothing by choosing its addresses; and addresses that count upward, as pods' do, do not add up to the same
 * sum as their neighbours'. */
TP_INLINE __u64 tp_hash_pair(const volatile __u64 *seed, const struct tp_addr *a, __u16 a_port,
			     const struct tp_addr *b, __u16 b_port, __u8 proto, int family)
{
	struct tp_sip s;
	__u64 ends;

	/* Before there is a state: stack is short here (conn_pair_hash() ends the longest chain of calls). */
	if (family == 4) {
		ends = tp_mix_end(seed, 0, (__u64)a->w[0] << 16 | a_port) +
		       tp_mix_end(seed, 0, (__u64)b->w[0] << 16 | b_port) + proto;
		tp_sip_start(&s, seed);
		tp_sip_word(&s, ends);
		return tp_sip_end(&s);
	}
	tp_sip_start(&s, seed);
	tp_sip_word(&s, tp_mix_end(seed, a->w[0], a->w[1]) + tp_mix_end(seed, b->w[0], b->w[1]));
	tp_sip_word(&s, tp_mix_end(seed, a->w[2], a->w[3]) + tp_mix_end(seed, b->w[2], b->w[3]));
	tp_sip_word(&s, ((__u64)a_port + b_port) << 8 | proto);
	return tp_sip_end(&s);
}

#endif
