/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's own processes where no socket program serves them: translated at egress of the device by which the
 * frontend's address would be reached (an uplink; lo for an address of the node's own), both ends at once, and sent
 * to where the backend is. Their answers come to a NAT port and are translated back at ingress, before netfilter,
 * whose connection tracking so sees a connection with the frontend from beginning to end. */
#ifndef TRIPLANE_NODE_H
#define TRIPLANE_NODE_H

/* What masquerade uses: the address of the device that it leaves by, else the one that the socket has. */
static __always_inline void node_nat_addr(struct tp_conn *c, const struct packet *p, __u32 ifindex)
{
	struct tp_device *device = bpf_map_lookup_elem(&tp_devices, &ifindex);

	if (!no_addr(&c->nat_addr))
		return;
	copy_addr(&c->nat_addr, &c->client);
	if (device && p->family == 4 && device->nat4)
		c->nat_addr.w[0] = device->nat4;
	if (device && p->family == 6 && !no_addr(&device->nat6))
		copy_addr(&c->nat_addr, &device->nat6);
}

static __always_inline int node_forward(struct __sk_buff *skb, struct packet *p, const struct conn_ref *ref)
{
	struct tp_conn *c = ref->conn;
	int settled = !no_addr(&c->nat_addr);
	struct tp_backend *b = backend_at(c->backend);
	struct end src = {}, dst = {};
	struct route r = {};
	int rc, here;

	if (!b)
		return TC_ACT_SHOT;
	rc = skb_route(skb, p, &p->src, &b->addr, &r);
	/* A backend on the node's own network. */
	here = rc == BPF_FIB_LKUP_RET_NOT_FWDED && (b->flags & TP_B_LOCAL);
	if (!here && !has_way(rc)) {
		count(TP_N_NO_ROUTE);
		return TC_ACT_SHOT;
	}
	node_nat_addr(c, p, here ? LOOPBACK_IFINDEX : r.ifindex);
	if (!settled && kernel_port_taken(skb, ref->index))
		return TC_ACT_SHOT;
	count_packet(c->frontend, c->backend, WAY_IN, p->l3_len);
	make_end(&src, SIDE_SRC, &c->nat_addr, c->nat_port);
	make_end(&dst, SIDE_DST, &b->addr, b->port);
	if (skb_set_end(skb, p, &src) || skb_set_end(skb, p, &dst))
		return TC_ACT_SHOT;
	return here ? skb_to_self(skb) : bpf_redirect_neigh(r.ifindex, NULL, 0, 0);
}

/* A server on the node's own network answers a process of the node. */
static __always_inline int node_answer(struct __sk_buff *skb, struct packet *p, struct tp_conn *c)
{
	struct tp_frontend *f = frontend_at(c->frontend);
	struct end src = {}, dst = {};

	if (!f)
		return TC_ACT_UNSPEC;
	conn_saw_reply(c, p);
	count_packet(c->frontend, c->backend, WAY_OUT, p->l3_len);
	make_end(&src, SIDE_SRC, &f->addr, f->port);
	make_end(&dst, SIDE_DST, &c->client, c->client_port);
	if (skb_set_end(skb, p, &src) || skb_set_end(skb, p, &dst))
		return TC_ACT_SHOT;
	return skb_to_self(skb);
}

SEC("tc")
int tp_node(struct __sk_buff *skb)
{
	const struct tp_settings *set = settings();
	struct conn_ref ref = {};
	struct packet p = {};
	__u32 frontend = 0;
	int verdict;

	if (!set || skb_parse_rare(skb, &p) != PACKET_FLOW)
		return TC_ACT_UNSPEC;
	if (!frontend_find(&p, p.family, &frontend)) {
		nat_find(&ref, &p.src, p.sport, &p.dst, p.dport, p.proto, p.family);
		if (ref.conn && (ref.conn->flags & TP_C_NODE))
			return node_answer(skb, &p, ref.conn);
		if (in_cluster_span(set, &p.dst, p.family))
			return refuse(skb, cluster_verdict(&p));
		/* A client's own port may look like one of ours. */
		return egress_pair(skb, &p, p.family);
	}
	verdict = tc_connection(skb, &p, frontend, &ref, p.family, FROM_NODE);
	if (verdict != GO_ON || !ref.conn)
		return refuse(skb, verdict);
	return ref.conn->flags & TP_C_NODE ? node_forward(skb, &p, &ref) : TC_ACT_UNSPEC;
}

#endif
