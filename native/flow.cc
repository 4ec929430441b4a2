#include "flow.h"

#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include <cstring>

#include "netlink_socket.h"

static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "rows for JavaScript are little-endian");

namespace {
// CTA_FILTER_F_* of include/net/netfilter/nf_internals.h: not in the user space header, but the interface.
constexpr uint32_t kFilterIpSrc = 1 << 0;
constexpr uint32_t kFilterIpDst = 1 << 1;
constexpr uint32_t kFilterProtoNum = 1 << 3;
constexpr uint32_t kFilterSrcPort = 1 << 4;
constexpr uint32_t kFilterDstPort = 1 << 5;
// CTA_STATUS_MASK and IPS_SEEN_REPLY; older headers lack the former.
constexpr uint16_t kStatusMask = 26;
constexpr uint32_t kSeenReply = 1 << 1;

bool Holds(const nlattr *attr, size_t bytes) { return mnl_attr_get_payload_len(attr) >= bytes; }
uint16_t Be16(const nlattr *attr) { return Holds(attr, 2) ? ntohs(mnl_attr_get_u16(attr)) : 0; }
uint32_t Be32(const nlattr *attr) { return Holds(attr, 4) ? ntohl(mnl_attr_get_u32(attr)) : 0; }
uint64_t Be64(const nlattr *attr) { return Holds(attr, 8) ? be64toh(mnl_attr_get_u64(attr)) : 0; }

void CopyAddress(const nlattr *attr, size_t bytes, FlowAddress *into) {
  if (Holds(attr, bytes)) memcpy(into->data(), mnl_attr_get_payload(attr), bytes);
}

void ReadTuple(const nlattr *tuple, FlowTuple *into, uint8_t *protocol) {
  EachNested(tuple, [&](const nlattr *part) {
    if (mnl_attr_get_type(part) == CTA_TUPLE_IP) {
      EachNested(part, [&](const nlattr *attr) {
        switch (mnl_attr_get_type(attr)) {
          case CTA_IP_V4_SRC: return CopyAddress(attr, 4, &into->src);
          case CTA_IP_V4_DST: return CopyAddress(attr, 4, &into->dst);
          case CTA_IP_V6_SRC: return CopyAddress(attr, 16, &into->src);
          case CTA_IP_V6_DST: return CopyAddress(attr, 16, &into->dst);
        }
      });
    } else if (mnl_attr_get_type(part) == CTA_TUPLE_PROTO) {
      EachNested(part, [&](const nlattr *attr) {
        switch (mnl_attr_get_type(attr)) {
          case CTA_PROTO_NUM:
            if (Holds(attr, 1)) *protocol = mnl_attr_get_u8(attr);
            return;
          case CTA_PROTO_SRC_PORT: into->sport = Be16(attr); return;
          case CTA_PROTO_DST_PORT: into->dport = Be16(attr); return;
        }
      });
    }
  });
}

void ReadProtocolState(const nlattr *info, uint8_t *state) {
  EachNested(info, [&](const nlattr *protocol) {
    const int type = mnl_attr_get_type(protocol);
    if (type != CTA_PROTOINFO_TCP && type != CTA_PROTOINFO_SCTP) return;
    EachNested(protocol, [&](const nlattr *attr) {
      // CTA_PROTOINFO_TCP_STATE and CTA_PROTOINFO_SCTP_STATE are both 1.
      if (mnl_attr_get_type(attr) == CTA_PROTOINFO_TCP_STATE && Holds(attr, 1)) *state = mnl_attr_get_u8(attr);
    });
  });
}

void ReadCounters(const nlattr *counters, uint64_t *packets, uint64_t *bytes) {
  EachNested(counters, [&](const nlattr *attr) {
    if (mnl_attr_get_type(attr) == CTA_COUNTERS_PACKETS) *packets = Be64(attr);
    if (mnl_attr_get_type(attr) == CTA_COUNTERS_BYTES) *bytes = Be64(attr);
  });
}

template <class Value>
void Put(uint8_t *row, size_t at, const Value &value) {
  memcpy(row + at, &value, sizeof(value));
}

void PutTuple(nlmsghdr *nlh, uint16_t type, uint8_t protocol, int address_type, const FlowAddress *address,
              int port_type, uint16_t port) {
  nlattr *tuple = mnl_attr_nest_start(nlh, type);
  if (address) {
    nlattr *ip = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);
    mnl_attr_put(nlh, address_type, 4, address->data());
    mnl_attr_nest_end(nlh, ip);
  }
  nlattr *proto = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
  mnl_attr_put_u8(nlh, CTA_PROTO_NUM, protocol);
  if (port) mnl_attr_put_u16(nlh, port_type, htons(port));
  mnl_attr_nest_end(nlh, proto);
  mnl_attr_nest_end(nlh, tuple);
}

