/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is counted: the part of abi.h that tells people about packets. */
#ifndef TRIPLANE_COUNTERS_H
#define TRIPLANE_COUNTERS_H

#include <linux/types.h>

#include "static-assert.h"

/* Per-CPU counters, one u64 each. */
enum tp_counter {
	TP_N_NEW = 0,
	TP_N_REPICKED,
	TP_N_CONNS_FULL,
	TP_N_PAIRS_FULL,
	TP_N_NAT_FULL,
	TP_N_TUPLE_TAKEN,
	TP_N_BUSY,
	TP_N_REJECTED,
	TP_N_DROPPED,
	TP_N_GUARDED,
	TP_N_UNALLOCATED,
	TP_N_FRAGMENT_LOST,
	TP_N_AFFINITY_FULL,
	TP_N_NO_ROUTE,
	TP_N_XDP_FORWARDED,
	TP_N_ICMP_TRANSLATED,
	/* Passed untouched because the kernel translates it. */
	TP_N_KERNEL_OWNED,
	/* Packets of whole connections that were answered with "time exceeded" or "too big". */
	TP_N_ICMP_ANSWERED,
	TP_COUNTERS,
};

/* What one service port, or one endpoint, has had on some processors: [0] toward the service, [1] back. */
struct tp_traffic {
	__u64 connections;
	__u64 packets[2];
	__u64 bytes[2];
};
TP_STATIC_ASSERT(sizeof(struct tp_traffic) == 40, "no holes");

/* tp_knobs.traffic */
enum tp_traffic_level {
	TP_TRAFFIC_OFF = 0,
	TP_TRAFFIC_CONNECTIONS = 1,
	TP_TRAFFIC_PACKETS = 2,
};

#endif
