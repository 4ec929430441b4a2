// What a network device can do for XDP: the kernel's "netdev" family (since Linux 6.3).
#include <linux/genetlink.h>

#include "addon.h"
#include "netlink_socket.h"

namespace {
// <linux/netdev.h> is too new for many systems' headers.
constexpr uint8_t kDevGet = 1;
constexpr uint16_t kIfindex = 1, kXdpFeatures = 3;

// A generic netlink request with one attribute; `value` as its bytes.
nlmsghdr *Request(char *buffer, uint16_t family, uint8_t command, uint16_t attr, const void *value, size_t size,
                  uint32_t seq) {
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = family;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  nlh->nlmsg_seq = seq;
  genlmsghdr *header = static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(nlh, sizeof(genlmsghdr)));
  header->cmd = command;
  header->version = 1;
  mnl_attr_put(nlh, attr, size, value);
  return nlh;
}

// xdpFeatures(netns, ifindex): NETDEV_XDP_ACT_* as a number; -1: this kernel does not tell.
Napi::Value XdpFeatures(const Napi::CallbackInfo &info) {
  NetlinkSocket socket(info.Env(), NETLINK_GENERIC, info[0].As<Napi::String>());
  const uint32_t ifindex = info[1].As<Napi::Number>().Uint32Value();
  alignas(nlmsghdr) char buffer[128] = {};
  constexpr char kName[] = "netdev";
  uint16_t family = 0;
  double features = -1;
  nlmsghdr *nlh = Request(buffer, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, kName, sizeof(kName),
                          socket.NextSeq());
  socket.Dump(nlh, [&family](const nlmsghdr *answer) {
    EachAttribute(answer, sizeof(genlmsghdr), [&family](const nlattr *attr) {
      if (mnl_attr_get_type(attr) == CTRL_ATTR_FAMILY_ID) family = mnl_attr_get_u16(attr);
    });
  });
  if (!family) return Napi::Number::New(info.Env(), features);
  nlh = Request(buffer, family, kDevGet, kIfindex, &ifindex, sizeof(ifindex), socket.NextSeq());
  socket.Dump(nlh, [&features](const nlmsghdr *answer) {
    EachAttribute(answer, sizeof(genlmsghdr), [&features](const nlattr *attr) {
      if (mnl_attr_get_type(attr) == kXdpFeatures && mnl_attr_get_payload_len(attr) >= 8)
        features = static_cast<double>(mnl_attr_get_u64(attr));
    });
  });
  return Napi::Number::New(info.Env(), features);
}
}  // namespace

void InitNetdev(Napi::Env env, Napi::Object exports) {
  exports.Set("xdpFeatures", Napi::Function::New(env, XdpFeatures));
}
