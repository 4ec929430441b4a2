// The device that holds service addresses, and settings of a network namespace (rtnetlink(7), proc(5)).
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <unistd.h>

#include "args.h"
#include "ipvs.h"
#include "netlink_socket.h"

namespace {
constexpr size_t kMessageBytesMax = 512;
constexpr uint8_t kAdd = 1;
constexpr size_t kSysctlBytesMax = 256;

struct Message {
  alignas(nlmsghdr) char bytes[kMessageBytesMax];
  nlmsghdr *Start(NetlinkSocket *socket, uint16_t type, uint16_t flags) {
    nlmsghdr *nlh = mnl_nlmsg_put_header(bytes);
    nlh->nlmsg_type = type;
    nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    nlh->nlmsg_seq = socket->NextSeq();
    return nlh;
  }
};

// 0 or the errno with which the kernel refused it.
int Send(NetlinkSocket *socket, const nlmsghdr *nlh) {
  std::vector<NetlinkError> errors;
  int err = socket->Transact(nlh, nlh->nlmsg_len, nlh->nlmsg_seq, &errors);
  return err ? err : errors.empty() ? 0 : errors[0].err;
}

// ipvsLink(netns, name, kind): makes the link if kind is not '' and sees that it is up. Returns '' or the errno.
Napi::Value Link(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string name = TextArg(info, 1, "name");
  std::string kind = TextArg(info, 2, "kind");
  AssertArg(env, !name.empty() && name.size() < IFNAMSIZ && kind.size() < 16, "name");
  NetlinkSocket socket(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  Message message;
  nlmsghdr *nlh = message.Start(&socket, RTM_NEWLINK, kind.empty() ? 0 : NLM_F_CREATE | NLM_F_EXCL);
  ifinfomsg *link = static_cast<ifinfomsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(ifinfomsg)));
  link->ifi_flags = IFF_UP | IFF_NOARP;
  link->ifi_change = IFF_UP | IFF_NOARP;
  mnl_attr_put_strz(nlh, IFLA_IFNAME, name.c_str());
  if (!kind.empty()) {
    nlattr *nest = mnl_attr_nest_start(nlh, IFLA_LINKINFO);
    mnl_attr_put_strz(nlh, IFLA_INFO_KIND, kind.c_str());
    mnl_attr_nest_end(nlh, nest);
  }
  int err = Send(&socket, nlh);
  return Napi::String::New(env, err ? ErrnoName(err) : "");
}

// ipvsUnlink(netns, name): '' or the errno (ENODEV: there was none).
Napi::Value Unlink(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  NetlinkSocket socket(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  Message message;
  nlmsghdr *nlh = message.Start(&socket, RTM_DELLINK, 0);
  mnl_nlmsg_put_extra_header(nlh, sizeof(ifinfomsg));
  mnl_attr_put_strz(nlh, IFLA_IFNAME, TextArg(info, 1, "name").c_str());
  int err = Send(&socket, nlh);
  return Napi::String::New(env, err ? ErrnoName(err) : "");
}

void PutAddress(nlmsghdr *nlh, const uint8_t *bytes, size_t size, uint32_t link) {
  ifaddrmsg *head = static_cast<ifaddrmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(ifaddrmsg)));
  head->ifa_family = size == 4 ? AF_INET : AF_INET6;
  head->ifa_prefixlen = static_cast<uint8_t>(size * 8);
  head->ifa_index = link;
  // Of host scope, or deprecated: nothing that leaves the node gets it as its source by itself.
  head->ifa_scope = size == 4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  mnl_attr_put(nlh, IFA_LOCAL, size, bytes);
  mnl_attr_put(nlh, IFA_ADDRESS, size, bytes);
  if (size == 4 || nlh->nlmsg_type == RTM_DELADDR) return;
  ifa_cacheinfo cache = {};
  cache.ifa_valid = UINT32_MAX;
  mnl_attr_put(nlh, IFA_CACHEINFO, sizeof(cache), &cache);
  mnl_attr_put_u32(nlh, IFA_FLAGS, IFA_F_NODAD);
}

