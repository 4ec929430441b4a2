/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What goes to where cluster IPs are, and to no frontend: a port that no service has there, an address that none has. */
#ifndef TRIPLANE_CLUSTER_H
#define TRIPLANE_CLUSTER_H

#include "pick.h"

/* Whether an address lies where cluster IPs and service CIDRs are; nearly no packet's does. */
static __always_inline int in_cluster_span(const struct tp_settings *set, const struct tp_addr *addr, int family)
{
	const int f = FAMILY_INDEX(family);

	for (int i = 0; i < (family == 4 ? 1 : 4); i++) {
		__u32 at = bpf_ntohl(addr->w[i]);
		__u32 low = bpf_ntohl(set->cluster_low[f].w[i]), high = bpf_ntohl(set->cluster_high[f].w[i]);

		if (at < low || at > high)
			return 0;
		/* Words behind the first that differs from both ends say nothing more. */
		if (low != high)
			return 1;
	}
	return 1;
}

/* No frontend, but perhaps the address of one (undefined port: reject), or one that no service has (drop). */
TP_RARE int cluster_verdict(const struct packet *p)
{
	const struct tp_settings *set = settings();
	struct packet address = {};
	struct tp_frontend *f;
	__u32 index = 0;

	if (!p || !set || (set->flags & TP_S_DRAIN))
		return V_PASS;
	copy_addr(&address.dst, &p->dst);
	address.family = p->family;
	f = frontend_find(&address, p->family, &index);
	if (f && TP_POOL_ANSWER(f->inside) == TP_REJECT)
		return V_REJECT;
	if (f)
		return V_PASS;
	if (!prefixes_have(set->service_cidrs[FAMILY_INDEX(p->family) & 1],
			   set->service_cidr_count[FAMILY_INDEX(p->family) & 1], &p->dst, p->family))
		return V_PASS;
	count(TP_N_UNALLOCATED);
	return V_DROP;
}

#endif
