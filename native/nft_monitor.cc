// Who else changes nftables: a socket in the kernel's notification group, polled by Node's own loop.
#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "netlink_socket.h"

namespace {
// new NftMonitor(netns, tablePrefix, callback): callback(portId: number) after each transaction that touched a
// table whose name starts so; portId is the netlink socket that made it. -1: messages were lost, anything may
// have changed.
class NftMonitor : public Napi::ObjectWrap<NftMonitor> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("NftMonitor", DefineClass(env, "NftMonitor",
                                          {InstanceMethod("pause", &NftMonitor::Pause),
                                           InstanceMethod("resume", &NftMonitor::Resume),
                                           InstanceMethod("close", &NftMonitor::Close)}));
  }

  explicit NftMonitor(const Napi::CallbackInfo &info) : Napi::ObjectWrap<NftMonitor>(info), env_(info.Env()) {
    std::string netns = info[0].As<Napi::String>();
    table_ = info[1].As<Napi::String>();
    callback_ = Napi::Persistent(info[2].As<Napi::Function>());
    {
      NetnsGuard guard(env_, netns);
      fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
      if (fd_ < 0) ThrowErrno(env_, errno, "socket(AF_NETLINK)");
    }
    int bytes = 4 << 20;
    if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    }
    sockaddr_nl address = {};
    address.nl_family = AF_NETLINK;
    if (bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) < 0) {
      int err = errno;
      close(fd_);
      ThrowErrno(env_, err, "bind(AF_NETLINK)");
    }
    Membership(NETLINK_ADD_MEMBERSHIP);
    uv_loop_t *loop = nullptr;
    napi_get_uv_event_loop(env_, &loop);
    poll_ = new uv_poll_t;
    poll_->data = this;
    uv_poll_init(loop, poll_, fd_);
    uv_poll_start(poll_, UV_READABLE, OnReadable);
    uv_unref(reinterpret_cast<uv_handle_t *>(poll_));
    napi_add_env_cleanup_hook(env_, CleanUp, this);
    Ref();
  }

 private:
  static void CleanUp(void *self) { static_cast<NftMonitor *>(self)->Shut(); }

  void Shut() {
    if (!poll_) return;
    uv_poll_stop(poll_);
    poll_->data = nullptr;
    uv_close(reinterpret_cast<uv_handle_t *>(poll_),
             [](uv_handle_t *handle) { delete reinterpret_cast<uv_poll_t *>(handle); });
    poll_ = nullptr;
    close(fd_);
    fd_ = -1;
  }

  void Membership(int option) {
    int group = NFNLGRP_NFTABLES;
    setsockopt(fd_, SOL_NETLINK, option, &group, sizeof(group));
  }

  // While nobody listens the kernel builds no notifications: our own large batches are twice as fast.
  void Pause(const Napi::CallbackInfo &) {
    if (fd_ < 0) return;
    Membership(NETLINK_DROP_MEMBERSHIP);
    char buffer[65536];
    while (recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT) > 0) {
    }
    touched_ = false;
  }
  void Resume(const Napi::CallbackInfo &) {
    if (fd_ >= 0) Membership(NETLINK_ADD_MEMBERSHIP);
  }
  void Close(const Napi::CallbackInfo &) {
    if (!poll_) return;
    napi_remove_env_cleanup_hook(env_, CleanUp, this);
    Shut();
    callback_.Reset();
    Unref();
  }

  static void OnReadable(uv_poll_t *poll, int status, int) {
    NftMonitor *self = static_cast<NftMonitor *>(poll->data);
    if (!self) return;
    // libuv stops a poll that saw an error, and lost notifications are one.
    if (status < 0) uv_poll_start(poll, UV_READABLE, OnReadable);
    self->Drain();
  }

  void Drain() {
    alignas(nlmsghdr) char buffer[65536];
    // Bounded: a flood of changes must not keep the event loop here.
    for (int i = 0; i < 64 && fd_ >= 0; i++) {
      ssize_t got = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (got < 0) {
        if (errno == ENOBUFS) Report(-1);
        return;
      }
      const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(buffer);
      int left = static_cast<int>(got);
      for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) Take(nlh);
    }
  }

  void Take(const nlmsghdr *nlh) {
    if (NFNL_SUBSYS_ID(nlh->nlmsg_type) != NFNL_SUBSYS_NFTABLES) return;
    const bool generation = NFNL_MSG_TYPE(nlh->nlmsg_type) == NFT_MSG_NEWGEN;
    if (!generation) {
      EachAttribute(nlh, sizeof(nfgenmsg), [&](const nlattr *attr) {
        // Attribute 1 is the table's name in every message about tables, chains, rules, sets and elements.
        if (mnl_attr_get_type(attr) != 1 || mnl_attr_get_payload_len(attr) < table_.size()) return;
        if (memcmp(mnl_attr_get_payload(attr), table_.data(), table_.size()) == 0) touched_ = true;
      });
    }
    if (generation) Report(nlh->nlmsg_pid);
  }

  void Report(int64_t port_id) {
    bool touched = touched_ || port_id < 0;
    touched_ = false;
    if (!touched) return;
    Napi::HandleScope scope(env_);
    try {
      callback_.MakeCallback(Value(), {Napi::Number::New(env_, static_cast<double>(port_id))});
    } catch (const Napi::Error &error) {
      // No C++ exception may cross libuv; a listener that throws ends the process as any uncaught error does.
      napi_fatal_exception(env_, error.Value());
    }
  }

  Napi::Env env_;
  std::string table_;
  Napi::FunctionReference callback_;
  uv_poll_t *poll_ = nullptr;
  int fd_ = -1;
  bool touched_ = false;
};
}  // namespace

void InitNftMonitor(Napi::Env env, Napi::Object exports) { NftMonitor::Init(env, exports); }
