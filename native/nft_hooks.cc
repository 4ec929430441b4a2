// Which base chains there are, of whatever table: what a packet that passes the stack by would not meet.
#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <memory>

#include "async_task.h"
#include "netlink_socket.h"

namespace {
struct BaseChain {
  uint8_t family;
  std::string table, name, type;
  uint32_t hook, policy, uses;
};

std::string Text(const nlattr *attr) {
  const char *data = static_cast<const char *>(mnl_attr_get_payload(attr));
  return std::string(data, strnlen(data, mnl_attr_get_payload_len(attr)));
}
uint32_t U32(const nlattr *attr) { return mnl_attr_get_payload_len(attr) >= 4 ? ntohl(mnl_attr_get_u32(attr)) : 0; }

void Take(const nlmsghdr *nlh, std::vector<BaseChain> *chains) {
  BaseChain chain = {};
  bool base = false;
  chain.family = static_cast<const nfgenmsg *>(mnl_nlmsg_get_payload(nlh))->nfgen_family;
  EachAttribute(nlh, sizeof(nfgenmsg), [&](const nlattr *attr) {
    switch (mnl_attr_get_type(attr)) {
      case NFTA_CHAIN_TABLE: chain.table = Text(attr); break;
      case NFTA_CHAIN_NAME: chain.name = Text(attr); break;
      case NFTA_CHAIN_TYPE: chain.type = Text(attr); break;
      case NFTA_CHAIN_POLICY: chain.policy = U32(attr); break;
      case NFTA_CHAIN_USE: chain.uses = U32(attr); break;
      case NFTA_CHAIN_HOOK:
        base = true;
        EachNested(attr, [&](const nlattr *part) {
          if (mnl_attr_get_type(part) == NFTA_HOOK_HOOKNUM) chain.hook = U32(part);
        });
        break;
      default: break;
    }
  });
  if (base) chains->push_back(chain);
}

int Read(NetlinkSocket &socket, std::vector<BaseChain> *chains) {
  alignas(nlmsghdr) char buffer[64] = {};
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN;
  nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = AF_UNSPEC;
  header->version = NFNETLINK_V0;
  int err = EINTR;
  // A dump that a commit crossed is taken again, but not for ever.
  for (int attempt = 0; attempt < 10 && err == EINTR; attempt++) {
    chains->clear();
    nlh->nlmsg_seq = socket.NextSeq();
    err = socket.Dump(nlh, [&](const nlmsghdr *answer) { Take(answer, chains); });
  }
  return err;
}

// nftBaseChains(netns): a promise of {family, table, name, type, hook, policy, rules}[].
Napi::Value BaseChains(const Napi::CallbackInfo &info) {
  auto socket = std::make_shared<NetlinkSocket>(info.Env(), NETLINK_NETFILTER, info[0].As<Napi::String>());
  auto chains = std::make_shared<std::vector<BaseChain>>();
  return AsyncTask::Start(
      info.Env(), [socket, chains] { return TaskError{Read(*socket, chains.get()), "list of base chains"}; },
      [chains](Napi::Env env) {
        Napi::Array rows = Napi::Array::New(env, chains->size());
        uint32_t at = 0;
        for (const BaseChain &chain : *chains) {
          Napi::Object row = Napi::Object::New(env);
          row.Set("family", chain.family);
          row.Set("table", chain.table);
          row.Set("name", chain.name);
          row.Set("type", chain.type);
          row.Set("hook", chain.hook);
          row.Set("policy", chain.policy);
          row.Set("rules", chain.uses);
          rows.Set(at++, row);
        }
        return rows;
      });
}
}  // namespace

void InitNftHooks(Napi::Env env, Napi::Object exports) {
  exports.Set("nftBaseChains", Napi::Function::New(env, BaseChains));
}
