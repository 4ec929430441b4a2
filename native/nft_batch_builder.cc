// The messages of a batch: linux/netfilter/nf_tables.h.
#include "nft_batch_builder.h"

#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <cstdio>

extern "C" {
#include <libnftnl/udata.h>
}

namespace {
enum OpKind : uint8_t {
  kAddElement = 1,
  kDelElement = 2,
  kAddChain = 3,
  kDelChain = 4,
  kFlushChain = 5,
  kAddRule = 6,
  kAddSet = 7,
  kDelSet = 8,
  kTableFlags = 9,
  kDelTable = 10,
  kFlushSet = 11,
};
constexpr uint8_t kElementIntervalEnd = 1;
// The comment is "TIMEOUT LEFT", in milliseconds.
constexpr uint8_t kElementTimed = 2;
// A nested attribute's length is 16 bits; a message stays well below that.
constexpr size_t kMessageBytes = 32 << 10;
constexpr size_t kLargestElementBytes = 1024;
}  // namespace

BatchBuilder::BatchBuilder(uint8_t family, std::string table, Layouts layouts, bool one_element_a_message)
    : family_(family), table_(std::move(table)), layouts_(std::move(layouts)), single_(one_element_a_message) {}

nlmsghdr *BatchBuilder::Open(uint16_t type, uint16_t flags, uint32_t owner) {
  EndElements();
  open_at_ = bytes.size();
  bytes.resize(open_at_ + kMessageBytes + 2 * kLargestElementBytes);
  nlmsghdr *nlh = mnl_nlmsg_put_header(bytes.data() + open_at_);
  nlh->nlmsg_type = static_cast<uint16_t>((NFNL_SUBSYS_NFTABLES << 8) | type);
  nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  nlh->nlmsg_seq = ++seq_;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = family_;
  header->version = NFNETLINK_V0;
  header->res_id = 0;
  messages.push_back({nlh->nlmsg_seq, owner, elements.size(), 0});
  return nlh;
}

void BatchBuilder::Close() {
  const nlmsghdr *nlh = reinterpret_cast<const nlmsghdr *>(bytes.data() + open_at_);
  bytes.resize(open_at_ + NLMSG_ALIGN(nlh->nlmsg_len));
}

void BatchBuilder::BatchMark(uint16_t type) {
  size_t at = bytes.size();
  bytes.resize(at + 256);
  nlmsghdr *nlh = mnl_nlmsg_put_header(bytes.data() + at);
  nlh->nlmsg_type = type;
  nlh->nlmsg_flags = NLM_F_REQUEST;
  nlh->nlmsg_seq = ++seq_;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = AF_UNSPEC;
  header->version = NFNETLINK_V0;
  header->res_id = htons(NFNL_SUBSYS_NFTABLES);
  bytes.resize(at + NLMSG_ALIGN(nlh->nlmsg_len));
}

void BatchBuilder::EndElements() {
  if (open_set_ < 0) return;
  nlmsghdr *nlh = reinterpret_cast<nlmsghdr *>(bytes.data() + open_at_);
  mnl_attr_nest_end(nlh, reinterpret_cast<nlattr *>(bytes.data() + list_at_));
  messages.back().element_count = elements.size() - messages.back().first_element;
  open_set_ = -1;
  Close();
}

void BatchBuilder::PutVerdict(nlmsghdr *nlh, const std::string &chain, uint32_t code) {
  nlattr *verdict = mnl_attr_nest_start(nlh, NFTA_DATA_VERDICT);
  mnl_attr_put_u32(nlh, NFTA_VERDICT_CODE, htonl(code));
  if (!chain.empty()) mnl_attr_put_strz(nlh, NFTA_VERDICT_CHAIN, chain.c_str());
  mnl_attr_nest_end(nlh, verdict);
}

