/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Somebody else's programs on the hooks that ours stand on: each counts what it sees and lets it go on. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* The load has nothing to configure, but the loader wants read-only data to be there. */
const volatile __u32 tp_knobs;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline int note(__u32 which)
{
	__u64 *count = bpf_map_lookup_elem(&seen, &which);

	if (count)
		__sync_fetch_and_add(count, 1 + (tp_knobs & 0));
	return TC_ACT_UNSPEC;
}

SEC("tc")
int on_clsact(struct __sk_buff *skb)
{
	return note(0);
}

SEC("tc")
int on_tcx(struct __sk_buff *skb)
{
	return note(1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
