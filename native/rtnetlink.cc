// Links, addresses, routes and neighbours: dumps, and a monitor that Node's own loop polls.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <memory>

#include "args.h"
#include "async_task.h"
#include "netlink_socket.h"
#include "rt_row.h"

namespace {
constexpr int kDumpAttempts = 5;
// Several seconds of a node that makes and removes pods as fast as it can.
constexpr int kMonitorBufferBytes = 4 << 20;
// A flood of changes must not keep the event loop: the rest is read at its next turn.
constexpr int kReadsPerTurn = 64;
// More messages than the buffer holds.
constexpr int kReadsAfterLoss = 1 << 16;

TaskError Dump(NetlinkSocket &socket, RtKind kind, std::vector<uint8_t> *rows) {
  for (int attempt = 0;; attempt++) {
    alignas(nlmsghdr) char buffer[128];
    rows->clear();
    int err = socket.Dump(BuildRtDump(buffer, kind, socket.NextSeq()), [&](const nlmsghdr *nlh) {
      if (kind == RtKind::kDefaultRoute && !IsDefaultRoute(nlh)) return;
      AppendRtRow(nlh, rows);
    });
    if (err == 0) return {};
    // EINTR: something changed under the dump, which then may miss or repeat entries.
    if (err != EINTR || attempt + 1 == kDumpAttempts) return {err, "rtnetlink dump"};
  }
}

// rtDumpSync(netns, kind): Buffer of rows. For what is small: links and addresses.
Napi::Value RtDumpSync(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const RtKind kind = static_cast<RtKind>(NumberArg(info, 1, kRtKindLast, "kind"));
  NetlinkSocket socket(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  std::vector<uint8_t> rows;
  TaskError error = Dump(socket, kind, &rows);
  if (error.err) ThrowErrno(env, error.err, error.what.c_str());
  return BytesValue(env, std::move(rows));
}

// rtDump(netns, kind): Promise<Buffer>
Napi::Value RtDump(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const RtKind kind = static_cast<RtKind>(NumberArg(info, 1, kRtKindLast, "kind"));
  auto socket = std::make_shared<NetlinkSocket>(env, NETLINK_ROUTE, TextArg(info, 0, "netns"));
  auto rows = std::make_shared<std::vector<uint8_t>>();
  return AsyncTask::Start(
      env, [socket, kind, rows] { return Dump(*socket, kind, rows.get()); },
      [rows](Napi::Env env) { return BytesValue(env, std::move(*rows)); });
}

// new RtMonitor(netns, groups, callback): groups are bits (1 links, 2 addresses, 4 routes, 8 neighbours).
// callback(rows: Buffer | null) once for each turn of the event loop in which something came; null:
// notifications were lost, and what they told must be read anew. Does not keep the event loop alive until ref().
class RtMonitor : public Napi::ObjectWrap<RtMonitor> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("RtMonitor", DefineClass(env, "RtMonitor",
                                         {InstanceMethod("ref", &RtMonitor::Reference),
                                          InstanceMethod("unref", &RtMonitor::Unreference),
                                          InstanceMethod("close", &RtMonitor::Close)}));
  }

  explicit RtMonitor(const Napi::CallbackInfo &info) : Napi::ObjectWrap<RtMonitor>(info), env_(info.Env()) {
    const std::string netns = TextArg(info, 0, "netns");
    const uint32_t groups = NumberArg(info, 1, 15, "groups");
    Napi::Function callback = FunctionArg(info, 2, "callback");
    AssertArg(env_, groups != 0, "groups");
    Open(netns, groups);
    callback_ = Napi::Persistent(callback);
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
    uv_unref(reinterpret_cast<uv_handle_t *>(poll_));
    napi_add_env_cleanup_hook(env_, CleanUp, this);
    Ref();  // lives until close(), whoever forgets it
  }

