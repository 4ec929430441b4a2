/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SCTP's checksum (RFC 9260, 6.8 and appendix A) after a change of its ports, without a look at the payload.
 *
 * A CRC is affine: of two messages of one length the sums differ by the plain remainder of their difference. That
 * is zero but for the ports, the first 4 bytes; so the sum changes by delta(x) * x^(8 * length) mod P, where length
 * is all of the packet from the ports on. Addresses are no part of the sum. */
#ifndef TRIPLANE_CRC32C_H
#define TRIPLANE_CRC32C_H

#include "maps.h"
#include "parse.h"

/* Castagnoli's polynomial, reflected: the highest bit of a word is the coefficient of x^0. */
#define CRC32C_POLY 0x82f63b78u

/* x^(8 * n * 16^k) mod P at [16 * k + n]: for each hexadecimal digit of a length. A section of its own, because
 * all of .rodata is written by the loader. */
const __u32 tp_crc32c[64] SEC(".rodata.crc32c") = {
	0x80000000, 0x00800000, 0x00008000, 0x00000080, 0x82f63b78, 0xfbc3faf9, 0x8b277743, 0x52a0c93f,
	0x6ea2d55c, 0x1c08b7d6, 0xf56e0ef4, 0x34019664, 0xa66805eb, 0x7a1f6b24, 0xe75d06aa, 0xc94ec098,
	0x80000000, 0x18b8ea18, 0x510ac59a, 0xb2dea967, 0xb82be955, 0x36c41f1c, 0x19b29a35, 0xc9e90b9e,
	0xb8fdb1e7, 0xe55ef1f3, 0x1fe0b5c3, 0xe0553f1e, 0x18e4a304, 0x2b830011, 0x56993a31, 0x0246e2e6,
	0x80000000, 0x88e56f72, 0x74c360a4, 0x631bb273, 0xe4172b16, 0x71892b1b, 0x835305c9, 0x196b1eae,
	0x0d65762a, 0xafc81338, 0xb5a50ab7, 0xf373c3ac, 0x5f60970f, 0xd46d3063, 0x3a5275ea, 0x02331c01,
	0x80000000, 0x35d73a62, 0x28461564, 0x43eefc9f, 0xbf455269, 0x5edcdeb9, 0x65059450, 0x4e6f41a4,
	0xe2ea32dc, 0xf5b95b32, 0x695a4c87, 0xf204502c, 0x9a4f01b6, 0x941a0916, 0x4303cb97, 0x4c3d3d65,
};

/* a * b mod P. Bits are multiplied rather than spread into masks: of a mask that is all zeroes or all ones newer
 * verifiers follow both cases, and there would be 2^64. */
static __always_inline __u32 crc32c_times(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= a * (b >> 31);
		b <<= 1;
		a = (a >> 1) ^ CRC32C_POLY * (a & 1);
	}
	return product;
}

/* delta * x^(8 * length) mod P. */
TP_RARE __u32 crc32c_shift(__u32 delta, __u32 length)
{
	for (__u32 k = 0; k < 4; k++) {
		__u32 digit = (length >> (4 * k)) & 15;

		if (digit)
			delta = crc32c_times(delta, tp_crc32c[16 * k + digit]);
	}
	return delta;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LITTLE16(x) ((__u16)(x))
#define LITTLE32(x) ((__u32)(x))
#else
#define LITTLE16(x) __builtin_bswap16(x)
#define LITTLE32(x) __builtin_bswap32(x)
#endif

/* By which the checksum field of p's packet changes when its ports become these. */
static __always_inline __u32 sctp_check_change(const struct packet *p, __u16 sport, __u16 dport)
{
	__u32 delta = LITTLE16(p->sport ^ sport) | (__u32)LITTLE16(p->dport ^ dport) << 16;

	return LITTLE32(crc32c_shift(delta, p->l3_len - (p->l4 - p->l3)));
}

#endif
