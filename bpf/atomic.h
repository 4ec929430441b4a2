/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Claiming by compare-and-swap (BPF_CMPXCHG, since Linux 5.12), and adding. */
#ifndef TRIPLANE_ATOMIC_H
#define TRIPLANE_ATOMIC_H

#include <linux/types.h>

/* Whether *word was `from` and is now `to`. Orders everything before it before everything after it. */
static __always_inline int cas32(volatile __u32 *word, __u32 from, __u32 to)
{
	return __sync_val_compare_and_swap(word, from, to) == from;
}

static __always_inline int cas64(volatile __u64 *word, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(word, from, to) == from;
}

static __always_inline void add64(__u64 *word, __u64 n)
{
	__sync_fetch_and_add(word, n);
}

#endif
