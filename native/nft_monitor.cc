// Who else changes nftables: a socket in the kernel's notification group, polled by Node's own loop.
#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <memory>

#include "netlink_socket.h"
#include "notification_socket.h"

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
    socket_ = std::make_unique<NotificationSocket>(env_, NETLINK_NETFILTER, netns, std::vector<int>{NFNLGRP_NFTABLES},
                                                   [this] { Drain(); });
    Ref();
  }

 private:
  // While nobody listens the kernel builds no notifications: our own large batches are twice as fast.
  void Pause(const Napi::CallbackInfo &) {
    if (!socket_->IsOpen()) return;
    socket_->Membership(NETLINK_DROP_MEMBERSHIP, NFNLGRP_NFTABLES);
    char buffer[65536];
    while (recv(socket_->Descriptor(), buffer, sizeof(buffer), MSG_DONTWAIT) > 0) {
    }
    touched_ = false;
  }
  void Resume(const Napi::CallbackInfo &) {
    if (socket_->IsOpen()) socket_->Membership(NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES);
  }
  void Close(const Napi::CallbackInfo &) {
    if (!socket_->IsOpen()) return;
    socket_->Close();
    callback_.Reset();
    Unref();
  }

  void Drain() {
    alignas(nlmsghdr) char buffer[65536];
    // Bounded: a flood of changes must not keep the event loop here.
    for (int i = 0; i < 64 && socket_->IsOpen(); i++) {
      ssize_t got = recv(socket_->Descriptor(), buffer, sizeof(buffer), MSG_DONTWAIT);
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
  std::unique_ptr<NotificationSocket> socket_;
  bool touched_ = false;
};
}  // namespace

void InitNftMonitor(Napi::Env env, Napi::Object exports) { NftMonitor::Init(env, exports); }
