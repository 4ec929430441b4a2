/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Socket programs on a cgroup: a client there connects to the backend at once, and its packets are nobody's
 * business afterwards. They take over only where the result is the same as on the wire: frontends marked
 * TP_F_SOCK_POD or TP_F_SOCK_NODE (no masquerade, no source ranges, no affinity, which go by addresses that a socket
 * does not have yet). Everything else goes on as it is, and tc serves it. */
#include <linux/bpf.h>

#include "pick.h"
#include "sock-lookup.h"
#include "traffic.h"

/* <errno.h> and <sys/socket.h> are the C library's. */
#define ECONNREFUSED 111
#define EADDRINUSE 98
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

/* To the kernel: go on; refuse. */
#define SOCK_GO_ON 1
#define SOCK_REFUSE 0

#define MAPPED_PREFIX bpf_htonl(0x0000ffff)

static __always_inline int sock_proto(const struct bpf_sock_addr *ctx)
{
	if (ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP)
		return IPPROTO_TCP;
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP ? IPPROTO_UDP : 0;
}

/* The peer that the program is about. An IPv6 socket may speak IPv4 to ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
static __always_inline void sock_peer(const struct bpf_sock_addr *ctx, struct packet *p, int family)
{
	p->proto = sock_proto(ctx);
	p->dport = ctx->user_port;
	p->family = family;
	if (family == 4) {
		p->dst.w[0] = ctx->user_ip4;
		return;
	}
	p->dst.w[0] = ctx->user_ip6[0];
	p->dst.w[1] = ctx->user_ip6[1];
	p->dst.w[2] = ctx->user_ip6[2];
	p->dst.w[3] = ctx->user_ip6[3];
	if (!p->dst.w[0] && !p->dst.w[1] && p->dst.w[2] == MAPPED_PREFIX) {
		p->family = 4;
		p->dst.w[0] = p->dst.w[3];
		p->dst.w[2] = p->dst.w[3] = 0;
	}
}

/* Writes a peer of p's family into a socket address of `family`. */
static __always_inline void sock_set_peer(struct bpf_sock_addr *ctx, const struct packet *p,
					  const struct tp_addr *addr, __u16 port, int family)
{
	ctx->user_port = port;
	if (family == 4) {
		ctx->user_ip4 = addr->w[0];
	} else if (p->family == 4) {
		ctx->user_ip6[3] = addr->w[0];
	} else {
		ctx->user_ip6[0] = addr->w[0];
		ctx->user_ip6[1] = addr->w[1];
		ctx->user_ip6[2] = addr->w[2];
		ctx->user_ip6[3] = addr->w[3];
	}
}

static __always_inline void sock_key(struct bpf_sock_addr *ctx, const struct packet *p, struct tp_sock_key *key)
{
	key->cookie = bpf_get_socket_cookie(ctx);
	copy_addr(&key->addr, &p->dst);
	key->port = p->dport;
	key->proto = p->proto;
	key->family = p->family;
}

/* Whether the task belongs to a pod that wants its packets served, not its sockets. */
static __always_inline int sock_opted_out(const struct tp_settings *set)
{
	__u64 id;
	int level;

	if (!(set->flags & TP_S_SOCK_OPTOUT))
		return 0;
#pragma clang loop unroll(disable)
	for (level = 1; level <= TP_CGROUP_LEVELS; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		/* The task's own cgroup was the one before. */
		if (!id)
			return 0;
		if (bpf_map_lookup_elem(&tp_optouts, &id))
			return 1;
	}
	return 0;
}

/* The flag that a frontend needs for this client; 0: sockets are not to be served here. */
static __always_inline __u32 sock_client(struct bpf_sock_addr *ctx, const struct tp_settings *set)
{
	if (sock_opted_out(set))
		return 0;
	if (bpf_get_netns_cookie(ctx) == set->node_netns)
		return set->flags & TP_S_SOCK_NODE ? TP_F_SOCK_NODE : 0;
	return set->flags & TP_S_SOCK_POD ? TP_F_SOCK_POD : 0;
}

/* In place of a backend: what this socket sends to this frontend is left to packets. */
#define SOCK_LEFT 0xffffffff

/* The backend that an unconnected UDP socket used for this frontend before: index + 1, 0: none that still is; or
 * SOCK_LEFT. */
static __always_inline __u32 sock_flow(const struct tp_sock_key *key)
{
	struct tp_sock_peer *flow = bpf_map_lookup_elem(&tp_sock_flows, key);
	struct tp_backend *b;

	if (!flow)
		return 0;
	if (flow->backend == SOCK_LEFT)
		return SOCK_LEFT;
	b = backend_at(flow->backend);
	if (!b || b->incarnation != flow->incarnation || !(b->flags & (TP_B_IN_CLUSTER | TP_B_IN_LOCAL)))
		return 0;
	if (flow->last_used != (__u16)ticks_now())
		flow->last_used = ticks_now();
	return flow->backend + 1;
}

