#include "netlink_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ctime>

namespace {
// Enough for the refusals of a whole batch; the kernel doubles it. Forced where privilege allows.
constexpr int kReceiveBufferBytes = 16 << 20;
constexpr int kSendBufferBytes = 64 << 20;
constexpr int kAnswerTimeoutMs = 30000;

void GrowBuffer(int fd, int forced, int plain, int bytes) {
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof(bytes)) < 0) {
    setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
  }
}

// An extended acknowledgement names the refused attribute by its offset in the request.
uint32_t RefusedOffset(const nlmsghdr *nlh) {
  const nlmsgerr *err = static_cast<const nlmsgerr *>(mnl_nlmsg_get_payload(nlh));
  if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS)) return 0;
  size_t skip = sizeof(nlmsgerr);
  if (!(nlh->nlmsg_flags & NLM_F_CAPPED)) skip += err->msg.nlmsg_len - sizeof(nlmsghdr);
  uint32_t offset = 0;
  EachAttribute(nlh, skip, [&offset](const nlattr *attr) {
    if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_OFFS) offset = mnl_attr_get_u32(attr);
  });
  return offset;
}
}  // namespace

NetlinkSocket::NetlinkSocket(Napi::Env env, int protocol, const std::string &netns) {
  NetnsGuard guard(env, netns);
  fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd_ < 0) ThrowErrno(env, errno, "socket(AF_NETLINK)");
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) < 0) {
    int err = errno;
    close(fd_);
    fd_ = -1;
    ThrowErrno(env, err, "bind(AF_NETLINK)");
  }
  socklen_t address_length = sizeof(address);
  getsockname(fd_, reinterpret_cast<sockaddr *>(&address), &address_length);
  port_id_ = address.nl_pid;
  int on = 1;
  setsockopt(fd_, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  setsockopt(fd_, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  GrowBuffer(fd_, SO_RCVBUFFORCE, SO_RCVBUF, kReceiveBufferBytes);
  GrowBuffer(fd_, SO_SNDBUFFORCE, SO_SNDBUF, kSendBufferBytes);
  int bytes = 0;
  socklen_t length = sizeof(bytes);
  getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &bytes, &length);
  send_buffer_bytes_ = static_cast<size_t>(bytes);
  seq_ = static_cast<uint32_t>(time(nullptr));
}

NetlinkSocket::~NetlinkSocket() {
  if (fd_ >= 0) close(fd_);
}

int NetlinkSocket::Transact(const void *data, size_t size, uint32_t last_seq,
                            std::vector<NetlinkError> *errors) {
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = sendto(fd_, data, size, 0, reinterpret_cast<sockaddr *>(&kernel), sizeof(kernel));
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno;

  alignas(nlmsghdr) char buffer[65536];
  bool done = false;
  // The kernel has processed the whole batch when sendto() returns: all answers are queued already. A batch
  // that fails as a whole answers with its first message's number; so read until nothing is left.
  for (;;) {
    ssize_t got = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) return errno;
      if (done || !errors->empty()) return 0;
      pollfd waiting = {fd_, POLLIN, 0};
      int ready = poll(&waiting, 1, kAnswerTimeoutMs);
      if (ready < 0 && errno != EINTR) return errno;
      if (ready == 0) return ETIMEDOUT;
      continue;
    }
    const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(buffer);
    int left = static_cast<int>(got);
    while (mnl_nlmsg_ok(nlh, left)) {
      if (nlh->nlmsg_type == NLMSG_ERROR) {
        const nlmsgerr *answer = static_cast<const nlmsgerr *>(mnl_nlmsg_get_payload(nlh));
        if (answer->error == 0) {
          if (nlh->nlmsg_seq == last_seq) done = true;
        } else {
          errors->push_back({-answer->error, nlh->nlmsg_seq, RefusedOffset(nlh)});
        }
      }
      nlh = mnl_nlmsg_next(nlh, &left);
    }
  }
}

int NetlinkSocket::Dump(const nlmsghdr *request, const std::function<void(const nlmsghdr *)> &each,
                        size_t buffer_bytes) {
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  if (sendto(fd_, request, request->nlmsg_len, 0, reinterpret_cast<sockaddr *>(&kernel), sizeof(kernel)) < 0) {
    return errno;
  }
  std::vector<char> buffer(buffer_bytes);
  bool interrupted = false;
  for (;;) {
    ssize_t got = recv(fd_, buffer.data(), buffer.size(), 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(buffer.data());
    int left = static_cast<int>(got);
    for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
      if (nlh->nlmsg_seq != request->nlmsg_seq) continue;
      if (nlh->nlmsg_flags & NLM_F_DUMP_INTR) interrupted = true;
      if (nlh->nlmsg_type == NLMSG_DONE) return interrupted ? EINTR : 0;
      if (nlh->nlmsg_type == NLMSG_ERROR) {
        const nlmsgerr *answer = static_cast<const nlmsgerr *>(mnl_nlmsg_get_payload(nlh));
        return -answer->error;
      }
      each(nlh);
    }
  }
}
