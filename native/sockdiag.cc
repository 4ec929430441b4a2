// Sockets that our programs translated, found by their cookies in tp_sock_peers: lists them, and destroys connected
// UDP ones whose backend is gone (SOCK_DESTROY of sock_diag(7)), so that their owners connect anew. Sockets are known per network namespace: every one that a process of this machine lives in is
// entered, on a pool thread that comes back to its own.
#include <dirent.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <set>

#include "../bpf/abi.h"
#include "args.h"
#include "async_task.h"
#include "bpf.h"

namespace {

// A backend that is gone: 24 bytes, address, port (network order), two spare bytes, index of its record.
struct Gone {
  tp_addr addr;
  uint16_t port;
  uint16_t spare;
  uint32_t backend;
};
static_assert(sizeof(Gone) == 24, "as src/dataplane/ebpf/sockets.ts writes it");

struct Tally {
  uint32_t namespaces = 0, destroyed = 0;
};

constexpr size_t kBuffer = 32 << 10;
// Of UDP, a connected socket counts as established. TIME_WAIT is no socket any more.
constexpr uint32_t kConnected = 1 << TCP_ESTABLISHED | 1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV | 1 << TCP_FIN_WAIT1 |
                                1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK | 1 << TCP_CLOSING;

class Diag {
 public:
  Diag() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) {
    timeval limit = {.tv_sec = 2, .tv_usec = 0};
    if (fd_ >= 0) setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  }
  ~Diag() {
    if (fd_ >= 0) close(fd_);
  }
  bool ok() const { return fd_ >= 0; }

  // All sockets of one family and protocol that have a peer.
  std::vector<inet_diag_msg> Connected(uint8_t family, uint8_t protocol) { return InStates(family, protocol, kConnected); }

  std::vector<inet_diag_msg> InStates(uint8_t family, uint8_t protocol, uint32_t states) {
    std::vector<inet_diag_msg> found;
    inet_diag_req_v2 ask = {};
    ask.sdiag_family = family;
    ask.sdiag_protocol = protocol;
    ask.idiag_states = states;
    if (!Send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, ask)) return found;
    alignas(nlmsghdr) char buffer[kBuffer];
    for (;;) {
      ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
      if (got <= 0) return found;
      size_t left = got;
      for (nlmsghdr *h = reinterpret_cast<nlmsghdr *>(buffer); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) return found;
        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(inet_diag_msg))) continue;
        found.push_back(*static_cast<inet_diag_msg *>(NLMSG_DATA(h)));
      }
    }
  }

  bool Destroy(const inet_diag_msg &one) {
    inet_diag_req_v2 ask = {};
    ask.sdiag_family = one.idiag_family;
    ask.sdiag_protocol = IPPROTO_UDP;
    ask.idiag_states = ~0u;
    ask.id = one.id;
    if (!Send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, ask)) return false;
    alignas(nlmsghdr) char buffer[kBuffer];
    ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
    nlmsghdr *h = reinterpret_cast<nlmsghdr *>(buffer);
    if (got < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(nlmsgerr))) || h->nlmsg_type != NLMSG_ERROR) return false;
    return static_cast<nlmsgerr *>(NLMSG_DATA(h))->error == 0;
  }

 private:
  bool Send(uint16_t type, uint16_t flags, const inet_diag_req_v2 &ask) {
    struct {
      nlmsghdr head;
      inet_diag_req_v2 ask;
    } message = {};
    message.head.nlmsg_len = sizeof(message);
    message.head.nlmsg_type = type;
    message.head.nlmsg_flags = flags;
    message.ask = ask;
    return send(fd_, &message, sizeof(message), 0) == sizeof(message);
  }

  int fd_;
};

// An end as tp_addr; a mapped IPv4 address of an IPv6 socket is that IPv4 address. Returns the family.
uint8_t EndOf(uint8_t family, const uint32_t *w, tp_addr *addr) {
  memset(addr, 0, sizeof(*addr));
  const bool mapped = family == AF_INET6 && !w[0] && !w[1] && w[2] == htonl(0xffff);
  if (family == AF_INET || mapped) {
    addr->w[0] = mapped ? w[3] : w[0];
    return 4;
  }
  memcpy(addr, w, sizeof(*addr));
  return 6;
}

// What our programs made of this socket's peer. False: nothing.
bool FindPeer(int peers, const inet_diag_msg &one, uint8_t protocol, const tp_addr &addr, uint8_t family,
              tp_sock_peer *peer) {
  tp_sock_key key = {};
  key.cookie = static_cast<uint64_t>(one.id.idiag_cookie[1]) << 32 | one.id.idiag_cookie[0];
  key.addr = addr;
  key.port = one.id.idiag_dport;
  key.proto = protocol;
  key.family = family;
  return bpf_map_lookup_elem(peers, &key, peer) == 0;
}

void Sweep(int peers, const std::vector<Gone> &gone, Tally *tally) {
  Diag diag;
  if (!diag.ok()) return;
  for (uint8_t family : {AF_INET, AF_INET6}) {
    for (const inet_diag_msg &one : diag.Connected(family, IPPROTO_UDP)) {
      tp_addr addr;
      tp_sock_peer peer = {};
      const uint8_t peer_family = EndOf(one.idiag_family, one.id.idiag_dst, &addr);
      for (const Gone &g : gone) {
        if (one.id.idiag_dport != g.port || memcmp(&addr, &g.addr, sizeof(addr))) continue;
        if (!FindPeer(peers, one, IPPROTO_UDP, addr, peer_family, &peer) || peer.backend != g.backend) continue;
        tally->destroyed += diag.Destroy(one);
        break;
      }
    }
  }
}

