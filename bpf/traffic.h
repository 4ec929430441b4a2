/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting for the metrics, by service port or by endpoint. tp_traffic has one part for each processor, or for a few of
 * them; then they add atomically. All of it stands behind a knob: where nothing is counted, the verifier takes it out. */
#ifndef TRIPLANE_TRAFFIC_H
#define TRIPLANE_TRAFFIC_H

#include "atomic.h"
#include "conntrack.h"

enum way {
	WAY_IN = 0,
	WAY_OUT,
};

/* The counters of a frontend's service port, or of the backend. */
static __always_inline struct tp_traffic *traffic_at(__u32 frontend, __u32 backend)
{
	__u32 index = backend;
	struct tp_frontend *f;

	if (!tp_knobs.traffic_by_backend) {
		f = frontend_at(frontend);
		if (!f)
			return NULL;
		index = f->service;
	}
	/* What has been given a number since then that there is no room for. */
	if (index >= tp_knobs.traffic_stride)
		return NULL;
	index += (bpf_get_smp_processor_id() & tp_knobs.traffic_part_mask) * tp_knobs.traffic_stride;
	return bpf_map_lookup_elem(&tp_traffic, &index);
}

/* Not inline, so that what it needs of the stack is not that of its callers. */
TP_RARE int traffic_packet(__u32 frontend, __u32 backend, __u32 way, __u32 bytes)
{
	struct tp_traffic *t = traffic_at(frontend, backend);

	if (!t || way > WAY_OUT)
		return 0;
	if (tp_knobs.traffic_shared) {
		add64(&t->packets[way], 1);
		add64(&t->bytes[way], bytes);
		return 0;
	}
	t->packets[way] += 1;
	t->bytes[way] += bytes;
	return 0;
}

/* A packet in the hands of softirq, which nothing else of ours interrupts on its processor. */
static __always_inline void count_packet(__u32 frontend, __u32 backend, int way, __u32 bytes)
{
	if (tp_knobs.traffic >= TP_TRAFFIC_PACKETS)
		traffic_packet(frontend, backend, way, bytes);
}

/* From processes as well, which may be interrupted: always atomic. */
TP_RARE int traffic_connection(__u32 frontend, __u32 backend)
{
	struct tp_traffic *t = traffic_at(frontend, backend);

	if (t)
		add64(&t->connections, 1);
	return 0;
}

static __always_inline void count_connection(__u32 frontend, __u32 backend)
{
	if (tp_knobs.traffic >= TP_TRAFFIC_CONNECTIONS)
		traffic_connection(frontend, backend);
}

#endif