// u8 set, u8 flags, key, data (bytes, or u8 length and a chain's name: "" is drop), u8 length and a comment.
bool BatchBuilder::AddElement(ByteReader &in, uint8_t kind, uint32_t owner) {
  uint8_t set = in.U8();
  if (set >= layouts_->size()) return false;
  const SetLayout &layout = (*layouts_)[set];
  uint8_t flags = in.U8();
  const uint8_t *key = in.Bytes(static_cast<size_t>(layout.key_len));
  const uint8_t *data = nullptr;
  std::string chain;
  if (layout.data_len == kVerdictData) {
    chain = in.Text();
  } else {
    data = in.Bytes(static_cast<size_t>(layout.data_len));
  }
  std::string comment = in.Text();
  if (in.Failed()) return false;

  nlmsghdr *nlh = reinterpret_cast<nlmsghdr *>(bytes.data() + open_at_);
  if (open_set_ != set || open_kind_ != kind || single_ || nlh->nlmsg_len > kMessageBytes) {
    uint16_t type = kind == kAddElement ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM;
    nlh = Open(type, kind == kAddElement ? NLM_F_CREATE : 0, owner);
    mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, table_.c_str());
    mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, layout.name.c_str());
    nlattr *list = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_LIST_ELEMENTS);
    list_at_ = static_cast<size_t>(reinterpret_cast<char *>(list) - bytes.data());
    open_set_ = set;
    open_kind_ = kind;
  }
  elements.push_back({nlh->nlmsg_len, owner});
  nlattr *element = mnl_attr_nest_start(nlh, NFTA_LIST_ELEM);
  if (flags & kElementIntervalEnd) mnl_attr_put_u32(nlh, NFTA_SET_ELEM_FLAGS, htonl(NFT_SET_ELEM_INTERVAL_END));
  nlattr *nest = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_KEY);
  mnl_attr_put(nlh, NFTA_DATA_VALUE, static_cast<size_t>(layout.key_len), key);
  mnl_attr_nest_end(nlh, nest);
  if (kind == kAddElement && layout.data_len != kNoData) {
    nest = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_DATA);
    if (layout.data_len == kVerdictData) {
      PutVerdict(nlh, chain, chain.empty() ? static_cast<uint32_t>(NF_DROP) : static_cast<uint32_t>(NFT_JUMP));
    } else {
      mnl_attr_put(nlh, NFTA_DATA_VALUE, static_cast<size_t>(layout.data_len), data);
    }
    mnl_attr_nest_end(nlh, nest);
  }
  if (kind == kAddElement && (flags & kElementTimed)) {
    unsigned long long timeout = 0, left = 0;
    if (sscanf(comment.c_str(), "%llu %llu", &timeout, &left) != 2) return false;
    mnl_attr_put_u64(nlh, NFTA_SET_ELEM_TIMEOUT, htobe64(timeout));
    mnl_attr_put_u64(nlh, NFTA_SET_ELEM_EXPIRATION, htobe64(left));
  } else if (kind == kAddElement && !comment.empty()) {
    // One TLV of nft's own: type 0 (comment), length with the final zero byte.
    uint8_t udata[258] = {NFTNL_UDATA_SET_ELEM_COMMENT, static_cast<uint8_t>(comment.size() + 1)};
    memcpy(udata + 2, comment.c_str(), comment.size() + 1);
    mnl_attr_put(nlh, NFTA_SET_ELEM_USERDATA, comment.size() + 3, udata);
  }
  mnl_attr_nest_end(nlh, element);

  uint64_t hash = layout.data_len == kVerdictData
                      ? ElementHash(key, layout.key_len, reinterpret_cast<const uint8_t *>(chain.data()), chain.size(),
                            comment)
                      : ElementHash(key, layout.key_len, data, static_cast<size_t>(layout.data_len), comment);
  sums_[set * kShares + ShareOf(hash)] += kind == kAddElement ? hash : ~hash + 1;
  return true;
}

bool BatchBuilder::AddRuleMessage(ByteReader &in, uint32_t owner) {
  std::string chain = in.Text();
  nftnl_rule *rule = nftnl_rule_alloc();
  nftnl_rule_set_u32(rule, NFTNL_RULE_FAMILY, family_);
  nftnl_rule_set_str(rule, NFTNL_RULE_TABLE, table_.c_str());
  nftnl_rule_set_str(rule, NFTNL_RULE_CHAIN, chain.c_str());
  bool good = AddExpressions(rule, in);
  if (good) {
    nlmsghdr *nlh = Open(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, owner);
    nftnl_rule_nlmsg_build_payload(nlh, rule);
    Close();
  }
  nftnl_rule_free(rule);
  return good;
}

