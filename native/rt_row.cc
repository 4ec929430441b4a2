#include "rt_row.h"

#include <endian.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "netlink_socket.h"

static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "rows for JavaScript are little-endian");

namespace {
constexpr size_t kNameBytes = 16;

struct Row {
  uint16_t type;
  uint8_t family;         // 4, 6 or 0
  uint8_t prefix_length;  // addresses and routes
  uint32_t ifindex;
  uint32_t flags;       // IFA_F_*, IFF_*, RTM_F_* | RTNH_F_*, NTF_*
  uint16_t state;       // NUD_* of neighbours, IF_OPER_* of links
  uint8_t scope;        // RT_SCOPE_*
  uint8_t route_type;   // RTN_*
  uint32_t table;       // of routes; the master's ifindex of links
  uint32_t priority;    // of routes; the MTU of links
  uint8_t address[16];  // of addresses and neighbours; the destination of routes
  uint8_t gateway[16];  // of routes; the peer of addresses on a point-to-point link
  uint8_t source[16];  // preferred source of routes
  uint8_t link_address[6];
  uint8_t link_address_bytes;
  uint8_t gateway_family;  // 4, 6 or 0
  char name[kNameBytes];   // of links
  char kind[kNameBytes];   // "veth", "dummy"; of links
};
static_assert(sizeof(Row) == kRtRowBytes, "src/node/rtnetlink.ts reads this layout");

uint8_t FamilyNumber(uint8_t family) { return family == AF_INET ? 4 : family == AF_INET6 ? 6 : 0; }

uint32_t U32(const nlattr *attr) { return mnl_attr_get_payload_len(attr) >= 4 ? mnl_attr_get_u32(attr) : 0; }

void CopyAddress(const nlattr *attr, uint8_t *into) {
  const size_t bytes = mnl_attr_get_payload_len(attr);
  if (bytes == 4 || bytes == 16) memcpy(into, mnl_attr_get_payload(attr), bytes);
}

void CopyName(const nlattr *attr, char *into) {
  const size_t bytes = std::min<size_t>(mnl_attr_get_payload_len(attr), kNameBytes - 1);
  memcpy(into, mnl_attr_get_payload(attr), bytes);
  into[bytes] = 0;
}

void CopyLinkAddress(const nlattr *attr, Row *row) {
  if (mnl_attr_get_payload_len(attr) != sizeof(row->link_address)) return;  // not Ethernet
  memcpy(row->link_address, mnl_attr_get_payload(attr), sizeof(row->link_address));
  row->link_address_bytes = sizeof(row->link_address);
}

template <class Header>
const Header *HeaderOf(const nlmsghdr *nlh) {
  if (mnl_nlmsg_get_payload_len(nlh) < sizeof(Header)) return nullptr;
  return static_cast<const Header *>(mnl_nlmsg_get_payload(nlh));
}

bool FillLink(const nlmsghdr *nlh, Row *row) {
  const ifinfomsg *header = HeaderOf<ifinfomsg>(nlh);
  // AF_BRIDGE messages tell of a link's place in a bridge; the link itself is told with AF_UNSPEC.
  if (!header || header->ifi_family != AF_UNSPEC) return false;
  row->ifindex = static_cast<uint32_t>(header->ifi_index);
  row->flags = header->ifi_flags;
  EachAttribute(nlh, sizeof(ifinfomsg), [row](const nlattr *attr) {
    switch (mnl_attr_get_type(attr)) {
      case IFLA_IFNAME: return CopyName(attr, row->name);
      case IFLA_MTU: row->priority = U32(attr); return;
      case IFLA_MASTER: row->table = U32(attr); return;
      case IFLA_ADDRESS: return CopyLinkAddress(attr, row);
      case IFLA_OPERSTATE:
        if (mnl_attr_get_payload_len(attr) >= 1) row->state = mnl_attr_get_u8(attr);
        return;
      case IFLA_LINKINFO:
        return EachNested(attr, [row](const nlattr *part) {
          if (mnl_attr_get_type(part) == IFLA_INFO_KIND) CopyName(part, row->kind);
        });
    }
  });
  return true;
}

bool FillAddress(const nlmsghdr *nlh, Row *row) {
  const ifaddrmsg *header = HeaderOf<ifaddrmsg>(nlh);
  if (!header || FamilyNumber(header->ifa_family) == 0) return false;
  row->family = FamilyNumber(header->ifa_family);
  row->prefix_length = header->ifa_prefixlen;
  row->scope = header->ifa_scope;
  row->flags = header->ifa_flags;
  row->ifindex = header->ifa_index;
  bool local = false;
  EachAttribute(nlh, sizeof(ifaddrmsg), [row, &local](const nlattr *attr) {
    switch (mnl_attr_get_type(attr)) {
      // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours, in either order.
      case IFA_LOCAL:
        local = true;
        return CopyAddress(attr, row->address);
      case IFA_ADDRESS:
        CopyAddress(attr, row->gateway);
        if (!local) CopyAddress(attr, row->address);
        return;
      case IFA_FLAGS: row->flags = U32(attr); return;
    }
  });
  return true;
}

void FillGateway(const nlattr *attr, uint8_t family, Row *row) {
  CopyAddress(attr, row->gateway);
  row->gateway_family = family;
}

// RTA_VIA: a gateway of the other family, after its family number (struct rtvia).
void FillVia(const nlattr *attr, Row *row) {
  const size_t bytes = mnl_attr_get_payload_len(attr);
  const uint8_t *via = static_cast<const uint8_t *>(mnl_attr_get_payload(attr));
  if (bytes != 2 + 4 && bytes != 2 + 16) return;
  memcpy(row->gateway, via + 2, bytes - 2);
  row->gateway_family = bytes == 2 + 4 ? 4 : 6;
}

// The first next hop of several stands for the route.
void FillFirstHop(const nlattr *multipath, Row *row) {
  const char *at = static_cast<const char *>(mnl_attr_get_payload(multipath));
  const size_t bytes = mnl_attr_get_payload_len(multipath);
  rtnexthop hop;
  if (bytes < sizeof(hop)) return;
  memcpy(&hop, at, sizeof(hop));
  if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > bytes) return;
  row->ifindex = static_cast<uint32_t>(hop.rtnh_ifindex);
  row->flags |= hop.rtnh_flags;
  const char *end = at + hop.rtnh_len;
  const nlattr *attr = reinterpret_cast<const nlattr *>(at + sizeof(hop));
  for (; mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char *>(attr)));
       attr = mnl_attr_next(attr)) {
    if (mnl_attr_get_type(attr) == RTA_GATEWAY) FillGateway(attr, row->family, row);
    if (mnl_attr_get_type(attr) == RTA_VIA) FillVia(attr, row);
  }
}

