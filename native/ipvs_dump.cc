// What IPVS holds, and what it has counted: firewall-mark services with their destinations.
#include <algorithm>
#include <string>
#include <utility>

#include "byte_reader.h"
#include "ipvs_request.h"

namespace {
void Append(std::vector<uint8_t> *out, const void *data, size_t size) {
  const uint8_t *bytes = static_cast<const uint8_t *>(data);
  out->insert(out->end(), bytes, bytes + size);
}
void AppendU32(std::vector<uint8_t> *out, uint32_t value) { Append(out, &value, sizeof(value)); }

// Connections, packets in and out, bytes in and out: 40 bytes; zeros where the kernel says nothing (before 4.1).
void ReadStats(const nlattr *nest, uint64_t stats[5]) {
  EachNested(nest, [&](const nlattr *attr) {
    const uint16_t type = mnl_attr_get_type(attr);
    if (type >= IPVS_STATS_ATTR_CONNS && type <= IPVS_STATS_ATTR_OUTBYTES && mnl_attr_get_payload_len(attr) >= 8)
      stats[type - IPVS_STATS_ATTR_CONNS] = mnl_attr_get_u64(attr);
  });
}

// One row for each of the message's firewall-mark service: see packed-ipvs.ts.
bool ReadService(const nlmsghdr *nlh, std::vector<uint8_t> *out, ServiceName *name) {
  uint16_t af = 0;
  uint32_t mark = 0, timeout = 0;
  uint64_t stats[5] = {};
  ip_vs_flags flags = {};
  std::string scheduler;
  EachAttribute(nlh, sizeof(genlmsghdr), [&](const nlattr *outer) {
    if (mnl_attr_get_type(outer) != IPVS_CMD_ATTR_SERVICE) return;
    EachNested(outer, [&](const nlattr *attr) {
      switch (mnl_attr_get_type(attr)) {
        case IPVS_SVC_ATTR_AF: af = mnl_attr_get_u16(attr); break;
        case IPVS_SVC_ATTR_FWMARK: mark = mnl_attr_get_u32(attr); break;
        case IPVS_SVC_ATTR_SCHED_NAME: scheduler = mnl_attr_get_str(attr); break;
        case IPVS_SVC_ATTR_STATS64: ReadStats(attr, stats); break;
        case IPVS_SVC_ATTR_TIMEOUT: timeout = mnl_attr_get_u32(attr); break;
        case IPVS_SVC_ATTR_FLAGS:
          if (mnl_attr_get_payload_len(attr) >= sizeof(flags)) memcpy(&flags, mnl_attr_get_payload(attr), sizeof(flags));
          break;
      }
    });
  });
  if (mark == 0 || (af != AF_INET && af != AF_INET6)) return false;
  *name = {static_cast<uint8_t>(af == AF_INET ? 4 : 6), mark};
  out->push_back(kIpvsServiceRow);
  out->push_back(name->family);
  AppendU32(out, mark);
  out->push_back(static_cast<uint8_t>(scheduler.size()));
  Append(out, scheduler.data(), scheduler.size());
  AppendU32(out, flags.flags);
  AppendU32(out, timeout);
  Append(out, stats, sizeof(stats));
  return true;
}

void ReadDestination(const nlmsghdr *nlh, uint8_t family, std::vector<uint8_t> *out) {
  uint8_t address[16] = {};
  uint32_t port = 0, weight = 0, active = 0, inactive = 0;
  uint64_t stats[5] = {};
  EachAttribute(nlh, sizeof(genlmsghdr), [&](const nlattr *outer) {
    if (mnl_attr_get_type(outer) != IPVS_CMD_ATTR_DEST) return;
    EachNested(outer, [&](const nlattr *attr) {
      switch (mnl_attr_get_type(attr)) {
        case IPVS_DEST_ATTR_ADDR:
          memcpy(address, mnl_attr_get_payload(attr), std::min<size_t>(16, mnl_attr_get_payload_len(attr)));
          break;
        case IPVS_DEST_ATTR_PORT: port = ntohs(mnl_attr_get_u16(attr)); break;
        case IPVS_DEST_ATTR_WEIGHT: weight = mnl_attr_get_u32(attr); break;
        case IPVS_DEST_ATTR_ACTIVE_CONNS: active = mnl_attr_get_u32(attr); break;
        case IPVS_DEST_ATTR_INACT_CONNS: inactive = mnl_attr_get_u32(attr); break;
        case IPVS_DEST_ATTR_STATS64: ReadStats(attr, stats); break;
      }
    });
  });
  out->push_back(kIpvsDestinationRow);
  Append(out, address, AddressBytes(family));
  for (uint32_t value : {port, weight, active, inactive}) AppendU32(out, value);
  Append(out, stats, sizeof(stats));
}

// A request about one service, or about all.
nlmsghdr *PutRequest(char *buffer, NetlinkSocket *socket, uint16_t genl, uint8_t command, const ServiceName *name) {
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = genl;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  nlh->nlmsg_seq = socket->NextSeq();
  PutGeneric(nlh, command);
  if (!name) return nlh;
  nlattr *nest = mnl_attr_nest_start(nlh, IPVS_CMD_ATTR_SERVICE);
  PutServiceName(nlh, name->family, name->mark);
  mnl_attr_nest_end(nlh, nest);
  return nlh;
}
}  // namespace

// Services first, then each one's destinations behind it.
int DumpServices(NetlinkSocket *socket, uint16_t genl, const std::vector<ServiceName> &names,
                 std::vector<uint8_t> *rows) {
  alignas(nlmsghdr) char buffer[kMessageBytesMax];
  std::vector<std::pair<ServiceName, std::vector<uint8_t>>> services;
  auto take = [&](const nlmsghdr *nlh) {
    std::vector<uint8_t> row;
    ServiceName name;
    if (ReadService(nlh, &row, &name)) services.emplace_back(name, std::move(row));
  };
  int err = 0;
  if (names.empty()) err = socket->Dump(PutRequest(buffer, socket, genl, IPVS_CMD_GET_SERVICE, nullptr), take);
  for (const ServiceName &name : names) {
    nlmsghdr *nlh = PutRequest(buffer, socket, genl, IPVS_CMD_GET_SERVICE, &name);
    // One service is told as an answer, which the acknowledgement ends.
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    err = socket->Dump(nlh, take);
    if (err == ESRCH) err = 0;
    if (err) break;
  }
  if (err) return err;
  for (auto &[name, row] : services) {
    Append(rows, row.data(), row.size());
    uint8_t family = name.family;
    err = socket->Dump(PutRequest(buffer, socket, genl, IPVS_CMD_GET_DEST, &name),
                       [&](const nlmsghdr *nlh) { ReadDestination(nlh, family, rows); });
    // Gone since the first dump: its row has no destinations, which is near enough to the truth.
    if (err && err != ESRCH) return err;
  }
  return 0;
}

bool ReadNames(const std::vector<uint8_t> &bytes, std::vector<ServiceName> *names) {
  ByteReader in(bytes.data(), bytes.size());
  while (!in.AtEnd()) {
    ServiceName name;
    name.family = in.U8();
    name.mark = in.U32();
    if (in.Failed() || (name.family != 4 && name.family != 6) || name.mark == 0) return false;
    names->push_back(name);
  }
  return true;
}