// name, u32 flags, u32 key type, u32 key bytes. Sets only; nft's own numbers for types.
void BatchBuilder::AddSetMessage(ByteReader &in, uint32_t owner) {
  std::string name = in.Text();
  uint32_t flags = in.U32(), key_type = in.U32(), key_len = in.U32();
  nlmsghdr *nlh = Open(NFT_MSG_NEWSET, NLM_F_CREATE, owner);
  mnl_attr_put_strz(nlh, NFTA_SET_TABLE, table_.c_str());
  mnl_attr_put_strz(nlh, NFTA_SET_NAME, name.c_str());
  mnl_attr_put_u32(nlh, NFTA_SET_FLAGS, htonl(flags));
  mnl_attr_put_u32(nlh, NFTA_SET_KEY_TYPE, htonl(key_type));
  mnl_attr_put_u32(nlh, NFTA_SET_KEY_LEN, htonl(key_len));
  mnl_attr_put_u32(nlh, NFTA_SET_ID, htonl(next_set_id_++));
  Close();
}

void BatchBuilder::Named(uint16_t type, uint16_t flags, uint16_t table_attr, uint16_t name_attr,
                         const std::string &name, uint32_t owner) {
  nlmsghdr *nlh = Open(type, flags, owner);
  mnl_attr_put_strz(nlh, table_attr, table_.c_str());
  mnl_attr_put_strz(nlh, name_attr, name.c_str());
  Close();
}

bool BatchBuilder::Add(ByteReader &in) {
  uint8_t kind = in.U8();
  uint32_t owner = in.U32();
  if (in.Failed()) return false;
  switch (kind) {
    case kAddElement:
    case kDelElement:
      return AddElement(in, kind, owner);
    case kAddChain:
      Named(NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, in.Text(), owner);
      break;
    case kDelChain:
      Named(NFT_MSG_DELCHAIN, 0, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, in.Text(), owner);
      break;
    case kFlushChain:
      Named(NFT_MSG_DELRULE, 0, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, in.Text(), owner);
      break;
    case kAddRule:
      return AddRuleMessage(in, owner);
    case kAddSet:
      AddSetMessage(in, owner);
      break;
    case kDelSet:
      Named(NFT_MSG_DELSET, 0, NFTA_SET_TABLE, NFTA_SET_NAME, in.Text(), owner);
      break;
    case kTableFlags: {
      std::string table = in.Text();
      uint32_t flags = in.U32();
      nlmsghdr *nlh = Open(NFT_MSG_NEWTABLE, 0, owner);
      mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, table.c_str());
      mnl_attr_put_u32(nlh, NFTA_TABLE_FLAGS, htonl(flags));
      Close();
      break;
    }
    case kDelTable: {
      std::string table = in.Text();
      nlmsghdr *nlh = Open(NFT_MSG_DELTABLE, 0, owner);
      mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, table.c_str());
      Close();
      break;
    }
    case kFlushSet: {
      uint8_t set = in.U8();
      if (set >= layouts_->size()) return false;
      Named(NFT_MSG_DELSETELEM, 0, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, (*layouts_)[set].name, owner);
      break;
    }
    default:
      return false;
  }
  return !in.Failed();
}

bool BatchBuilder::Build(const uint8_t *operations, size_t size, uint32_t first_seq) {
  seq_ = first_seq;
  // The packing grows about threefold; growing the vector step by step would copy it again and again.
  bytes.reserve(3 * size + (64 << 10));
  BatchMark(NFNL_MSG_BATCH_BEGIN);
  ByteReader in(operations, size);
  while (!in.AtEnd()) {
    if (!Add(in)) return false;
  }
  Finish();
  return true;
}

void BatchBuilder::Finish() {
  EndElements();
  if (!messages.empty()) {
    reinterpret_cast<nlmsghdr *>(bytes.data() + open_at_)->nlmsg_flags |= NLM_F_ACK;
    last_seq = messages.back().seq;
  }
  BatchMark(NFNL_MSG_BATCH_END);
}