bool FillRoute(const nlmsghdr *nlh, Row *row) {
  const rtmsg *header = HeaderOf<rtmsg>(nlh);
  if (!header || FamilyNumber(header->rtm_family) == 0) return false;
  row->family = FamilyNumber(header->rtm_family);
  row->prefix_length = header->rtm_dst_len;
  row->flags = header->rtm_flags;
  row->scope = header->rtm_scope;
  row->route_type = header->rtm_type;
  row->table = header->rtm_table;
  EachAttribute(nlh, sizeof(rtmsg), [row](const nlattr *attr) {
    switch (mnl_attr_get_type(attr)) {
      case RTA_DST: return CopyAddress(attr, row->address);
      case RTA_OIF: row->ifindex = U32(attr); return;
      case RTA_GATEWAY: return FillGateway(attr, row->family, row);
      case RTA_VIA: return FillVia(attr, row);
      case RTA_MULTIPATH: return FillFirstHop(attr, row);
      case RTA_PREFSRC: return CopyAddress(attr, row->source);
      case RTA_PRIORITY: row->priority = U32(attr); return;
      case RTA_TABLE: row->table = U32(attr); return;
    }
  });
  return true;
}

bool FillNeighbour(const nlmsghdr *nlh, Row *row) {
  const ndmsg *header = HeaderOf<ndmsg>(nlh);
  if (!header || FamilyNumber(header->ndm_family) == 0) return false;
  row->family = FamilyNumber(header->ndm_family);
  row->ifindex = static_cast<uint32_t>(header->ndm_ifindex);
  row->state = header->ndm_state;
  row->flags = header->ndm_flags;
  EachAttribute(nlh, sizeof(ndmsg), [row](const nlattr *attr) {
    if (mnl_attr_get_type(attr) == NDA_DST) CopyAddress(attr, row->address);
    if (mnl_attr_get_type(attr) == NDA_LLADDR) CopyLinkAddress(attr, row);
  });
  return true;
}

bool Fill(const nlmsghdr *nlh, Row *row) {
  switch (nlh->nlmsg_type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: return FillLink(nlh, row);
    case RTM_NEWADDR:
    case RTM_DELADDR: return FillAddress(nlh, row);
    case RTM_NEWROUTE:
    case RTM_DELROUTE: return FillRoute(nlh, row);
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: return FillNeighbour(nlh, row);
  }
  return false;
}
}  // namespace

bool AppendRtRow(const nlmsghdr *nlh, std::vector<uint8_t> *rows) {
  Row row = {};
  row.type = nlh->nlmsg_type;
  if (!Fill(nlh, &row)) return false;
  const uint8_t *bytes = reinterpret_cast<const uint8_t *>(&row);
  rows->insert(rows->end(), bytes, bytes + sizeof(row));
  return true;
}

nlmsghdr *BuildRtDump(void *buffer, RtKind kind, uint32_t seq) {
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  nlh->nlmsg_seq = seq;
  // The family stays AF_UNSPEC: everything.
  switch (kind) {
    case RtKind::kLink:
      nlh->nlmsg_type = RTM_GETLINK;
      mnl_nlmsg_put_extra_header(nlh, sizeof(ifinfomsg));
      break;
    case RtKind::kAddress:
      nlh->nlmsg_type = RTM_GETADDR;
      mnl_nlmsg_put_extra_header(nlh, sizeof(ifaddrmsg));
      break;
    case RtKind::kRoute:
    case RtKind::kDefaultRoute:
    case RtKind::kLocalRoute:
      nlh->nlmsg_type = RTM_GETROUTE;
      mnl_nlmsg_put_extra_header(nlh, sizeof(rtmsg));
      break;
    case RtKind::kNeighbour:
      nlh->nlmsg_type = RTM_GETNEIGH;
      mnl_nlmsg_put_extra_header(nlh, sizeof(ndmsg));
      break;
  }
  return nlh;
}

bool WantsRt(RtKind kind, const nlmsghdr *nlh) {
  if (kind != RtKind::kDefaultRoute && kind != RtKind::kLocalRoute) return true;
  const rtmsg *header = HeaderOf<rtmsg>(nlh);
  if (!header || nlh->nlmsg_type != RTM_NEWROUTE) return false;
  return kind == RtKind::kDefaultRoute ? header->rtm_dst_len == 0 : header->rtm_table == RT_TABLE_LOCAL;
}
