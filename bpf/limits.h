/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Each bound of the packet path, with the sentence on what it bounds. Table sizes are not here: the loader
 * sets them (maps.h, struct tp_knobs), because they are flags of the agent. */
#ifndef TRIPLANE_LIMITS_H
#define TRIPLANE_LIMITS_H

/* Slots of 8 bytes in one bucket of an index: one cache line. */
#define TP_BUCKET_SLOTS 8
/* Buckets that one key may spread over before an index counts as full for it. */
#define TP_BUCKET_TRIES 4
/* Connections in one set: the first line that is read decides for nearly every packet. */
#define TP_CONN_WAYS 4
/* Sets that one connection may spread over. At half load 1 set in 7 is full, so 8 are for 1 flow in 5 million. */
#define TP_CONN_TRIES 8
/* NAT ports tried before a new connection is refused: at 15/16 full, 64 tries fail for 1 in 60. */
#define TP_NAT_TRIES 64
/* Records tried when a next hop is remembered. */
#define TP_HOP_TRIES 8
/* Prefixes of one kind and family in the settings: service CIDRs, pod CIDRs. */
#define TP_PREFIXES 8
/* VLAN tags in the frame itself (one more may be in the skb). */
#define TP_VLAN_TAGS 2
/* IPv6 extension headers before the transport header. */
#define TP_EXTENSIONS 6
/* Levels below the root of cgroup v2 at which a pod's cgroup is looked for: kubelet's are at 2 and 3, those of a
 * kubelet that runs in a container three or four below the container's. */
#define TP_CGROUP_LEVELS 16
/* Bytes of the refused packet that an ICMP error carries: RFC 792 asks for 8 behind the header, RFC 4443 for
 * as much as fits; enough for a transport header behind options. */
#define TP_QUOTE_BYTES 128

#endif