void PutKernelFilter(nlmsghdr *nlh, const FlowFilter &filter) {
  // Linux compares IPv6 addresses the wrong way round (seen in 6.18, ctnetlink_filter_match_tuple()): its filter
  // lets everything through but the address asked for. So addresses go to the kernel for IPv4 only. Nor does it
  // look at the ports of SCTP: there they narrow nothing. The exact comparison here decides in either case.
  const bool addresses = filter.family == 4;
  uint32_t orig_flags = kFilterProtoNum;
  const FlowAddress *destination = filter.by_destination && addresses ? &filter.destination : nullptr;
  if (destination) orig_flags |= kFilterIpDst;
  if (filter.destination_port) orig_flags |= kFilterDstPort;
  PutTuple(nlh, CTA_TUPLE_ORIG, filter.protocol, CTA_IP_V4_DST, destination, CTA_PROTO_DST_PORT,
           filter.destination_port);

  uint32_t reply_flags = 0;
  const FlowAddress *backend = filter.by_backend && addresses ? &filter.backend : nullptr;
  if (backend || filter.backend_port) {
    reply_flags = kFilterProtoNum;
    if (backend) reply_flags |= kFilterIpSrc;
    if (filter.backend_port) reply_flags |= kFilterSrcPort;
    PutTuple(nlh, CTA_TUPLE_REPLY, filter.protocol, CTA_IP_V4_SRC, backend, CTA_PROTO_SRC_PORT,
             filter.backend_port);
  }
  if (filter.unanswered) {
    // Since Linux 5.17; before, the kernel ignores it.
    mnl_attr_put_u32(nlh, CTA_STATUS, 0);
    mnl_attr_put_u32(nlh, kStatusMask, htonl(kSeenReply));
  }
  nlattr *nest = mnl_attr_nest_start(nlh, CTA_FILTER);
  mnl_attr_put_u32(nlh, CTA_FILTER_ORIG_FLAGS, orig_flags);
  if (reply_flags) mnl_attr_put_u32(nlh, CTA_FILTER_REPLY_FLAGS, reply_flags);
  mnl_attr_nest_end(nlh, nest);
}

nlmsghdr *PutHeader(void *buffer, uint16_t type, uint16_t flags, uint8_t family, uint32_t seq) {
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = static_cast<uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type);
  nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  nlh->nlmsg_seq = seq;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = family == 4 ? AF_INET : AF_INET6;
  header->version = NFNETLINK_V0;
  return nlh;
}
}  // namespace

