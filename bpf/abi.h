/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The whole contract between the programs and user space: every value that a map holds. Included by bpf/ and
 * by native/; src/dataplane/ebpf/abi.ts is compared with the BTF of the built object by a test.
 *
 * Addresses are 16 bytes; an IPv4 address is in the first word, the others are zero. Addresses and ports are
 * in network byte order, everything else in the machine's. "index + 1" fields use 0 for "none". */
#ifndef TRIPLANE_ABI_H
#define TRIPLANE_ABI_H

#include <linux/types.h>

#include "counters.h"
#include "limits.h"
#include "static-assert.h"

/* Advanced whenever a layout below changes its meaning: maps of another layout are not adopted. */
#define TP_LAYOUT 5

struct tp_addr {
	__u32 w[4];
};

/* What answers a packet (src/model/desired.ts, Answer). TP_GONE: the frontend was withdrawn and stays only for
 * its established connections; to a new one it is no frontend. */
enum tp_answer {
	TP_GONE = 0,
	TP_CLUSTER = 1,
	TP_LOCAL = 2,
	TP_REJECT = 3,
	TP_DROP = 4,
};

/* A pool in one word, so that one 8-byte store flips all of it: base of its range in tp_pool_slots, number of
 * backends, answer, and whether everybody who gets it is masqueraded. */
#define TP_POOL_BASE(pool) ((__u32)(pool))
#define TP_POOL_COUNT(pool) ((__u32)((pool) >> 32) & 0xffffff)
#define TP_POOL_ANSWER(pool) ((__u32)((pool) >> 56) & 0x7f)
#define TP_POOL_MASQ(pool) ((__u32)((pool) >> 63))

enum tp_frontend_flag {
	TP_F_MASQ_STRANGERS = 1 << 0,
	/* For readers: programs go by the pool's word. */
	TP_F_MASQ_ALWAYS = 1 << 1,
	/* Source ranges apply: tp_ranges under `guard`. */
	TP_F_GUARDED = 1 << 2,
	/* XDP may forward what goes to a backend on another node. */
	TP_F_XDP = 1 << 3,
	/* Socket programs may translate for pods, for the node's own processes. */
	TP_F_SOCK_POD = 1 << 4,
	TP_F_SOCK_NODE = 1 << 5,
	/* No port: says that the address belongs to a service, so other ports of it are rejected. */
	TP_F_ADDRESS = 1 << 6,
	/* What the node's own processes send is masqueraded. */
	TP_F_MASQ_NODE = 1 << 7,
	/* Two bits at 8: kind (0 ClusterIP, 1 NodePort, 2 ExternalIP, 3 LoadBalancer), for user space only. */
};

struct tp_frontend {
	struct tp_addr addr;
	__u16 port;
	__u8 proto;
	__u8 family;
	__u32 flags;
	__u64 inside;
	__u64 outside;
	/* The DesiredPort: affinity is kept under it. */
	__u32 service;
	/* Session affinity in ticks (see tp_knobs.tick_shift), 0: none. */
	__u32 affinity;
	__u32 guard;
	__u32 spare[3];
};
TP_STATIC_ASSERT(sizeof(struct tp_frontend) == 64, "one cache line");

enum tp_backend_flag {
	/* The endpoint runs on this node. */
	TP_B_LOCAL = 1 << 0,
	/* Member of the service port's cluster pool, of its local pool, now. Neither: it is gone. */
	TP_B_IN_CLUSTER = 1 << 1,
	TP_B_IN_LOCAL = 1 << 2,
};

struct tp_backend {
	struct tp_addr addr;
	__u16 port;
	__u16 flags;
	/* Counts the owners that this record has had, so that old references are known as such. */
	__u32 incarnation;
	/* The next hop toward it as index + 1 in tp_hops, and the route generation in which that was true. */
	__u32 hop;
	__u32 hop_gen;
};
TP_STATIC_ASSERT(sizeof(struct tp_backend) == 32, "half a cache line");

/* Slots of an index: tag << 32 | record index + 1; 0 is free, 1 << 32 - 1 + tag 0 (TP_TOMB) was used. */
struct tp_bucket {
	__u64 slot[TP_BUCKET_SLOTS];
};
TP_STATIC_ASSERT(sizeof(struct tp_bucket) == 64, "one cache line");
#define TP_TOMB 0xffffffffull

/* NAT slots: 8 bits of tag << 24 | connection index + 1; 0 is free. Small, so that the table stays in the cache. */
#define TP_NAT_SLOTS 16
struct tp_nat_line {
	__u32 slot[TP_NAT_SLOTS];
};
TP_STATIC_ASSERT(sizeof(struct tp_nat_line) == 64, "one cache line");

/* Low four bits of tp_conn.state; the others are the tag. */
enum tp_conn_state {
	TP_FREE = 0,
	/* Being filled or taken down: its fields mean nothing. */
	TP_BUSY = 1,
	TP_LIVE = 2,
	/* The collector wants it; the next packet makes it live again. */
	TP_DYING = 3,
};
#define TP_STATE_MASK 15u
/* tp_conn.frontend of an entry that is nobody's and waits for the collector. */
#define TP_NOBODY 0xffffffffu
/* tp_conn.frontend of TP_C_DIRECT: no frontend's number, with that of the backend, which is part of the key. */
#define TP_TO_BACKEND(backend) (0x80000000u | (backend))