 private:
  void Open(const std::string &netns, uint32_t groups) {
    static const int kGroups[4][3] = {{RTNLGRP_LINK, 0, 0},
                                      {RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, 0},
                                      {RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, 0},
                                      {RTNLGRP_NEIGH, 0, 0}};
    NetnsGuard guard(env_, netns);
    fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (fd_ < 0) ThrowErrno(env_, errno, "socket(AF_NETLINK)");
    int bytes = kMonitorBufferBytes;
    if (setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    }
    sockaddr_nl address = {};
    address.nl_family = AF_NETLINK;
    int rc = bind(fd_, reinterpret_cast<sockaddr *>(&address), sizeof(address));
    for (int bit = 0; rc == 0 && bit < 4; bit++) {
      if (!(groups & 1u << bit)) continue;
      for (const int *group = kGroups[bit]; rc == 0 && *group; group++) {
        rc = setsockopt(fd_, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group, sizeof(*group));
      }
    }
    if (rc == 0) return;
    int err = errno;
    close(fd_);
    fd_ = -1;
    ThrowErrno(env_, err, "subscribe to rtnetlink");
  }

  static void CleanUp(void *self) { static_cast<RtMonitor *>(self)->Shut(); }

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

  void AssertOpen() {
    if (!poll_) throw Napi::Error::New(env_, "this rtnetlink monitor is closed");
  }
  void Reference(const Napi::CallbackInfo &) {
    AssertOpen();
    uv_ref(reinterpret_cast<uv_handle_t *>(poll_));
  }
  void Unreference(const Napi::CallbackInfo &) {
    AssertOpen();
    uv_unref(reinterpret_cast<uv_handle_t *>(poll_));
  }
  // Twice is once.
  void Close(const Napi::CallbackInfo &) {
    if (!poll_) return;
    napi_remove_env_cleanup_hook(env_, CleanUp, this);
    Shut();
    callback_.Reset();
    Unref();
  }

  static void OnReadable(uv_poll_t *poll, int status, int) {
    RtMonitor *self = static_cast<RtMonitor *>(poll->data);
    if (!self) return;
    // libuv stops watching a descriptor that shows an error, which a netlink socket does after an overrun.
    if (status < 0) uv_poll_start(poll, UV_READABLE, OnReadable);
    self->Drain();
  }

  void Drain() {
    alignas(nlmsghdr) char buffer[32 << 10];
    std::vector<uint8_t> rows;
    bool lost = false;
    for (int i = 0; i < (lost ? kReadsAfterLoss : kReadsPerTurn); i++) {
      ssize_t got = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
      if (got < 0) {
        if (errno == EINTR) continue;
        if (errno != ENOBUFS) break;
        lost = true;
        continue;
      }
      // What is queued is older than what was lost: told after the listener has read everything anew it would
      // bring back what is gone. So all of it goes.
      if (lost) continue;
      const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(buffer);
      int left = static_cast<int>(got);
      for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) AppendRtRow(nlh, &rows);
    }
    if (lost || !rows.empty()) Report(std::move(rows), lost);
  }

  void Report(std::vector<uint8_t> rows, bool lost) {
    Napi::HandleScope scope(env_);
    try {
      callback_.MakeCallback(Value(), {lost ? env_.Null() : BytesValue(env_, std::move(rows))});
    } catch (const Napi::Error &error) {
      // There is no JavaScript above this frame: the exception is an uncaught one.
      napi_fatal_exception(env_, error.Value());
    }
  }

  Napi::Env env_;
  Napi::FunctionReference callback_;
  uv_poll_t *poll_ = nullptr;
  int fd_ = -1;
};
}  // namespace

void InitRtnetlink(Napi::Env env, Napi::Object exports) {
  exports.Set("rtDump", Napi::Function::New(env, RtDump));
  exports.Set("rtDumpSync", Napi::Function::New(env, RtDumpSync));
  RtMonitor::Init(env, exports);
}
