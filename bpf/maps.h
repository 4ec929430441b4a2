/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map: who owns it, who writes it, what bounds it. max_entries of 1 are set by the loader. Arrays are
 * mmapable: user space writes and reads them without system calls. */
#ifndef TRIPLANE_MAPS_H
#define TRIPLANE_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

const volatile struct tp_knobs tp_knobs = {
	.seed = { 1, 2 },
	.tick_shift = 8,
	.nat_ports = { 61000, 65535, 0, 0 },
};

#define TP_ARRAY(name, valtype)                       \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY);     \
		__uint(map_flags, BPF_F_MMAPABLE);    \
		__uint(max_entries, 1);               \
		__type(key, __u32);                   \
		__type(value, valtype);       \
	} name SEC(".maps")

/* What the programs obey. Written by user space. */
TP_ARRAY(tp_settings, struct tp_settings);
/* (address, port, protocol) -> frontend. Written by user space only. */
TP_ARRAY(tp_index, struct tp_bucket);
/* Written by user space only; pools flip by one store. */
TP_ARRAY(tp_frontends, struct tp_frontend);
/* Ranges of backend indexes, one range per pool and generation. Written by user space before the flip. */
TP_ARRAY(tp_pool_slots, __u32);
/* Written by user space, but for the cached next hop. */
TP_ARRAY(tp_backends, struct tp_backend);
/* Connections by client and frontend. Programs claim, fill and refresh; the collector takes down. */
TP_ARRAY(tp_conns, struct tp_conn_set);
/* (client, backend) -> connection, for those that netfilter sees. Programs add, the collector removes. */
TP_ARRAY(tp_pairs, struct tp_bucket);
/* (backend, NAT port) -> connection: claiming the slot is allocating the port. */
TP_ARRAY(tp_nat, struct tp_nat_line);
/* Next hops in use: few, so always in the nearest cache. */
TP_ARRAY(tp_hops, struct tp_hop);

/* What the metrics count, in parts of one record for each service or backend. Programs add; user space reads, and sets
 * to zero what gets another owner. Never pinned: each loader has its own. */
TP_ARRAY(tp_traffic, struct tp_traffic);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tp_device);
} tp_devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct tp_range_key);
	__type(value, __u32);
} tp_ranges SEC(".maps");

/* Full means that affinity is forgotten for new clients, and counted; nothing else is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tp_affinity_key);
	__type(value, struct tp_affinity);
} tp_affinities SEC(".maps");

/* Datagrams in pieces: lives for milliseconds, so the oldest may go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tp_fragment_key);
	__type(value, struct tp_fragment);
} tp_fragments SEC(".maps");

/* Peers that a socket believes it talks to, by what it really talks to. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tp_sock_key);
	__type(value, struct tp_sock_peer);
} tp_sock_peers SEC(".maps");

/* Which backend an unconnected UDP socket uses for a frontend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tp_sock_key);
	__type(value, struct tp_sock_peer);
} tp_sock_flows SEC(".maps");

/* UDP sockets (by cookie) that another dataplane's kernel served when they first sent to a frontend: their datagrams stay
 * with packets, so that a flow does not change its backend. User space names those that are there when we come;
 * programs, those that send while we stand by. Full means that flows of later ones may move. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, __u32);
} tp_sock_before SEC(".maps");

/* Cgroups (by id) of pods that are not to be served at their sockets. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} tp_optouts SEC(".maps");

/* NodePorts of this node by port: bit 0 TCP, bit 1 UDP. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} tp_nodeports SEC(".maps");

/* Ports that backends have, a bit each: what goes to another one is between no client and backend of ours. So small that
 * it stays in the nearest cache. Written by user space; a bit once set stays. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} tp_backendports SEC(".maps");

/* Names by tp_frontend.service. Of user space alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct tp_name);
} tp_names SEC(".maps");

/* Of user space alone. */
TP_ARRAY(tp_meta, struct tp_meta);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} tp_counters SEC(".maps");

/* The rare parts are global functions: verified once by themselves, whoever calls them, so that the programs
 * that do call them stay small enough for the verifier. They take scalars, the context and pointers to whole
 * structs; records are passed by index. */
#define TP_RARE __attribute__((noinline))

/* The compiler may not reckon with this pointer before the point where it was found not to be NULL. */
#define keep(pointer) asm volatile("" : "+r"(pointer))

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&tp_counters, &which);

	if (n)
		*n += 1;
}

static __always_inline const struct tp_settings *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&tp_settings, &zero);
}

static __always_inline __u32 ticks_now(void)
{
	return (__u32)(bpf_jiffies64() >> tp_knobs.tick_shift);
}

#endif