// A socket that our programs translated: 64 bytes, as src/dataplane/ebpf/sockets.ts reads them.
struct Row {
  uint8_t protocol, family, state, spare;
  uint16_t client_port, frontend_port, backend_port, spare2;
  tp_addr client, frontend, backend;
  uint32_t spare3;
};
static_assert(sizeof(Row) == 64, "no holes");

void List(int peers, std::vector<Row> *rows) {
  Diag diag;
  if (!diag.ok()) return;
  for (uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
    for (uint8_t family : {AF_INET, AF_INET6}) {
      for (const inet_diag_msg &one : diag.Connected(family, protocol)) {
        Row row = {};
        tp_sock_peer peer = {};
        row.family = EndOf(one.idiag_family, one.id.idiag_dst, &row.backend);
        if (!FindPeer(peers, one, protocol, row.backend, row.family, &peer)) continue;
        EndOf(one.idiag_family, one.id.idiag_src, &row.client);
        row.protocol = protocol;
        row.state = one.idiag_state;
        row.frontend = peer.addr;
        row.client_port = one.id.idiag_sport;
        row.frontend_port = peer.port;
        row.backend_port = one.id.idiag_dport;
        rows->push_back(row);
      }
    }
  }
}

// Writes down (key: the cookie) every UDP socket that has no peer.
void Remember(int map, uint32_t *count) {
  Diag diag;
  if (!diag.ok()) return;
  const uint32_t yes = 1;
  for (uint8_t family : {AF_INET, AF_INET6}) {
    for (const inet_diag_msg &one : diag.InStates(family, IPPROTO_UDP, 1 << TCP_CLOSE)) {
      const uint64_t cookie = static_cast<uint64_t>(one.id.idiag_cookie[1]) << 32 | one.id.idiag_cookie[0];
      *count += bpf_map_update_elem(map, &cookie, &yes, BPF_ANY) == 0;
    }
  }
}

// Our own network namespace, and every other one in which a process lives that we may enter, once. To enter one, even
// to come home, takes CAP_SYS_ADMIN, which an agent may run without.
TaskError Everywhere(const std::function<void()> &work) {
  int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0) return {errno, "open /proc/thread-self/ns/net"};
  struct stat about;
  std::set<std::pair<dev_t, ino_t>> seen;
  if (fstat(home, &about) == 0) seen.insert({about.st_dev, about.st_ino});
  work();
  bool left = false;
  DIR *proc = opendir("/proc");
  while (dirent *entry = proc ? readdir(proc) : nullptr) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    std::string path = std::string("/proc/") + entry->d_name + "/ns/net";
    if (stat(path.c_str(), &about) || !seen.insert({about.st_dev, about.st_ino}).second) continue;
    int ns = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (ns < 0) continue;
    if (setns(ns, CLONE_NEWNET) == 0) {
      left = true;
      work();
    }
    close(ns);
  }
  if (proc) closedir(proc);
  // A pool thread that cannot come home would do other people's work in the wrong network.
  if (left && setns(home, CLONE_NEWNET)) abort();
  close(home);
  return {};
}

// sockDestroyUdp(peers, gone): promise of [namespaces, destroyed]. `peers`: tp_sock_peers; `gone`: items of 24 bytes.
Napi::Value DestroyUdp(const Napi::CallbackInfo &info) {
  const int peers = FdOf(info[0]);
  Bytes bytes = BytesOf(info[1]);
  auto gone = std::make_shared<std::vector<Gone>>(bytes.size / sizeof(Gone));
  memcpy(gone->data(), bytes.data, gone->size() * sizeof(Gone));
  auto tally = std::make_shared<Tally>();
  return AsyncTask::Start(
      info.Env(),
      [peers, gone, tally] {
        return Everywhere([&] {
          tally->namespaces++;
          Sweep(peers, *gone, tally.get());
        });
      },
      [tally](Napi::Env env) {
        Napi::Array out = Napi::Array::New(env, 2);
        out.Set(0u, tally->namespaces);
        out.Set(1u, tally->destroyed);
        return out;
      });
}

// sockTranslated(peers): promise of a Buffer of rows, of all network namespaces.
Napi::Value Translated(const Napi::CallbackInfo &info) {
  const int peers = FdOf(info[0]);
  auto rows = std::make_shared<std::vector<Row>>();
  return AsyncTask::Start(
      info.Env(), [peers, rows] { return Everywhere([&] { List(peers, rows.get()); }); },
      [rows](Napi::Env env) {
        const uint8_t *bytes = reinterpret_cast<const uint8_t *>(rows->data());
        return Napi::Buffer<uint8_t>::Copy(env, bytes, rows->size() * sizeof(Row));
      });
}

// sockRememberUdp(map): promise of how many. Unconnected UDP sockets of all network namespaces go into the map, by cookie.
Napi::Value RememberUdp(const Napi::CallbackInfo &info) {
  const int map = FdOf(info[0]);
  auto count = std::make_shared<uint32_t>(0);
  return AsyncTask::Start(
      info.Env(), [map, count] { return Everywhere([&] { Remember(map, count.get()); }); },
      [count](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *count); });
}

}  // namespace

void InitSockDiag(Napi::Env env, Napi::Object exports) {
  exports.Set("sockRememberUdp", Napi::Function::New(env, RememberUdp));
  exports.Set("sockTranslated", Napi::Function::New(env, Translated));
  exports.Set("sockDestroyUdp", Napi::Function::New(env, DestroyUdp));
}
