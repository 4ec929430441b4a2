// The device that holds service addresses, and settings of a network namespace (rtnetlink(7), proc(5)).
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <unistd.h>

#include <set>

#include "args.h"
#include "ipvs.h"
#include "netlink_socket.h"

namespace {
constexpr size_t kMessageBytesMax = 512;
// One route with its metrics and next hops.
constexpr size_t kRouteBytesMax = 8 << 10;
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

rtmsg *PutDestination(nlmsghdr *nlh, const uint8_t *bytes, size_t size) {
  rtmsg *route = static_cast<rtmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(rtmsg)));
  route->rtm_family = size == 4 ? AF_INET : AF_INET6;
  route->rtm_dst_len = static_cast<uint8_t>(size * 8);
  mnl_attr_put(nlh, RTA_DST, size, bytes);
  return route;
}

// A route that makes the address local. `source`: what the node's own sockets get as their address toward it, or empty.
void PutRoute(nlmsghdr *nlh, const uint8_t *bytes, size_t size, uint32_t link, const std::vector<uint8_t> &source) {
  rtmsg *route = PutDestination(nlh, bytes, size);
  route->rtm_table = RT_TABLE_LOCAL;
  route->rtm_protocol = RTPROT_STATIC;
  route->rtm_scope = RT_SCOPE_HOST;
  route->rtm_type = RTN_LOCAL;
  mnl_attr_put_u32(nlh, RTA_OIF, link);
  if (!source.empty()) mnl_attr_put(nlh, RTA_PREFSRC, size, source.data());
}

// The source that the node's sockets have toward an address as things are (RTM_GETROUTE). Empty: there is no way to it, or it
// is local already.
std::vector<uint8_t> SourceToward(NetlinkSocket *socket, const uint8_t *bytes, size_t size) {
  Message message;
  nlmsghdr *nlh = message.Start(socket, RTM_GETROUTE, 0);
  PutDestination(nlh, bytes, size);
  std::vector<uint8_t> source;
  auto read = [&](const nlmsghdr *answer) {
    // IPv6 answers with a route of another type where there is no way.
    const uint8_t type = static_cast<const rtmsg *>(mnl_nlmsg_get_payload(answer))->rtm_type;
    if (type != RTN_UNICAST && type != RTN_LOCAL) return;
    EachAttribute(answer, sizeof(rtmsg), [&](const nlattr *attr) {
      if (mnl_attr_get_type(attr) != RTA_PREFSRC || mnl_attr_get_payload_len(attr) != size) return;
      const uint8_t *found = static_cast<const uint8_t *>(mnl_attr_get_payload(attr));
      source.assign(found, found + size);
    });
  };
  const int err = socket->Dump(nlh, read, kRouteBytesMax);
  if (err || (source.size() == size && memcmp(source.data(), bytes, size) == 0)) source.clear();
  return source;
}

// Makes the address local by way of the link. A socket that is not bound gets the destination of a local route as its source
// unless the route says otherwise: it says what the source was so far, so that a socket of the node goes on under the address
// it had. Returns 0 or the errno.
int Bind(NetlinkSocket *socket, const uint8_t *bytes, size_t size, uint32_t link, std::set<std::vector<uint8_t>> *sources) {
  auto add = [&](const std::vector<uint8_t> &from) {
    Message message;
    // Behind one of another device, as kube-proxy's, if there is one; EEXIST only where this very route is there.
    nlmsghdr *nlh = message.Start(socket, RTM_NEWROUTE, NLM_F_CREATE | (size == 4 ? NLM_F_APPEND : NLM_F_EXCL));
    PutRoute(nlh, bytes, size, link, from);
    return Send(socket, nlh);
  };
  const std::vector<uint8_t> source = SourceToward(socket, bytes, size);
  const int err = add(source);
  if (err == 0 && !source.empty()) sources->insert(source);
  // EINVAL: the source has gone meanwhile, or is not to be had yet (a tentative address).
  return err == EINVAL && !source.empty() ? add({}) : err;
}

// Takes the route away, and the address itself, which kube-proxy has on its device. Returns 0 when either was there.
int Unbind(NetlinkSocket *socket, const uint8_t *bytes, size_t size, uint32_t link) {
  Message message;
  nlmsghdr *nlh = message.Start(socket, RTM_DELADDR, 0);
  ifaddrmsg *head = static_cast<ifaddrmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(ifaddrmsg)));
  head->ifa_family = size == 4 ? AF_INET : AF_INET6;
  head->ifa_prefixlen = static_cast<uint8_t>(size * 8);
  head->ifa_index = link;
  mnl_attr_put(nlh, IFA_LOCAL, size, bytes);
  mnl_attr_put(nlh, IFA_ADDRESS, size, bytes);
  const bool had_address = Send(socket, nlh) == 0;
  nlh = message.Start(socket, RTM_DELROUTE, 0);
  PutRoute(nlh, bytes, size, link, {});
  const int err = Send(socket, nlh);
  return had_address ? 0 : err;
}

// ipvsAddresses(netns, linkIndex, op, size, bytes): addresses of `size` bytes one behind the other become local by way of the
// link (op 1), or no longer (2). Returns [for each: '' or the errno, the sources that the node's own sockets have toward
// those that became local: bytes, each once].
Napi::Value Addresses(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t link = NumberArg(info, 1, INT32_MAX, "linkIndex");
  bool add = NumberArg(info, 2, 2, "op") == kAdd;
  uint32_t size = NumberArg(info, 3, 16, "size");
  Napi::Buffer<uint8_t> bytes = BytesArg(info, 4, "addresses");
  AssertArg(env, (size == 4 || size == 16) && bytes.Length() % size == 0, "addresses");
  NetlinkSocket socket(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  uint32_t count = static_cast<uint32_t>(bytes.Length() / size);
  Napi::Array answers = Napi::Array::New(env, count);
  std::set<std::vector<uint8_t>> sources;
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *one = bytes.Data() + static_cast<size_t>(i) * size;
    const int err = add ? Bind(&socket, one, size, link, &sources) : Unbind(&socket, one, size, link);
    answers.Set(i, Napi::String::New(env, err ? ErrnoName(err) : ""));
  }
  Napi::Array seen = Napi::Array::New(env, sources.size());
  uint32_t at = 0;
  for (const std::vector<uint8_t> &source : sources) {
    seen.Set(at++, Napi::Buffer<uint8_t>::Copy(env, source.data(), source.size()));
  }
  Napi::Array both = Napi::Array::New(env, 2);
  both.Set(0u, answers);
  both.Set(1u, seen);
  return both;
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
