// Links, addresses, routes and neighbours: dumps, and a monitor that Node's own loop polls.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <memory>

#include "args.h"
#include "async_task.h"
#include "netlink_socket.h"
#include "notification_socket.h"
#include "rt_row.h"

namespace {
constexpr int kDumpAttempts = 5;
// A flood of changes must not keep the event loop: the rest is read at its next turn.
constexpr int kReadsPerTurn = 64;
// More messages than the buffer holds.
constexpr int kReadsAfterLoss = 1 << 16;

TaskError Dump(NetlinkSocket &socket, RtKind kind, std::vector<uint8_t> *rows) {
  for (int attempt = 0;; attempt++) {
    alignas(nlmsghdr) char buffer[128];
    rows->clear();
    int err = socket.Dump(BuildRtDump(buffer, kind, socket.NextSeq()), [&](const nlmsghdr *nlh) {
      if (WantsRt(kind, nlh)) AppendRtRow(nlh, rows);
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
    socket_ = std::make_unique<NotificationSocket>(env_, NETLINK_ROUTE, netns, GroupsOf(groups), [this] { Drain(); });
    callback_ = Napi::Persistent(callback);
    Ref();  // lives until close(), whoever forgets it
  }

 private:
  static std::vector<int> GroupsOf(uint32_t bits) {
    static const std::vector<int> kGroups[4] = {{RTNLGRP_LINK},
                                                {RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR},
                                                {RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE},
                                                {RTNLGRP_NEIGH}};
    std::vector<int> groups;
    for (int bit = 0; bit < 4; bit++) {
      if (bits & 1u << bit) groups.insert(groups.end(), kGroups[bit].begin(), kGroups[bit].end());
    }
    return groups;
  }

  void AssertOpen() {
    if (!socket_->IsOpen()) throw Napi::Error::New(env_, "this rtnetlink monitor is closed");
  }
  void Reference(const Napi::CallbackInfo &) {
    AssertOpen();
    socket_->KeepAlive();
  }
  void Unreference(const Napi::CallbackInfo &) {
    AssertOpen();
    socket_->LetGo();
  }
  // Twice is once.
  void Close(const Napi::CallbackInfo &) {
    if (!socket_->IsOpen()) return;
    socket_->Close();
    callback_.Reset();
    Unref();
  }

  void Drain() {
    alignas(nlmsghdr) char buffer[32 << 10];
    std::vector<uint8_t> rows;
    bool lost = false;
    for (int i = 0; i < (lost ? kReadsAfterLoss : kReadsPerTurn); i++) {
      ssize_t got = recv(socket_->Descriptor(), buffer, sizeof(buffer), MSG_DONTWAIT);
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
  std::unique_ptr<NotificationSocket> socket_;
};
}  // namespace

void InitRtnetlink(Napi::Env env, Napi::Object exports) {
  exports.Set("rtDump", Napi::Function::New(env, RtDump));
  exports.Set("rtDumpSync", Napi::Function::New(env, RtDumpSync));
  RtMonitor::Init(env, exports);
}
