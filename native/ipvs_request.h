#pragma once
// How requests to IPVS begin (linux/ip_vs.h), shared by those that change it and those that ask.
#include <arpa/inet.h>
#include <linux/genetlink.h>
#include <linux/ip_vs.h>

#include <vector>

#include "ipvs.h"
#include "netlink_socket.h"

constexpr size_t kMessageBytesMax = 512;

struct ServiceName {
  uint8_t family;
  uint32_t mark;
};

inline size_t AddressBytes(uint8_t family) { return family == 4 ? 4 : 16; }
inline uint16_t AddressFamily(uint8_t family) { return family == 4 ? AF_INET : AF_INET6; }

inline void PutGeneric(nlmsghdr *nlh, uint8_t command) {
  genlmsghdr *header = static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(nlh, sizeof(genlmsghdr)));
  header->cmd = command;
  header->version = IPVS_GENL_VERSION;
}

inline void PutServiceName(nlmsghdr *nlh, uint8_t family, uint32_t mark) {
  mnl_attr_put_u16(nlh, IPVS_SVC_ATTR_AF, AddressFamily(family));
  mnl_attr_put_u32(nlh, IPVS_SVC_ATTR_FWMARK, mark);
}

// Rows of virtual services as packed-ipvs.ts reads them: those named alone; none named: all there are. 0 or the errno.
int DumpServices(NetlinkSocket *socket, uint16_t genl, const std::vector<ServiceName> &names,
                 std::vector<uint8_t> *rows);

// Family and mark of each, one after the other. False: they are not ours.
bool ReadNames(const std::vector<uint8_t> &bytes, std::vector<ServiceName> *names);