/* Whether an unconnected socket is one that packets serve, since it sent to frontends before we did. */
static __always_inline int sock_from_before(const struct tp_sock_key *key, const struct tp_settings *set)
{
	__u32 yes = 1;

	if (set->flags & TP_S_DRAIN)
		bpf_map_update_elem(&tp_sock_before, &key->cookie, &yes, BPF_ANY);
	return bpf_map_lookup_elem(&tp_sock_before, &key->cookie) != NULL;
}

static __always_inline int sock_refuse(const struct packet *p)
{
	/* UDP hears of it by ICMP, which tc sends, as it would without us. */
	if (p->proto != IPPROTO_TCP || !tp_knobs.has_set_retval)
		return SOCK_GO_ON;
	bpf_set_retval(-ECONNREFUSED);
	return SOCK_REFUSE;
}

/* Points the socket at a backend and remembers what it believes to talk to. */
static __always_inline int sock_translate(struct bpf_sock_addr *ctx, const struct packet *p, __u32 frontend,
					  __u32 backend, int fresh, int connected, int family)
{
	struct tp_backend *b = backend_at(backend);
	struct tp_sock_key key = {};
	struct tp_sock_peer peer = { .backend = backend, .frontend = frontend };

	if (!b || (connected && sock_is_taken(ctx, p, b)))
		return SOCK_GO_ON;
	peer.incarnation = b->incarnation;
	sock_key(ctx, p, &key);
	copy_addr(&peer.addr, &p->dst);
	peer.port = p->dport;
	peer.last_used = ticks_now();
	/* Packets pick by themselves, and go on with what they picked: with each datagram we would pick another one. */
	if (fresh && sock_is_hairpin(ctx, p, b)) {
		peer.backend = SOCK_LEFT;
		if (!connected)
			bpf_map_update_elem(&tp_sock_flows, &key, &peer, BPF_ANY);
		return SOCK_GO_ON;
	}
	if (p->proto == IPPROTO_UDP)
		bpf_map_update_elem(&tp_sock_flows, &key, &peer, BPF_ANY);
	copy_addr(&key.addr, &b->addr);
	key.port = b->port;
	/* Without a way back the answer would come from a stranger: then rather the wire. */
	if (bpf_map_update_elem(&tp_sock_peers, &key, &peer, BPF_ANY))
		return SOCK_GO_ON;
	sock_set_peer(ctx, p, &b->addr, b->port, family);
	if (fresh)
		count_connection(frontend, backend);
	return SOCK_GO_ON;
}

static __always_inline int sock_forward(struct bpf_sock_addr *ctx, int connected, int family)
{
	const struct tp_settings *set = settings();
	struct tp_sock_key key = {};
	struct tp_frontend *f;
	struct packet p = {};
	__u32 frontend = 0, picked = 0, client;
	int fresh;
	__u64 pool;

	sock_peer(ctx, &p, family);
	if (!p.proto || !set)
		return SOCK_GO_ON;
	f = frontend_find(&p, p.family, &frontend);
	if (!f)
		return SOCK_GO_ON;
	client = sock_client(ctx, set);
	if (!(f->flags & client))
		return SOCK_GO_ON;
	if (!connected) {
		sock_key(ctx, &p, &key);
		picked = sock_flow(&key);
		if (picked == SOCK_LEFT || (!picked && sock_from_before(&key, set)))
			return SOCK_GO_ON;
	}
	pool = *(const volatile __u64 *)&f->inside;
	fresh = !picked;
	if (!picked && (set->flags & TP_S_DRAIN))
		return SOCK_GO_ON;
	if (!picked && TP_POOL_ANSWER(pool) == TP_REJECT)
		return sock_refuse(&p);
	if (!picked && (TP_POOL_ANSWER(pool) == TP_CLUSTER || TP_POOL_ANSWER(pool) == TP_LOCAL))
		picked = pick_any(pool);
	return picked ? sock_translate(ctx, &p, frontend, picked - 1, fresh, connected, family) : SOCK_GO_ON;
}

/* What the socket hears from, or asks who its peer is: the frontend again. */
static __always_inline int sock_backward(struct bpf_sock_addr *ctx, int family)
{
	struct tp_sock_key key = {};
	struct tp_sock_peer *peer;
	struct packet p = {};

	sock_peer(ctx, &p, family);
	if (!p.proto)
		return SOCK_GO_ON;
	sock_key(ctx, &p, &key);
	peer = bpf_map_lookup_elem(&tp_sock_peers, &key);
	if (peer)
		sock_set_peer(ctx, &p, &peer->addr, peer->port, family);
	return SOCK_GO_ON;
}

