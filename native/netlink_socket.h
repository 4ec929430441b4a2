#pragma once
// One netlink socket, made in a given network namespace, and the request/answer exchange on it. Not
// thread-safe: a handle serves one request at a time (the TypeScript owner queues).
#include <libmnl/libmnl.h>
#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "netns.h"

// libmnl's loops over attributes do not compile as C++. A malformed attribute ends the walk.
template <class Each>
void EachBetween(const void *begin, const void *end, Each each) {
  const nlattr *attr = static_cast<const nlattr *>(begin);
  const char *limit = static_cast<const char *>(end);
  for (; mnl_attr_ok(attr, static_cast<int>(limit - reinterpret_cast<const char *>(attr))); attr = mnl_attr_next(attr)) {
    each(attr);
  }
}
template <class Each>
void EachAttribute(const nlmsghdr *nlh, size_t skip, Each each) {
  EachBetween(mnl_nlmsg_get_payload_offset(nlh, skip), mnl_nlmsg_get_payload_tail(nlh), each);
}
template <class Each>
void EachNested(const nlattr *nest, Each each) {
  const char *payload = static_cast<const char *>(mnl_attr_get_payload(nest));
  EachBetween(payload, payload + mnl_attr_get_payload_len(nest), each);
}

struct NetlinkError {
  int err;        // positive errno
  uint32_t seq;   // of the message that was refused
  uint32_t offset;  // of the attribute that was refused within it (extended ack), 0: unknown
};

class NetlinkSocket {
 public:
  // Throws a JS Error with the errno when the socket cannot be made.
  NetlinkSocket(Napi::Env env, int protocol, const std::string &netns);
  ~NetlinkSocket();
  NetlinkSocket(const NetlinkSocket &) = delete;
  NetlinkSocket &operator=(const NetlinkSocket &) = delete;

  uint32_t NextSeq() { return ++seq_; }
  // After a batch that numbered its own messages: the next request gets a number that none of them had.
  void UsedSeqs(uint32_t last) { seq_ = last; }
  // The kernel's number for this socket: notifications name the socket whose request caused them.
  uint32_t PortId() const { return port_id_; }
  // For exchanges that neither Transact nor Dump fits; stays the socket's.
  int Descriptor() const { return fd_; }
  size_t SendBufferBytes() const { return send_buffer_bytes_; }

  // Sends `size` bytes in one call and collects every refusal until the kernel has no more answers for
  // sequence numbers up to `last_seq`, whose own acknowledgement must be requested. Returns 0 or the errno of
  // the exchange itself (not of refused messages).
  int Transact(const void *data, size_t size, uint32_t last_seq, std::vector<NetlinkError> *errors);

  // Sends one dump request, or one for a single object that asks for an acknowledgement, and hands every message of the answer
  // to `each`. Returns 0, or a positive errno; EINTR when the kernel says that the dump was not consistent (start again).
  int Dump(const nlmsghdr *request, const std::function<void(const nlmsghdr *)> &each, size_t buffer_bytes = 256 << 10);

 private:
  int fd_ = -1;
  uint32_t seq_ = 0;
  uint32_t port_id_ = 0;
  size_t send_buffer_bytes_ = 0;
};
