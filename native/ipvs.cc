// IPVS over generic netlink (linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c), and the links and addresses that
// its services need. Only firewall-mark services: those of addresses belong to others and are not even read.
#include <arpa/inet.h>
#include <linux/genetlink.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/ip_vs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <unistd.h>

#include <memory>

#include "args.h"
#include "async_task.h"
#include "byte_reader.h"
#include "ipvs.h"
#include "ipvs_request.h"
#include "netlink_socket.h"

namespace {
// Requests are sent in runs of so many bytes: the answers to one run fit the receive buffer many times.
constexpr size_t kRunBytes = 64 << 10;
constexpr uint32_t kFullMask = 0xffffffff;

struct Refusal {
  uint32_t index;
  int err;
};

class Run {
 public:
  Run(NetlinkSocket *socket, std::vector<Refusal> *refusals) : socket_(socket), refusals_(refusals) {}

  // A message for operation `index`; flush() or the next Begin() ends it.
  nlmsghdr *Begin(uint32_t index, uint16_t type, uint16_t flags) {
    if (bytes_.size() > kRunBytes) err_ = err_ ? err_ : Flush();
    last_ = bytes_.size();
    bytes_.resize(last_ + kMessageBytesMax);
    nlmsghdr *nlh = mnl_nlmsg_put_header(bytes_.data() + last_);
    nlh->nlmsg_type = type;
    nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    nlh->nlmsg_seq = socket_->NextSeq();
    if (indices_.empty()) first_seq_ = nlh->nlmsg_seq;
    indices_.push_back(index);
    return nlh;
  }
  void End(nlmsghdr *nlh) { bytes_.resize(last_ + MNL_ALIGN(nlh->nlmsg_len)); }

  // 0 or the errno of the exchange.
  int Flush() {
    if (err_ || indices_.empty()) return err_;
    nlmsghdr *last = reinterpret_cast<nlmsghdr *>(bytes_.data() + last_);
    last->nlmsg_flags |= NLM_F_ACK;
    std::vector<NetlinkError> errors;
    err_ = socket_->Transact(bytes_.data(), bytes_.size(), last->nlmsg_seq, &errors);
    for (const NetlinkError &error : errors) {
      uint32_t at = error.seq - first_seq_;
      refusals_->push_back({at < indices_.size() ? indices_[at] : UINT32_MAX, error.err});
    }
    bytes_.clear();
    indices_.clear();
    return err_;
  }

