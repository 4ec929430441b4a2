#include "notification_socket.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace {
// Several seconds of a node that makes and removes pods, or of somebody who fills tables, as fast as they can.
constexpr int kBufferBytes = 4 << 20;
}  // namespace

NotificationSocket::NotificationSocket(Napi::Env env, int protocol, const std::string &netns,
                                       const std::vector<int> &groups, std::function<void()> readable)
    : env_(env), readable_(std::move(readable)) {
  Open(protocol, netns, groups);
  uv_loop_t *loop = nullptr;
  napi_get_uv_event_loop(env_, &loop);
  poll_ = new uv_poll_t;
  poll_->data = this;
  int rc = uv_poll_init(loop, poll_, fd_);
  if (rc < 0) {
    delete poll_;
    poll_ = nullptr;
    close(fd_);
    ThrowErrno(env_, -rc, "uv_poll_init");
  }
  uv_poll_start(poll_, UV_READABLE, OnReadable);
  LetGo();
  napi_add_env_cleanup_hook(env_, CleanUp, this);
}

void NotificationSocket::Open(int protocol, const std::string &netns, const std::vector<int> &groups) {
  NetnsGuard guard(env_, netns);
  fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd_ < 0) ThrowErrno(env_, errno, "socket(AF_NETLINK)");
  int bytes = kBufferBytes;
  if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
  }
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  int err = bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) < 0 ? errno : 0;
  for (size_t i = 0; err == 0 && i < groups.size(); i++) err = Membership(NETLINK_ADD_MEMBERSHIP, groups[i]);
  if (err == 0) return;
  close(fd_);
  fd_ = -1;
  ThrowErrno(env_, err, "subscribe to netlink");
}

int NotificationSocket::Membership(int option, int group) {
  return setsockopt(fd_, SOL_NETLINK, option, &group, sizeof(group)) < 0 ? errno : 0;
}

void NotificationSocket::Close() {
  if (!poll_) return;
  napi_remove_env_cleanup_hook(env_, CleanUp, this);
  Shut();
}

void NotificationSocket::CleanUp(void *self) { static_cast<NotificationSocket *>(self)->Shut(); }

void NotificationSocket::Shut() {
  uv_poll_stop(poll_);
  poll_->data = nullptr;
  uv_close(reinterpret_cast<uv_handle_t *>(poll_),
           [](uv_handle_t *handle) { delete reinterpret_cast<uv_poll_t *>(handle); });
  poll_ = nullptr;
  close(fd_);
  fd_ = -1;
}

void NotificationSocket::OnReadable(uv_poll_t *poll, int status, int) {
  NotificationSocket *self = static_cast<NotificationSocket *>(poll->data);
  if (!self) return;
  // libuv stops watching a descriptor that shows an error, which a netlink socket does after an overrun.
  if (status < 0) uv_poll_start(poll, UV_READABLE, OnReadable);
  self->readable_();
}
