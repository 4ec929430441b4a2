// Conntrack for JavaScript: deleting flows, listing them, counting them (ctnetlink).
//
// Deleting is always: a dump that the kernel narrows, an exact comparison here, and the deletion of each match
// by tuple, zone and id. The kernel can also flush by filter in one call, but that filter is wrong for IPv6 (it
// deletes everything but what was meant) and blind for SCTP's ports (see flow.cc), older kernels do not have it,
// and it does not say how many entries it deleted. Both walk the whole hash table once, and that walk is what
// costs.
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "args.h"
#include "async_task.h"
#include "byte_reader.h"
#include "flow_match.h"
#include "netlink_socket.h"

namespace {
constexpr size_t kItemBytes = 40;
constexpr uint32_t kItemsMax = 1 << 20;
// Answers to a batch of deletions stay far below any receive buffer.
constexpr size_t kDeletesPerBatch = 256;
constexpr int kDumpAttempts = 3;
// Reading one entry from a dump costs about as much as passing this many buckets of the hash table.
constexpr uint64_t kBucketsPerRow = 40;
constexpr uint32_t kRowsPerBatchMax = 65536;

using SharedSocket = std::shared_ptr<NetlinkSocket>;

SharedSocket OpenSocket(Napi::Env env, const std::string &netns) {
  return std::make_shared<NetlinkSocket>(env, NETLINK_NETFILTER, netns);
}

struct Stats {
  uint32_t entries = 0;
  uint32_t entries_max = 0;
};

// Entries of this network namespace, as the kernel counts them (IPCTNL_MSG_CT_GET_STATS).
int ReadStats(NetlinkSocket &socket, Stats *stats) {
  alignas(nlmsghdr) char buffer[64];
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS;
  // The answer is one message without an end; the acknowledgement that is asked for stands in for it.
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  nlh->nlmsg_seq = socket.NextSeq();
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->version = NFNETLINK_V0;
  return socket.Dump(nlh, [stats](const nlmsghdr *answer) {
    if (mnl_nlmsg_get_payload_len(answer) < sizeof(nfgenmsg)) return;
    EachAttribute(answer, sizeof(nfgenmsg), [stats](const nlattr *attr) {
      if (mnl_attr_get_payload_len(attr) < 4) return;
      const uint32_t value = ntohl(mnl_attr_get_u32(attr));
      if (mnl_attr_get_type(attr) == CTA_STATS_GLOBAL_ENTRIES) stats->entries = value;
      if (mnl_attr_get_type(attr) == CTA_STATS_GLOBAL_MAX_ENTRIES) stats->entries_max = value;
    });
  });
}

// The size of the hash table, which all network namespaces share.
uint64_t BucketCount() {
  unsigned long long buckets = 0;
  if (FILE *file = fopen("/proc/sys/net/netfilter/nf_conntrack_buckets", "re")) {
    if (fscanf(file, "%llu", &buckets) != 1) buckets = 0;
    fclose(file);
  }
  return buckets ? buckets : 65536;
}

class Deleter {
 public:
  Deleter(SharedSocket dump, SharedSocket change) : dump_(std::move(dump)), change_(std::move(change)) {}

  TaskError Run(const FlowMatcher &matcher) {
    Stats stats;
    int err = ReadStats(*dump_, &stats);
    if (err) return {err, "conntrack statistics"};
    if (stats.entries == 0) return {};
    const uint64_t narrow_dumps_max = 1 + stats.entries * kBucketsPerRow / BucketCount();
    const bool narrow = matcher.DestinationCount() <= narrow_dumps_max;
    const std::vector<FlowFilter> filters = narrow ? matcher.NarrowFilters() : matcher.WideFilters();
    for (const FlowFilter &filter : filters) {
      err = DumpAndDelete(filter, matcher);
      if (err) return {err, change_error_ ? "conntrack deletion" : "conntrack dump"};
      dumps++;
    }
    return {};
  }

  uint32_t deleted = 0;
  uint32_t dumps = 0;

 private:
  int DumpAndDelete(const FlowFilter &filter, const FlowMatcher &matcher) {
    int err = 0;
    bool in_kernel = true;
    for (int attempt = 0; attempt < kDumpAttempts; attempt++) {
      alignas(nlmsghdr) char request[512];
      nlmsghdr *nlh = BuildFlowDump(request, filter, dump_->NextSeq(), in_kernel);
      err = dump_->Dump(nlh, [&](const nlmsghdr *answer) {
        Flow flow;
        if (ReadFlow(answer, &flow) && matcher.Matches(flow)) Delete(flow);
      });
      Flush();
      if (change_error_) return change_error_;
      if (err == EOPNOTSUPP || err == EINVAL) in_kernel = false;
      else if (err != EINTR) return err;
    }
    // What was found is deleted; a table that keeps being resized is left at that.
    return err == EINTR ? 0 : err;
  }

