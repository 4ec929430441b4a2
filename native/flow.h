#pragma once
// Conntrack entries as netlink messages: reading them, asking for them, deleting one. Pure; no socket here.
// Source: linux/netfilter/nfnetlink_conntrack.h and net/netfilter/nf_conntrack_netlink.c.
#include <libmnl/libmnl.h>

#include <array>
#include <cstdint>
#include <vector>

using FlowAddress = std::array<uint8_t, 16>;  // IPv4 fills the first four bytes, the rest is zero

struct FlowTuple {
  FlowAddress src = {};
  FlowAddress dst = {};
  uint16_t sport = 0;  // host order; 0 for protocols without ports
  uint16_t dport = 0;
};

struct Flow {
  uint8_t family = 0;  // 4 or 6
  uint8_t protocol = 0;
  uint8_t state = 0;  // enum tcp_conntrack or sctp_conntrack; 0 for protocols without
  bool counted = false;
  uint16_t zone = 0;
  FlowTuple orig;
  FlowTuple reply;
  uint32_t timeout_s = 0;
  uint32_t mark = 0;
  uint32_t status = 0;  // IPS_* bits
  uint32_t id = 0;
  uint64_t orig_packets = 0, orig_bytes = 0, reply_packets = 0, reply_bytes = 0;
  // Point into the message.
  const nlattr *orig_attr = nullptr;
  const nlattr *zone_attr = nullptr;
  const nlattr *id_attr = nullptr;

  // IPS_SEEN_REPLY
  bool Answered() const { return (status & 1u << 1) != 0; }
};

// False when the message is no whole conntrack entry.
bool ReadFlow(const nlmsghdr *nlh, Flow *flow);

// One row for JavaScript (src/node/conntrack.ts reads it), little-endian.
constexpr size_t kFlowRowBytes = 128;
void AppendFlowRow(const Flow &flow, std::vector<uint8_t> *rows);

// What to dump. Whatever the kernel makes of it, Matches() says which rows are meant.
struct FlowFilter {
  uint8_t family = 4;
  uint8_t protocol = 0;  // 0: any; then no ports and no addresses either
  bool by_destination = false;
  FlowAddress destination = {};
  uint16_t destination_port = 0;  // 0: any
  bool by_backend = false;
  FlowAddress backend = {};
  uint16_t backend_port = 0;  // 0: any
  bool unanswered = false;    // only entries that have seen no answer

  bool Matches(const Flow &flow) const;
};

// The dump request in `buffer` (at least 512 bytes). `in_kernel` adds CTA_FILTER (Linux 5.8).
nlmsghdr *BuildFlowDump(void *buffer, const FlowFilter &filter, uint32_t seq, bool in_kernel);

// Appends the deletion of exactly this entry: tuple, zone and id.
constexpr size_t kLargestFlowDeleteBytes = 512;
bool AppendFlowDelete(const Flow &flow, uint32_t seq, std::vector<char> *batch);