// Where no device of its own can be had: a route that makes the address local.
void PutRoute(nlmsghdr *nlh, const uint8_t *bytes, size_t size, uint32_t link) {
  rtmsg *route = static_cast<rtmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(rtmsg)));
  route->rtm_family = size == 4 ? AF_INET : AF_INET6;
  route->rtm_dst_len = static_cast<uint8_t>(size * 8);
  route->rtm_table = RT_TABLE_LOCAL;
  route->rtm_protocol = RTPROT_STATIC;
  route->rtm_scope = RT_SCOPE_HOST;
  route->rtm_type = RTN_LOCAL;
  mnl_attr_put(nlh, RTA_DST, size, bytes);
  mnl_attr_put_u32(nlh, RTA_OIF, link);
}

// ipvsAddresses(netns, linkIndex, what, op, size, bytes): addresses of `size` bytes one behind the other; what
// 'address' or 'route', op 1 adds and 2 removes. For each: '' or the errno.
Napi::Value Addresses(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t link = NumberArg(info, 1, INT32_MAX, "linkIndex");
  bool address = TextArg(info, 2, "what") == "address";
  bool add = NumberArg(info, 3, 2, "op") == kAdd;
  uint32_t size = NumberArg(info, 4, 16, "size");
  Napi::Buffer<uint8_t> bytes = BytesArg(info, 5, "addresses");
  AssertArg(env, (size == 4 || size == 16) && bytes.Length() % size == 0, "addresses");
  NetlinkSocket socket(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  uint16_t type = address ? (add ? RTM_NEWADDR : RTM_DELADDR) : (add ? RTM_NEWROUTE : RTM_DELROUTE);
  uint32_t count = static_cast<uint32_t>(bytes.Length() / size);
  Napi::Array answers = Napi::Array::New(env, count);
  for (uint32_t i = 0; i < count; i++) {
    Message message;
    nlmsghdr *nlh = message.Start(&socket, type, add ? NLM_F_CREATE | NLM_F_EXCL : 0);
    const uint8_t *one = bytes.Data() + static_cast<size_t>(i) * size;
    if (address) PutAddress(nlh, one, size, link);
    else PutRoute(nlh, one, size, link);
    int err = Send(&socket, nlh);
    answers.Set(i, Napi::String::New(env, err ? ErrnoName(err) : ""));
  }
  return answers;
}

// netnsSysctl(netns, path below /proc/sys/net, value): writes unless value is undefined; returns what it was
// before, or null when there is no such setting or it may not be written. /proc/sys/net shows the network
// namespace of the thread that opens the file.
Napi::Value Sysctl(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string name = TextArg(info, 1, "name");
  AssertArg(env, name.find("..") == std::string::npos, "name");
  NetnsGuard guard(env, TextArg(info, 0, "netns"));
  bool write = !info[2].IsUndefined();
  int fd = open(("/proc/sys/net/" + name).c_str(), (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
  if (fd < 0) return env.Null();
  char before[kSysctlBytesMax];
  ssize_t got = read(fd, before, sizeof(before));
  bool bad = got < 0;
  if (!bad && write) {
    std::string value = TextArg(info, 2, "value");
    bad = pwrite(fd, value.data(), value.size(), 0) < 0;
  }
  close(fd);
  if (bad) return env.Null();
  std::string text(before, static_cast<size_t>(got));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return Napi::String::New(env, text);
}
}  // namespace

void InitIpvsLink(Napi::Env env, Napi::Object exports) {
  exports.Set("ipvsLink", Napi::Function::New(env, Link));
  exports.Set("ipvsUnlink", Napi::Function::New(env, Unlink));
  exports.Set("ipvsAddresses", Napi::Function::New(env, Addresses));
  exports.Set("netnsSysctl", Napi::Function::New(env, Sysctl));
}