enum tp_conn_flag {
	/* The source is replaced at egress (split) or at once (whole). */
	TP_C_MASQ = 1 << 0,
	/* Both translations happen at once, by XDP or at tc ingress; not seen by netfilter. */
	TP_C_WHOLE = 1 << 1,
	/* The client is a process of this node. */
	TP_C_NODE = 1 << 2,
	/* Registered in tp_pairs. */
	TP_C_PAIR = 1 << 3,
	/* Another connection has the same client, client port and backend: this one goes to the backend from nat_port,
	 * from ingress on, so that nothing behind it takes the two for one. */
	TP_C_REMAP = 1 << 4,
	/* To no frontend: a client's own connection with a backend that has the two ends of one of ours. Always remapped,
	 * and in tp_pairs under the ends that the client knows as well. */
	TP_C_DIRECT = 1 << 5,
};

/* What one direction has shown: tp_conn.seen_forward, seen_reply. */
enum tp_seen {
	TP_SEEN_ANY = 1 << 0,
	TP_SEEN_FIN = 1 << 1,
	TP_SEEN_RST = 1 << 2,
	/* Forward only: more than the opening SYN. */
	TP_SEEN_MORE = 1 << 3,
};

struct tp_conn {
	__u32 state;
	__u32 frontend;
	struct tp_addr client;
	__u16 client_port;
	__u8 proto;
	__u8 flags;
	__u32 backend;
	/* In ticks. */
	__u32 last_seen;
	/* 0: none claimed yet. */
	__u16 nat_port;
	__u8 seen_forward;
	__u8 seen_reply;
	struct tp_addr nat_addr;
	/* Next hops as index + 1, true in route generation hop_gen. */
	__u16 hop_forward;
	__u16 hop_reply;
	__u16 hop_gen;
	/* Way 0 only, and about the set: a connection of this set lives in the next one. */
	__u8 spilled;
	__u8 family;
};
TP_STATIC_ASSERT(sizeof(struct tp_conn) == 64, "one cache line");

struct tp_conn_set {
	struct tp_conn way[TP_CONN_WAYS];
};
TP_STATIC_ASSERT(sizeof(struct tp_conn_set) == 256, "four cache lines");

/* A next hop. `ifindex`, `dmac` and `mtu` (the route's, of which there may be several by one neighbour) never change
 * once they are claimed; the rest is refreshed when `gen` is old. */
struct tp_hop {
	/* TP_FREE, TP_BUSY or TP_LIVE. */
	__u32 state;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
	__u32 mtu;
	__u32 gen;
	__u32 nat4;
	struct tp_addr nat6;
	/* The device's: enum tp_device_flag. */
	__u32 flags;
	__u32 spare[3];
};
TP_STATIC_ASSERT(sizeof(struct tp_hop) == 64, "one cache line");

enum tp_device_flag {
	/* Traffic that arrives here is from pods (detectors by bridge and by prefix). */
	TP_D_PODS = 1 << 0,
	/* What XDP sends by this device gets through: drivers may lack it, and then drop without a word. */
	TP_D_XDP_SEND = 1 << 1,
};

/* By ifindex: what masquerade uses as the source on this device. */
struct tp_device {
	__u32 flags;
	__u32 nat4;
	struct tp_addr nat6;
};
TP_STATIC_ASSERT(sizeof(struct tp_device) == 24, "no holes");

struct tp_prefix {
	struct tp_addr addr;
	struct tp_addr mask;
};

/* Places of tp_tails. */
enum tp_tail {
	TP_TAIL_IN_RARE = 0,
	TP_TAIL_OUT_RARE = 1,
	TP_TAIL_IN_ICMP = 2,
	TP_TAIL_OUT_ICMP = 3,
	TP_TAIL_REJECT = 4,
	TP_TAIL_STUCK = 5,
	TP_TAIL_NODE = 6,
	TP_TAILS = 7,
};

enum tp_setting {
	/* Nothing new is picked: another dataplane has taken over. */
	TP_S_DRAIN = 1 << 0,
	/* What the node's own processes send to frontends is translated at tc egress (uplinks and lo). */
	TP_S_NODE_EGRESS = 1 << 1,
	/* Routes depend on the source: the next hop toward a backend is not shared by its connections. */
	TP_S_SOURCE_ROUTES = 1 << 2,
	/* Socket programs: for the node's own processes, for pods. */
	TP_S_SOCK_NODE = 1 << 3,
	TP_S_SOCK_POD = 1 << 4,
	/* tp_optouts has entries. */
	TP_S_SOCK_OPTOUT = 1 << 5,
	/* Masquerade can tell pods from strangers. */
	TP_S_DETECTOR = 1 << 6,
	/* Connections that the kernel translates may be about: where we have no entry its conntrack is asked
	 * (needs tp_knobs.has_ct_lookup), and what it translates passes untouched. */
	TP_S_ASK_KERNEL = 1 << 7,
	/* Programs over older tables stand before ours at tc and go on with what they have: nothing is opened that they
	 * have not passed on untouched. */
	TP_S_OLDER = 1 << 8,
};

