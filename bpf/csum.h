/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Incremental Internet checksums (RFC 1624, equation 3) for XDP, where the program owns the bytes. At tc a
 * checksum may be partial and the helpers of the kernel know it: see rewrite.h. */
#ifndef TRIPLANE_CSUM_H
#define TRIPLANE_CSUM_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

/* Differences are sums of 32-bit words in 64 bits: up to 2^32 of them cannot overflow. */
static __always_inline __u64 csum_replace(__u64 diff, __u32 from, __u32 to)
{
	return diff + (__u32)~from + to;
}

static __always_inline __u64 csum_replace_addr(__u64 diff, const struct tp_addr *from, const struct tp_addr *to,
					       int family)
{
	diff = csum_replace(diff, from->w[0], to->w[0]);
	if (family == 4)
		return diff;
	diff = csum_replace(diff, from->w[1], to->w[1]);
	diff = csum_replace(diff, from->w[2], to->w[2]);
	return csum_replace(diff, from->w[3], to->w[3]);
}

static __always_inline __u32 csum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = csum_fold32(sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* The checksum field after its data changed by `diff`. */
static __always_inline __u16 csum_update(__u16 check, __u64 diff)
{
	return (__u16)~csum_fold((__u16)~check + diff);
}

/* What a stack leaves in the field when the device is to finish the sum: the folded pseudo header, not
 * complemented. A finished checksum looks so once in 65,536. */
static __always_inline __u16 csum_pseudo(const struct tp_addr *src, const struct tp_addr *dst, __u32 l4_len,
					 __u8 proto, int family)
{
	__u64 sum = (__u64)src->w[0] + dst->w[0];

	if (family == 6) {
		sum += (__u64)src->w[1] + src->w[2] + src->w[3];
		sum += (__u64)dst->w[1] + dst->w[2] + dst->w[3];
	}
	sum += bpf_htonl(l4_len);
	sum += bpf_htonl(proto);
	return csum_fold(sum);
}

#endif