 private:
  NetlinkSocket *socket_;
  std::vector<Refusal> *refusals_;
  std::vector<char> bytes_;
  std::vector<uint32_t> indices_;
  size_t last_ = 0;
  uint32_t first_seq_ = 0;
  int err_ = 0;
};

void PutService(nlmsghdr *nlh, uint8_t op, uint8_t family, uint32_t mark, ByteReader *in) {
  nlattr *nest = mnl_attr_nest_start(nlh, IPVS_CMD_ATTR_SERVICE);
  PutServiceName(nlh, family, mark);
  if (op != kIpvsDelService) {
    std::string scheduler = in->Text();
    ip_vs_flags flags = {in->U32(), kFullMask};
    uint32_t timeout = in->U32();
    mnl_attr_put_strz(nlh, IPVS_SVC_ATTR_SCHED_NAME, scheduler.c_str());
    mnl_attr_put(nlh, IPVS_SVC_ATTR_FLAGS, sizeof(flags), &flags);
    mnl_attr_put_u32(nlh, IPVS_SVC_ATTR_TIMEOUT, timeout);
    // Persistence for single clients: a full mask, which for IPv6 is a prefix length.
    mnl_attr_put_u32(nlh, IPVS_SVC_ATTR_NETMASK, family == 4 ? kFullMask : 128);
  }
  mnl_attr_nest_end(nlh, nest);
}

void PutDestination(nlmsghdr *nlh, uint8_t op, uint8_t family, uint32_t mark, ByteReader *in) {
  nlattr *service = mnl_attr_nest_start(nlh, IPVS_CMD_ATTR_SERVICE);
  PutServiceName(nlh, family, mark);
  mnl_attr_nest_end(nlh, service);
  nlattr *nest = mnl_attr_nest_start(nlh, IPVS_CMD_ATTR_DEST);
  uint8_t address[16] = {};
  memcpy(address, in->Bytes(AddressBytes(family)), AddressBytes(family));
  mnl_attr_put(nlh, IPVS_DEST_ATTR_ADDR, sizeof(address), address);
  mnl_attr_put_u16(nlh, IPVS_DEST_ATTR_PORT, htons(static_cast<uint16_t>(in->U32())));
  mnl_attr_put_u16(nlh, IPVS_DEST_ATTR_ADDR_FAMILY, AddressFamily(family));
  if (op != kIpvsDelDestination) {
    mnl_attr_put_u32(nlh, IPVS_DEST_ATTR_FWD_METHOD, IP_VS_CONN_F_MASQ);
    mnl_attr_put_u32(nlh, IPVS_DEST_ATTR_WEIGHT, in->U32());
    mnl_attr_put_u32(nlh, IPVS_DEST_ATTR_U_THRESH, 0);
    mnl_attr_put_u32(nlh, IPVS_DEST_ATTR_L_THRESH, 0);
  }
  mnl_attr_nest_end(nlh, nest);
}

// Operations as src/dataplane/ipvs/packed-ipvs.ts writes them. EINVAL: they are not ours.
int CommitServices(NetlinkSocket *socket, uint16_t genl, const std::vector<uint8_t> &ops,
                   std::vector<Refusal> *refusals) {
  Run run(socket, refusals);
  ByteReader in(ops.data(), ops.size());
  for (uint32_t index = 0; !in.AtEnd(); index++) {
    uint8_t op = in.U8();
    uint8_t family = in.U8();
    uint32_t mark = in.U32();
    if (in.Failed() || op < kIpvsNewService || op > kIpvsDelDestination) return EINVAL;
    // Our numbers are the kernel's IPVS_CMD_*, which has a GET among them.
    nlmsghdr *nlh = run.Begin(index, genl, 0);
    PutGeneric(nlh, op <= kIpvsDelService ? op : static_cast<uint8_t>(op + 1));
    if (op <= kIpvsDelService) PutService(nlh, op, family, mark, &in);
    else PutDestination(nlh, op, family, mark, &in);
    if (in.Failed()) return EINVAL;
    run.End(nlh);
  }
  return run.Flush();
}

int FindFamily(NetlinkSocket *socket, uint16_t *id) {
  alignas(nlmsghdr) char buffer[kMessageBytesMax];
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = GENL_ID_CTRL;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  nlh->nlmsg_seq = socket->NextSeq();
  genlmsghdr *header = static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(nlh, sizeof(genlmsghdr)));
  header->cmd = CTRL_CMD_GETFAMILY;
  header->version = 1;
  mnl_attr_put_strz(nlh, CTRL_ATTR_FAMILY_NAME, IPVS_GENL_NAME);
  // The acknowledgement ends it like a dump's error 0.
  int err = socket->Dump(nlh, [&](const nlmsghdr *answer) {
    EachAttribute(answer, sizeof(genlmsghdr), [&](const nlattr *attr) {
      if (mnl_attr_get_type(attr) == CTRL_ATTR_FAMILY_ID) *id = mnl_attr_get_u16(attr);
    });
  });
  return err ? err : *id ? 0 : ENOENT;
}

// Seconds of TCP, TCP after a FIN, and UDP; zeros leave a value as it is.
int Timeouts(NetlinkSocket *socket, uint16_t genl, uint32_t values[3], bool set) {
  alignas(nlmsghdr) char buffer[kMessageBytesMax];
  static const uint16_t kAttributes[3] = {IPVS_CMD_ATTR_TIMEOUT_TCP, IPVS_CMD_ATTR_TIMEOUT_TCP_FIN,
                                          IPVS_CMD_ATTR_TIMEOUT_UDP};
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = genl;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  nlh->nlmsg_seq = socket->NextSeq();
  PutGeneric(nlh, set ? IPVS_CMD_SET_CONFIG : IPVS_CMD_GET_CONFIG);
  for (int i = 0; set && i < 3; i++)
    if (values[i]) mnl_attr_put_u32(nlh, kAttributes[i], values[i]);
  return socket->Dump(nlh, [&](const nlmsghdr *answer) {
    EachAttribute(answer, sizeof(genlmsghdr), [&](const nlattr *attr) {
      for (int i = 0; i < 3; i++)
        if (mnl_attr_get_type(attr) == kAttributes[i]) values[i] = mnl_attr_get_u32(attr);
    });
  });
}

