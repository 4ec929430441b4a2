/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What BPF_PROG_TEST_RUN repeats. A program that rewrites would see its own output the second time, so each run
 * writes the headers of the next packet of a sequence first; a null wrapper does only that, and is subtracted.
 * The verdict of every run is counted, so that a figure for a packet that took another path cannot pass. */
#include "../../bpf/triplane.c"

#define BENCH_ENTRIES (1 << 21)
#define BENCH_MASK (BENCH_ENTRIES - 1)

/* One packet of the sequence: what changes from flow to flow. */
struct bench_packet {
	__u32 addr;
	__u16 port;
	__u16 other;
};

struct bench_state {
	__u32 next;
	__u32 verdicts[8];
	__u32 peer_port;
	__u32 flags;
	/* Which end the sequence fills: 0 the client of a packet to a frontend, 1 the backend of an answer. */
	__u32 answer;
	__u32 mask;
	__u32 nat_addr;
};

TP_ARRAY(bench_state, struct bench_state);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BENCH_ENTRIES);
	__type(key, __u32);
	__type(value, struct bench_packet);
} bench_packets SEC(".maps");

static __always_inline struct bench_state *state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bench_state, &zero);
}

static __always_inline void write_macs(struct ethhdr *eth, __u16 proto)
{
	__builtin_memset(eth->h_dest, 2, 6);
	__builtin_memset(eth->h_source, 4, 6);
	eth->h_proto = bpf_htons(proto);
}

static __always_inline int write_tcp(struct tcphdr *tcp, const struct bench_state *s, __u16 sport, __u16 dport)
{
	tcp->source = sport;
	tcp->dest = dport;
	((__u8 *)tcp)[13] = s->flags;
	/* No sum looks partial that is zero. */
	tcp->check = 0;
	return 0;
}

/* VIP n is 192.0.2.n or 2001:db8::n (in the last word); backend n 10.128.0.0 + n or fd01::n; clients are
 * 172.16.0.0 + n or fd00::n. The low word of each comes from the sequence. */
static __always_inline int write_ipv4(void *data, void *end, const struct bench_state *s, const struct bench_packet *b)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end)
		return -1;
	write_macs(eth, ETH_P_IP);
	ip->ttl = 64;
	ip->saddr = b->addr;
	ip->daddr = s->answer ? s->nat_addr : bpf_htonl(0xc0000200 + b->other);
	return s->answer ? write_tcp(tcp, s, s->peer_port, b->port) : write_tcp(tcp, s, b->port, s->peer_port);
}

static __always_inline int write_ipv6(void *data, void *end, const struct bench_state *s, const struct bench_packet *b)
{
	struct ethhdr *eth = data;
	struct ipv6hdr *ip = data + sizeof(*eth);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 *src, *dst;

	if ((void *)(tcp + 1) > end)
		return -1;
	src = (__u32 *)&ip->saddr;
	dst = (__u32 *)&ip->daddr;
	write_macs(eth, ETH_P_IPV6);
	ip->hop_limit = 64;
	src[0] = s->answer ? bpf_htonl(0xfd010000) : bpf_htonl(0xfd000000);
	src[1] = src[2] = 0;
	src[3] = b->addr;
	dst[0] = s->answer ? bpf_htonl(0xfd020000) : bpf_htonl(0x20010db8);
	dst[1] = dst[2] = 0;
	dst[3] = s->answer ? s->nat_addr : bpf_htonl(b->other);
	return s->answer ? write_tcp(tcp, s, s->peer_port, b->port) : write_tcp(tcp, s, b->port, s->peer_port);
}

static __always_inline int write_next(void *data, void *end, struct bench_state *s, int family)
{
	__u32 at = s->next++ & s->mask & BENCH_MASK;
	struct bench_packet *b = bpf_map_lookup_elem(&bench_packets, &at);

	if (!b)
		return -1;
	return family == 4 ? write_ipv4(data, end, s, b) : write_ipv6(data, end, s, b);
}

#define BENCH(name, section, context, family, action)             \
	SEC(section)                                              \
	int name(context *ctx)                                    \
	{                                                         \
		void *data = (void *)(long)ctx->data;             \
		void *end = (void *)(long)ctx->data_end;          \
		struct bench_state *s = state();                  \
		int verdict;                                      \
                                                                  \
		if (!s || write_next(data, end, s, family))       \
			return XDP_ABORTED;                       \
		verdict = action;                                 \
		s = state();                                      \
		if (s)                                            \
			s->verdicts[verdict & 7]++;               \
		return verdict;                                   \
	}

static __always_inline int packet_of(struct xdp_md *ctx, int family)
{
	struct frame fr = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct ethhdr *eth = fr.data;

	if ((void *)(eth + 1) > fr.end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(family == 4 ? ETH_P_IP : ETH_P_IPV6))
		return xdp_ip(&fr, family);
	return XDP_ABORTED;
}

/* The connection of the packet just written is taken down: the undo of a new flow. */
static __always_inline int retire(struct xdp_md *ctx, int family)
{
	struct packet p = {};
	struct conn_ref ref;
	__u32 frontend = 0;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (parse_ip(&p, data, end, sizeof(struct ethhdr), end - data, family) != PACKET_FLOW)
		return XDP_ABORTED;
	if (!frontend_find(&p, family, &frontend))
		return XDP_ABORTED;
	conn_find(&ref, &p, tp_hash_conn(tp_knobs.seed, &p.src, p.sport, frontend, family), frontend, family);
	if (!ref.conn)
		return XDP_DROP;
	if (!conn_retake(ref.index))
		return XDP_DROP;
	/* Nobody else runs here, so it need not wait for the collector. */
	conn_free(ref.conn);
	return XDP_PASS;
}

/* Both hooks that a packet of a split connection meets, as if it left by the device that it came by. */
static __always_inline int both_hooks(struct __sk_buff *skb, int family)
{
	struct packet p = {};
	int verdict;

	if (skb_parse(skb, &p) != PACKET_FLOW)
		return TC_ACT_SHOT;
	verdict = ingress_flow(skb, &p, family);
	if (verdict != TC_ACT_UNSPEC)
		return verdict;
	/* The same place again: programs with tail calls have 256 bytes of stack. */
	__builtin_memset(&p, 0, sizeof(p));
	if (skb_parse(skb, &p) != PACKET_FLOW)
		return TC_ACT_SHOT;
	return egress_flow(skb, &p, family);
}

BENCH(bench_null4, "xdp", struct xdp_md, 4, XDP_TX)
BENCH(bench_null6, "xdp", struct xdp_md, 6, XDP_TX)
BENCH(bench_run4, "xdp", struct xdp_md, 4, packet_of(ctx, 4))
BENCH(bench_run6, "xdp", struct xdp_md, 6, packet_of(ctx, 6))
BENCH(bench_retire4, "xdp", struct xdp_md, 4, retire(ctx, 4))
BENCH(bench_retire6, "xdp", struct xdp_md, 6, retire(ctx, 6))
BENCH(bench_tcnull4, "tc", struct __sk_buff, 4, TC_ACT_UNSPEC)
BENCH(bench_tcnull6, "tc", struct __sk_buff, 6, TC_ACT_UNSPEC)
BENCH(bench_tcrun4, "tc", struct __sk_buff, 4, both_hooks(ctx, 4))
BENCH(bench_tcrun6, "tc", struct __sk_buff, 6, both_hooks(ctx, 6))

/* The other end of the wire: a frame that has got there. */
SEC("xdp")
int bench_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}