bool ReadFlow(const nlmsghdr *nlh, Flow *flow) {
  if (nlh->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW)) return false;
  if (mnl_nlmsg_get_payload_len(nlh) < sizeof(nfgenmsg)) return false;
  const nfgenmsg *header = static_cast<const nfgenmsg *>(mnl_nlmsg_get_payload(nlh));
  if (header->nfgen_family != AF_INET && header->nfgen_family != AF_INET6) return false;
  flow->family = header->nfgen_family == AF_INET ? 4 : 6;
  bool replied = false;
  uint8_t reply_protocol = 0;
  EachAttribute(nlh, sizeof(nfgenmsg), [&](const nlattr *attr) {
    switch (mnl_attr_get_type(attr)) {
      case CTA_TUPLE_ORIG:
        flow->orig_attr = attr;
        return ReadTuple(attr, &flow->orig, &flow->protocol);
      case CTA_TUPLE_REPLY:
        replied = true;
        return ReadTuple(attr, &flow->reply, &reply_protocol);
      case CTA_PROTOINFO: return ReadProtocolState(attr, &flow->state);
      case CTA_STATUS: flow->status = Be32(attr); return;
      case CTA_TIMEOUT: flow->timeout_s = Be32(attr); return;
      case CTA_MARK: flow->mark = Be32(attr); return;
      case CTA_ID: flow->id_attr = attr; flow->id = Be32(attr); return;
      case CTA_ZONE: flow->zone_attr = attr; flow->zone = Be16(attr); return;
      case CTA_COUNTERS_ORIG:
        flow->counted = true;
        return ReadCounters(attr, &flow->orig_packets, &flow->orig_bytes);
      case CTA_COUNTERS_REPLY:
        flow->counted = true;
        return ReadCounters(attr, &flow->reply_packets, &flow->reply_bytes);
    }
  });
  return flow->orig_attr && replied;
}

void AppendFlowRow(const Flow &flow, std::vector<uint8_t> *rows) {
  const size_t start = rows->size();
  rows->resize(start + kFlowRowBytes);
  uint8_t *row = rows->data() + start;
  row[0] = flow.family;
  row[1] = flow.protocol;
  row[2] = flow.state;
  row[3] = flow.counted ? 1 : 0;
  Put(row, 4, flow.orig.sport);
  Put(row, 6, flow.orig.dport);
  Put(row, 8, flow.reply.sport);
  Put(row, 10, flow.reply.dport);
  Put(row, 12, flow.timeout_s);
  Put(row, 16, flow.mark);
  Put(row, 20, flow.status);
  Put(row, 24, flow.id);
  Put(row, 28, flow.zone);
  Put(row, 32, flow.orig.src);
  Put(row, 48, flow.orig.dst);
  Put(row, 64, flow.reply.src);
  Put(row, 80, flow.reply.dst);
  Put(row, 96, flow.orig_packets);
  Put(row, 104, flow.orig_bytes);
  Put(row, 112, flow.reply_packets);
  Put(row, 120, flow.reply_bytes);
}

bool FlowFilter::Matches(const Flow &flow) const {
  return flow.family == family && (protocol == 0 || flow.protocol == protocol) &&
         (!by_destination || flow.orig.dst == destination) &&
         (destination_port == 0 || flow.orig.dport == destination_port) &&
         (!by_backend || flow.reply.src == backend) && (backend_port == 0 || flow.reply.sport == backend_port) &&
         (!unanswered || !flow.Answered());
}

nlmsghdr *BuildFlowDump(void *buffer, const FlowFilter &filter, uint32_t seq, bool in_kernel) {
  nlmsghdr *nlh = PutHeader(buffer, IPCTNL_MSG_CT_GET, NLM_F_DUMP, filter.family, seq);
  if (in_kernel && filter.protocol) PutKernelFilter(nlh, filter);
  return nlh;
}

bool AppendFlowDelete(const Flow &flow, uint32_t seq, std::vector<char> *batch) {
  alignas(nlmsghdr) char buffer[kLargestFlowDeleteBytes];
  // Without its tuple this message would flush the table: never send one that is not whole.
  if (!flow.orig_attr || !flow.id_attr || mnl_attr_get_payload_len(flow.orig_attr) > 256) return false;
  nlmsghdr *nlh = PutHeader(buffer, IPCTNL_MSG_CT_DELETE, 0, flow.family, seq);
  mnl_attr_put(nlh, CTA_TUPLE_ORIG | NLA_F_NESTED, mnl_attr_get_payload_len(flow.orig_attr),
               mnl_attr_get_payload(flow.orig_attr));
  if (flow.zone_attr) mnl_attr_put_u16(nlh, CTA_ZONE, htons(flow.zone));
  mnl_attr_put_u32(nlh, CTA_ID, htonl(flow.id));
  batch->insert(batch->end(), buffer, buffer + MNL_ALIGN(nlh->nlmsg_len));
  return true;
}