/* A NodePort that a process of the node listened on would never be reached from outside: refused, as the port of
 * another process is. Loopback is no NodePort address. */
static __always_inline int sock_bind(struct bpf_sock_addr *ctx, int family)
{
	const struct tp_settings *set = settings();
	struct packet p = {};
	__u64 *taken;
	__u32 port;

	sock_peer(ctx, &p, family);
	port = bpf_ntohs(p.dport);
	if (!p.proto || !port || !set || bpf_get_netns_cookie(ctx) != set->node_netns)
		return SOCK_GO_ON;
	if (p.family == 4 && (p.dst.w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000))
		return SOCK_GO_ON;
	if (p.family == 6 && !p.dst.w[0] && !p.dst.w[1] && !p.dst.w[2] && p.dst.w[3] == bpf_htonl(1))
		return SOCK_GO_ON;
	taken = bpf_map_lookup_elem(&tp_nodeports, &port);
	if (!taken || !(*taken & (p.proto == IPPROTO_TCP ? 1 : 2)))
		return SOCK_GO_ON;
	if (tp_knobs.has_set_retval)
		bpf_set_retval(-EADDRINUSE);
	return SOCK_REFUSE;
}

#define SOCK_PROGRAM(section, name, call)         \
	SEC(section)                              \
	int name(struct bpf_sock_addr *ctx)       \
	{                                         \
		return call;                      \
	}

SOCK_PROGRAM("cgroup/connect4", tp_connect4, sock_forward(ctx, 1, 4))
SOCK_PROGRAM("cgroup/connect6", tp_connect6, sock_forward(ctx, 1, 6))
SOCK_PROGRAM("cgroup/sendmsg4", tp_sendmsg4, sock_forward(ctx, 0, 4))
SOCK_PROGRAM("cgroup/sendmsg6", tp_sendmsg6, sock_forward(ctx, 0, 6))
SOCK_PROGRAM("cgroup/recvmsg4", tp_recvmsg4, sock_backward(ctx, 4))
SOCK_PROGRAM("cgroup/recvmsg6", tp_recvmsg6, sock_backward(ctx, 6))
SOCK_PROGRAM("cgroup/getpeername4", tp_getpeername4, sock_backward(ctx, 4))
SOCK_PROGRAM("cgroup/getpeername6", tp_getpeername6, sock_backward(ctx, 6))
SOCK_PROGRAM("cgroup/bind4", tp_bind4, sock_bind(ctx, 4))
SOCK_PROGRAM("cgroup/bind6", tp_bind6, sock_bind(ctx, 6))

/* What a translated socket sends and receives meets no other program of ours: counted here, and only loaded where
 * packets are counted. Data begins with the IP header, whichever way it goes. */
static __always_inline int skb_of_socket(struct __sk_buff *skb, struct tp_sock_key *key, int way)
{
	__u8 head[40];
	__u16 ports[2];
	__u32 l4;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return 0;
	if (head[0] >> 4 == 4) {
		/* Ports are in the first fragment alone. */
		if (*(__u16 *)&head[6] & bpf_htons(IP_OFFSET))
			return 0;
		key->family = 4;
		key->proto = head[9];
		key->addr.w[0] = *(__u32 *)&head[way == WAY_IN ? 16 : 12];
		l4 = (head[0] & 15) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return 0;
		key->family = 6;
		key->proto = head[6];
		__builtin_memcpy(&key->addr, &head[way == WAY_IN ? 24 : 8], 16);
		l4 = 40;
	}
	if ((key->proto != IPPROTO_TCP && key->proto != IPPROTO_UDP) || bpf_skb_load_bytes(skb, l4, ports, 4))
		return 0;
	key->port = ports[way == WAY_IN];
	key->cookie = bpf_get_socket_cookie(skb);
	return 1;
}

static __always_inline int sock_count(struct __sk_buff *skb, int way)
{
	struct tp_sock_key key = {};
	struct tp_sock_peer *peer;

	if (!skb_of_socket(skb, &key, way))
		return SOCK_GO_ON;
	peer = bpf_map_lookup_elem(&tp_sock_peers, &key);
	if (peer)
		count_packet(peer->frontend, peer->backend, way, skb->len);
	return SOCK_GO_ON;
}

SEC("cgroup_skb/egress")
int tp_skb_out(struct __sk_buff *skb)
{
	return sock_count(skb, WAY_IN);
}

SEC("cgroup_skb/ingress")
int tp_skb_in(struct __sk_buff *skb)
{
	return sock_count(skb, WAY_OUT);
}
