#pragma once
// A netlink socket on which the kernel tells of changes, polled by Node's own loop.
#include <uv.h>

#include <functional>
#include <string>
#include <vector>

#include "netns.h"

class NotificationSocket {
 public:
  // Subscribes to these groups. `readable` is called on the event loop when there is something to receive; the
  // socket does not keep the loop alive until KeepAlive(). It is closed with the environment at the latest. Throws a
  // JS Error with the errno.
  NotificationSocket(Napi::Env env, int protocol, const std::string &netns, const std::vector<int> &groups,
                     std::function<void()> readable);
  ~NotificationSocket() { Close(); }
  NotificationSocket(const NotificationSocket &) = delete;
  NotificationSocket &operator=(const NotificationSocket &) = delete;

  bool IsOpen() const { return poll_ != nullptr; }
  // -1 when it is closed.
  int Descriptor() const { return fd_; }
  // NETLINK_ADD_MEMBERSHIP or NETLINK_DROP_MEMBERSHIP. Returns 0 or an errno.
  int Membership(int option, int group);
  void KeepAlive() { uv_ref(reinterpret_cast<uv_handle_t *>(poll_)); }
  void LetGo() { uv_unref(reinterpret_cast<uv_handle_t *>(poll_)); }
  // Twice is once. May be called from `readable`.
  void Close();

 private:
  static void CleanUp(void *self);
  static void OnReadable(uv_poll_t *poll, int status, int events);
  void Open(int protocol, const std::string &netns, const std::vector<int> &groups);
  void Shut();

  Napi::Env env_;
  std::function<void()> readable_;
  uv_poll_t *poll_ = nullptr;
  int fd_ = -1;
};