  void Delete(const Flow &flow) {
    const size_t start = batch_.size();
    if (!AppendFlowDelete(flow, change_->NextSeq(), &batch_)) return;
    last_start_ = start;
    pending_++;
    if (pending_ == kDeletesPerBatch) Flush();
  }

  void Flush() {
    if (pending_ == 0) return;
    // Only the last is acknowledged; what is refused answers by itself.
    nlmsghdr *last = reinterpret_cast<nlmsghdr *>(batch_.data() + last_start_);
    last->nlmsg_flags |= NLM_F_ACK;
    const uint32_t last_seq = last->nlmsg_seq;
    std::vector<NetlinkError> errors;
    int err = change_->Transact(batch_.data(), batch_.size(), last_seq, &errors);
    if (err && !change_error_) change_error_ = err;
    uint32_t gone = 0;
    for (const NetlinkError &error : errors) {
      // Between the dump and now it ended by itself, or its tuple belongs to a new entry.
      if (error.err == ENOENT) gone++;
      else if (!change_error_) change_error_ = error.err;
    }
    if (!change_error_) deleted += pending_ - gone;
    batch_.clear();
    pending_ = 0;
  }

  SharedSocket dump_;
  SharedSocket change_;
  std::vector<char> batch_;
  size_t last_start_ = 0;
  uint32_t pending_ = 0;
  int change_error_ = 0;
};

bool ReadItems(const uint8_t *data, size_t size, FlowMatcher *matcher) {
  ByteReader in(data, size);
  while (!in.AtEnd() && !in.Failed()) {
    FlowItem item;
    item.family = in.U8();
    item.protocol = in.U8();
    const uint8_t reply = in.U8();
    item.unanswered = in.U8() != 0;
    memcpy(&item.port, in.Bytes(2), 2);
    memcpy(&item.backend_port, in.Bytes(2), 2);
    memcpy(item.destination.data(), in.Bytes(16), 16);
    memcpy(item.backend.data(), in.Bytes(16), 16);
    if ((item.family != 4 && item.family != 6) || item.protocol == 0 || item.port == 0 || reply > 2) return false;
    item.reply = static_cast<ReplyKind>(reply);
    matcher->Add(item);
  }
  return !in.Failed();
}

// conntrackDelete(netns, items: Buffer): Promise<{deleted, dumps}>
Napi::Value ConntrackDelete(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const std::string netns = TextArg(info, 0, "netns");
  Napi::Buffer<uint8_t> items = BytesArg(info, 1, "items");
  AssertArg(env, items.Length() % kItemBytes == 0 && items.Length() / kItemBytes <= kItemsMax, "items");
  auto matcher = std::make_shared<FlowMatcher>();
  AssertArg(env, ReadItems(items.Data(), items.Length(), matcher.get()), "items");
  auto deleter = std::make_shared<Deleter>(OpenSocket(env, netns), OpenSocket(env, netns));
  return AsyncTask::Start(
      env, [matcher, deleter] { return deleter->Run(*matcher); },
      [deleter](Napi::Env env) {
        Napi::Object result = Napi::Object::New(env);
        result.Set("deleted", Napi::Number::New(env, deleter->deleted));
        result.Set("dumps", Napi::Number::New(env, deleter->dumps));
        return result;
      });
}

// conntrackCount(netns): {entries, entriesMax}; entriesMax 0 when the kernel does not say.
Napi::Value ConntrackCount(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  SharedSocket socket = OpenSocket(env, TextArg(info, 0, "netns"));
  Stats stats;
  int err = ReadStats(*socket, &stats);
  if (err) ThrowErrno(env, err, "conntrack statistics");
  Napi::Object result = Napi::Object::New(env);
  result.Set("entries", Napi::Number::New(env, stats.entries));
  result.Set("entriesMax", Napi::Number::New(env, stats.entries_max));
  return result;
}

// A dump that is read bit by bit: the kernel holds the cursor, so nothing piles up here when the reader is slow.
class DumpCursor {
 public:
  DumpCursor(SharedSocket socket, FlowFilter filter) : socket_(std::move(socket)), filter_(filter) {}

  // Appends at least `rows_min` rows unless the dump ends before.
  TaskError Read(uint32_t rows_min, std::vector<uint8_t> *rows) {
    rows->reserve(rows_min * kFlowRowBytes);
    while (!done_ && rows->size() < rows_min * kFlowRowBytes) {
      int err = started_ ? Receive(rows) : Send();
      if ((err == EOPNOTSUPP || err == EINVAL) && in_kernel_ && !delivered_) {
        in_kernel_ = false;
        started_ = false;
        continue;
      }
      if (err) {
        done_ = true;
        return {err, "conntrack dump"};
      }
    }
    return {};
  }