struct tp_settings {
	__u32 flags;
	/* Advanced by user space with every change of routes, neighbours, links or addresses. Never 0. */
	__u32 route_gen;
	/* Network namespace cookie of the node. */
	__u64 node_netns;
	/* Every cluster IP and service CIDR lies between these (bytewise); index 0 is IPv4. */
	struct tp_addr cluster_low[2];
	struct tp_addr cluster_high[2];
	struct tp_prefix service_cidrs[2][TP_PREFIXES];
	struct tp_prefix pod_cidrs[2][TP_PREFIXES];
	__u32 service_cidr_count[2];
	__u32 pod_cidr_count[2];
};
TP_STATIC_ASSERT(sizeof(struct tp_settings) == 16 + 64 + 2 * 2 * TP_PREFIXES * 32 + 16, "no holes");

/* Longest-prefix-match key of the source ranges; a frontend's ranges lie under its `guard`. */
struct tp_range_key {
	__u32 prefixlen;
	__u32 guard;
	struct tp_addr addr;
};
TP_STATIC_ASSERT(sizeof(struct tp_range_key) == 24, "no holes");

struct tp_affinity_key {
	struct tp_addr client;
	__u32 service;
};
struct tp_affinity {
	__u32 backend;
	__u32 incarnation;
	__u32 last_used;
	__u32 spare;
};
TP_STATIC_ASSERT(sizeof(struct tp_affinity_key) == 20 && sizeof(struct tp_affinity) == 16, "no holes");

/* The ports of a fragmented datagram, from its first fragment. */
struct tp_fragment_key {
	struct tp_addr src;
	struct tp_addr dst;
	__u32 id;
	__u32 proto;
};
struct tp_fragment {
	__u16 sport;
	__u16 dport;
};
TP_STATIC_ASSERT(sizeof(struct tp_fragment_key) == 40 && sizeof(struct tp_fragment) == 4, "no holes");

/* A socket's translated peer: what recvmsg and getpeername give back instead. */
struct tp_sock_key {
	__u64 cookie;
	struct tp_addr addr;
	__u16 port;
	__u8 proto;
	__u8 family;
	__u32 spare;
};
struct tp_sock_peer {
	struct tp_addr addr;
	__u16 port;
	/* Of datagrams from unconnected sockets: the low bits of the tick in which the last one was sent. */
	__u16 last_used;
	/* Index of the record that serves this key. */
	__u32 backend;
	__u32 incarnation;
	__u32 frontend;
};
TP_STATIC_ASSERT(sizeof(struct tp_sock_key) == 32 && sizeof(struct tp_sock_peer) == 32, "no holes");

/* "namespace/name:port" of a DesiredPort, for whoever reads the maps without the agent: 63 + 1 + 63 + 1 + 63
 * characters at most, the rest zero. */
struct tp_name {
	char text[192];
};
/* What the agent that comes next must know of these maps: JSON, the rest zero (src/dataplane/ebpf/meta.ts). */
struct tp_meta {
	char text[4096];
};
TP_STATIC_ASSERT(sizeof(struct tp_name) == 192 && sizeof(struct tp_meta) == 4096, "no holes");

/* .rodata of the programs: set before loading, constant folded by the verifier. */
struct tp_knobs {
	__u64 seed[2];
	/* Each a power of two less one: buckets of tp_index, sets of tp_conns, buckets of tp_pairs, slots
	 * of tp_nat, records of tp_hops. */
	__u32 index_mask;
	__u32 conn_mask;
	__u32 pair_mask;
	__u32 nat_mask;
	__u32 hop_mask;
	/* last_seen is jiffies >> tick_shift: about a second. */
	__u32 tick_shift;
	/* Two port ranges, inclusive, in the machine's byte order: [0], [1]; then [2], [3], 0 if unused. */
	__u16 nat_ports[4];
	/* Kernel features, 0 or 1. */
	__u8 has_set_retval;
	__u8 has_netns_cookie;
	__u8 has_redirect_neigh;
	/* XDP: packets whose checksum looks partial go to tc. */
	__u8 partial_checksums;
	/* bpf_skb_ct_lookup and bpf_xdp_ct_lookup (kernel 6.0, module nf_conntrack). */
	__u8 has_ct_lookup;
	/* enum tp_traffic_level */
	__u8 traffic;
	/* 1: counted by backend, 0: by service. */
	__u8 traffic_by_backend;
	/* 1: a part of tp_traffic is that of several processors. */
	__u8 traffic_shared;
	/* Records of one part of tp_traffic, and the number of parts less one. */
	__u32 traffic_stride;
	__u32 traffic_part_mask;
	/* bpf_cast_to_kern_ctx (6.2) */
	__u8 has_kernel_context;
	__u8 spare[7];
};
TP_STATIC_ASSERT(sizeof(struct tp_knobs) == 72, "no holes");

#endif