Napi::Value RefusalsValue(Napi::Env env, const std::vector<Refusal> &refusals) {
  Napi::Array array = Napi::Array::New(env, refusals.size());
  for (size_t i = 0; i < refusals.size(); i++) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("index", static_cast<double>(refusals[i].index));
    row.Set("errno", ErrnoName(refusals[i].err));
    array.Set(static_cast<uint32_t>(i), row);
  }
  return array;
}

std::vector<uint8_t> CopyBytes(const Napi::Buffer<uint8_t> &buffer) {
  return std::vector<uint8_t>(buffer.Data(), buffer.Data() + buffer.Length());
}

class IpvsSocket : public Napi::ObjectWrap<IpvsSocket> {
 public:
  static void Init(Napi::Env env, Napi::Object exports) {
    exports.Set("IpvsSocket", DefineClass(env, "IpvsSocket",
                                          {InstanceMethod("commit", &IpvsSocket::Commit),
                                           InstanceMethod("dump", &IpvsSocket::Dump),
                                           InstanceMethod("timeouts", &IpvsSocket::GetTimeouts),
                                           InstanceMethod("setTimeouts", &IpvsSocket::SetTimeouts),
                                           InstanceMethod("close", &IpvsSocket::Close)}));
  }

  // (netns). Throws ENOENT where the kernel has no IPVS; asking for the family loads its module.
  explicit IpvsSocket(const Napi::CallbackInfo &info) : Napi::ObjectWrap<IpvsSocket>(info) {
    socket_ = std::make_shared<NetlinkSocket>(info.Env(), NETLINK_GENERIC, TextArg(info, 0, "netns"));
    int err = FindFamily(socket_.get(), &genl_);
    if (err) ThrowErrno(info.Env(), err, "generic netlink family IPVS");
  }

 private:
  NetlinkSocket *Open(Napi::Env env) {
    if (!socket_) throw Napi::Error::New(env, "this IPVS handle is closed");
    return socket_.get();
  }

  Napi::Value Commit(const Napi::CallbackInfo &info) {
    Open(info.Env());
    auto ops = std::make_shared<std::vector<uint8_t>>(CopyBytes(BytesArg(info, 0, "operations")));
    auto refusals = std::make_shared<std::vector<Refusal>>();
    return AsyncTask::Start(
        info.Env(),
        [socket = socket_, genl = genl_, ops, refusals]() -> TaskError {
          return {CommitServices(socket.get(), genl, *ops, refusals.get()), "IPVS request"};
        },
        [refusals](Napi::Env env) { return RefusalsValue(env, *refusals); });
  }

  // (names?): those services alone; default: all.
  Napi::Value Dump(const Napi::CallbackInfo &info) {
    Open(info.Env());
    std::vector<ServiceName> names;
    if (!info[0].IsUndefined())
      AssertArg(info.Env(), ReadNames(CopyBytes(BytesArg(info, 0, "names")), &names) && !names.empty(), "names");
    auto rows = std::make_shared<std::vector<uint8_t>>();
    return AsyncTask::Start(
        info.Env(),
        [socket = socket_, genl = genl_, names = std::move(names), rows]() -> TaskError {
          return {DumpServices(socket.get(), genl, names, rows.get()), "IPVS dump"};
        },
        [rows](Napi::Env env) { return BytesValue(env, std::move(*rows)); });
  }

  Napi::Value GetTimeouts(const Napi::CallbackInfo &info) {
    uint32_t values[3] = {};
    int err = Timeouts(Open(info.Env()), genl_, values, false);
    if (err) ThrowErrno(info.Env(), err, "IPVS time-outs");
    Napi::Array array = Napi::Array::New(info.Env(), 3);
    for (uint32_t i = 0; i < 3; i++) array.Set(i, Napi::Number::New(info.Env(), values[i]));
    return array;
  }

  void SetTimeouts(const Napi::CallbackInfo &info) {
    uint32_t values[3];
    for (size_t i = 0; i < 3; i++) values[i] = NumberArg(info, i, INT32_MAX, "seconds");
    int err = Timeouts(Open(info.Env()), genl_, values, true);
    if (err) ThrowErrno(info.Env(), err, "IPVS time-outs");
  }

  // Work under way keeps the socket until it is done.
  void Close(const Napi::CallbackInfo &) { socket_.reset(); }

  std::shared_ptr<NetlinkSocket> socket_;
  uint16_t genl_ = 0;
};
}  // namespace

void InitIpvs(Napi::Env env, Napi::Object exports) {
  IpvsSocket::Init(env, exports);
  InitIpvsLink(env, exports);
}