 private:
  int Send() {
    alignas(nlmsghdr) char request[512];
    seq_ = socket_->NextSeq();
    nlmsghdr *nlh = BuildFlowDump(request, filter_, seq_, in_kernel_);
    started_ = true;
    return send(socket_->Descriptor(), request, nlh->nlmsg_len, 0) < 0 ? errno : 0;
  }

  int Receive(std::vector<uint8_t> *rows) {
    // The kernel fills at most 32 KiB a time for a dump, whatever is offered.
    alignas(nlmsghdr) char buffer[32 << 10];
    ssize_t got = recv(socket_->Descriptor(), buffer, sizeof(buffer), 0);
    if (got < 0) return errno == EINTR ? 0 : errno;
    const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(buffer);
    int left = static_cast<int>(got);
    for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
      if (nlh->nlmsg_seq != seq_) continue;
      if (nlh->nlmsg_type == NLMSG_DONE) {
        done_ = true;
        return 0;
      }
      if (nlh->nlmsg_type == NLMSG_ERROR) {
        const nlmsgerr *answer = static_cast<const nlmsgerr *>(mnl_nlmsg_get_payload(nlh));
        return -answer->error;
      }
      Flow flow;
      if (!ReadFlow(nlh, &flow) || !filter_.Matches(flow)) continue;
      AppendFlowRow(flow, rows);
      delivered_ = true;
    }
    return 0;
  }

  SharedSocket socket_;
  FlowFilter filter_;
  uint32_t seq_ = 0;
  bool in_kernel_ = true;
  bool started_ = false;
  bool delivered_ = false;
  bool done_ = false;
};

// new ConntrackDump(netns, filter: Buffer); next(rowsMin): Promise<Buffer>, empty at the end; close().
class ConntrackDump : public Napi::ObjectWrap<ConntrackDump> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("ConntrackDump", DefineClass(env, "ConntrackDump",
                                             {InstanceMethod("next", &ConntrackDump::Next),
                                              InstanceMethod("close", &ConntrackDump::Close)}));
  }

  explicit ConntrackDump(const Napi::CallbackInfo &info) : Napi::ObjectWrap<ConntrackDump>(info) {
    Napi::Env env = info.Env();
    const std::string netns = TextArg(info, 0, "netns");
    Napi::Buffer<uint8_t> packed = BytesArg(info, 1, "filter");
    AssertArg(env, packed.Length() == kItemBytes, "filter");
    ByteReader in(packed.Data(), packed.Length());
    FlowFilter filter;
    filter.family = in.U8();
    filter.protocol = in.U8();
    filter.by_destination = in.U8() != 0;
    filter.unanswered = in.U8() != 0;
    memcpy(&filter.destination_port, in.Bytes(2), 2);
    in.Bytes(2);
    memcpy(filter.destination.data(), in.Bytes(16), 16);
    AssertArg(env, filter.family == 4 || filter.family == 6, "filter");
    cursor_ = std::make_shared<DumpCursor>(OpenSocket(env, netns), filter);
  }

 private:
  Napi::Value Next(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    if (!cursor_) throw Napi::Error::New(env, "this conntrack dump is closed");
    if (*busy_) throw Napi::Error::New(env, "this conntrack dump has a request under way");
    const uint32_t rows_min = NumberArg(info, 0, kRowsPerBatchMax, "rowsMin");
    auto rows = std::make_shared<std::vector<uint8_t>>();
    *busy_ = true;
    // `busy` is read and written on the event loop only: quick work must not let a second request slip in.
    return AsyncTask::Start(
        env, [cursor = cursor_, rows, rows_min] { return cursor->Read(std::max(rows_min, 1u), rows.get()); },
        [rows](Napi::Env env) { return BytesValue(env, std::move(*rows)); }, [busy = busy_] { *busy = false; });
  }

  // The socket goes when the last request on it has ended.
  void Close(const Napi::CallbackInfo &) { cursor_.reset(); }

  std::shared_ptr<DumpCursor> cursor_;
  std::shared_ptr<bool> busy_ = std::make_shared<bool>(false);
};
}  // namespace

void InitConntrack(Napi::Env env, Napi::Object exports) {
  exports.Set("conntrackDelete", Napi::Function::New(env, ConntrackDelete));
  exports.Set("conntrackCount", Napi::Function::New(env, ConntrackCount));
  ConntrackDump::Init(env, exports);
  InitConntrackCreate(env, exports);
}
