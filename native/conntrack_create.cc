// conntrackCreate: makes connection tracking know of flows that it has not seen from their beginning, as a failover
// of firewalls does (conntrackd). They are not translated, and their TCP windows are not checked.
#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include <algorithm>
#include <memory>

#include "args.h"
#include "async_task.h"
#include "byte_reader.h"
#include "flow.h"
#include "netlink_socket.h"

namespace {
constexpr size_t kItemBytes = 44;
constexpr uint32_t kItemsMax = 1 << 20;
// Answers stay far below any receive buffer.
constexpr uint32_t kPerBatch = 256;
constexpr size_t kLargestMessage = 512;

// As src/node/conntrack.ts writes it.
struct Item {
  uint8_t family, protocol, state;
  uint16_t sport, dport;
  uint32_t timeout_s;
  FlowAddress src, dst;
};

Item ReadItem(ByteReader &in) {
  Item item = {};
  item.family = in.U8();
  item.protocol = in.U8();
  item.state = in.U8();
  in.U8();
  memcpy(&item.sport, in.Bytes(2), 2);
  memcpy(&item.dport, in.Bytes(2), 2);
  item.timeout_s = in.U32();
  memcpy(item.src.data(), in.Bytes(16), 16);
  memcpy(item.dst.data(), in.Bytes(16), 16);
  return item;
}

void PutWholeTuple(nlmsghdr *nlh, uint16_t type, const Item &item, bool reply) {
  const bool four = item.family == 4;
  const FlowAddress &src = reply ? item.dst : item.src, &dst = reply ? item.src : item.dst;
  nlattr *tuple = mnl_attr_nest_start(nlh, type);
  nlattr *ip = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);
  mnl_attr_put(nlh, four ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, four ? 4 : 16, src.data());
  mnl_attr_put(nlh, four ? CTA_IP_V4_DST : CTA_IP_V6_DST, four ? 4 : 16, dst.data());
  mnl_attr_nest_end(nlh, ip);
  nlattr *proto = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
  mnl_attr_put_u8(nlh, CTA_PROTO_NUM, item.protocol);
  mnl_attr_put_u16(nlh, CTA_PROTO_SRC_PORT, htons(reply ? item.dport : item.sport));
  mnl_attr_put_u16(nlh, CTA_PROTO_DST_PORT, htons(reply ? item.sport : item.dport));
  mnl_attr_nest_end(nlh, proto);
  mnl_attr_nest_end(nlh, tuple);
}

void PutTcp(nlmsghdr *nlh, uint8_t state) {
  const nf_ct_tcp_flags liberal = {IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL};
  nlattr *info = mnl_attr_nest_start(nlh, CTA_PROTOINFO);
  nlattr *tcp = mnl_attr_nest_start(nlh, CTA_PROTOINFO_TCP);
  mnl_attr_put_u8(nlh, CTA_PROTOINFO_TCP_STATE, state);
  mnl_attr_put(nlh, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, sizeof(liberal), &liberal);
  mnl_attr_put(nlh, CTA_PROTOINFO_TCP_FLAGS_REPLY, sizeof(liberal), &liberal);
  mnl_attr_nest_end(nlh, tcp);
  mnl_attr_nest_end(nlh, info);
}

void AppendFlowCreate(const Item &item, uint32_t seq, std::vector<char> *batch) {
  alignas(nlmsghdr) char buffer[kLargestMessage];
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
  nlh->nlmsg_seq = seq;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = item.family == 4 ? AF_INET : AF_INET6;
  header->version = NFNETLINK_V0;
  PutWholeTuple(nlh, CTA_TUPLE_ORIG, item, false);
  PutWholeTuple(nlh, CTA_TUPLE_REPLY, item, true);
  mnl_attr_put_u32(nlh, CTA_STATUS, htonl(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED));
  mnl_attr_put_u32(nlh, CTA_TIMEOUT, htonl(item.timeout_s));
  if (item.protocol == IPPROTO_TCP) PutTcp(nlh, item.state);
  batch->insert(batch->end(), buffer, buffer + MNL_ALIGN(nlh->nlmsg_len));
}

TaskError Create(NetlinkSocket &socket, const std::vector<Item> &items, uint32_t *created) {
  for (size_t from = 0; from < items.size(); from += kPerBatch) {
    const size_t to = std::min<size_t>(items.size(), from + kPerBatch);
    std::vector<char> batch;
    size_t last = 0;
    for (size_t i = from; i < to; i++) {
      last = batch.size();
      AppendFlowCreate(items[i], socket.NextSeq(), &batch);
    }
    // Only the last is acknowledged; what is refused answers by itself.
    nlmsghdr *end = reinterpret_cast<nlmsghdr *>(batch.data() + last);
    end->nlmsg_flags |= NLM_F_ACK;
    std::vector<NetlinkError> errors;
    int err = socket.Transact(batch.data(), batch.size(), end->nlmsg_seq, &errors);
    if (err) return {err, "conntrack creation"};
    *created += to - from;
    for (const NetlinkError &error : errors) {
      (*created)--;
      // It is known already, by its own beginning.
      if (error.err != EEXIST) return {error.err, "conntrack creation"};
    }
  }
  return {};
}

// conntrackCreate(netns, items: Buffer): Promise<number>, how many were not known.
Napi::Value ConntrackCreate(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const std::string netns = TextArg(info, 0, "netns");
  Napi::Buffer<uint8_t> packed = BytesArg(info, 1, "items");
  AssertArg(env, packed.Length() % kItemBytes == 0 && packed.Length() / kItemBytes <= kItemsMax, "items");
  auto items = std::make_shared<std::vector<Item>>();
  ByteReader in(packed.Data(), packed.Length());
  while (!in.AtEnd()) {
    items->push_back(ReadItem(in));
    AssertArg(env, (items->back().family == 4 || items->back().family == 6) && items->back().protocol, "items");
  }
  auto socket = std::make_shared<NetlinkSocket>(env, NETLINK_NETFILTER, netns);
  auto created = std::make_shared<uint32_t>(0);
  return AsyncTask::Start(
      env, [=] { return Create(*socket, *items, created.get()); },
      [created](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *created); });
}
}  // namespace

void InitConntrackCreate(Napi::Env env, Napi::Object exports) {
  exports.Set("conntrackCreate", Napi::Function::New(env, ConntrackCreate));
}
