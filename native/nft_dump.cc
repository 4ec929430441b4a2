// Reading nftables back: elements, rules and names of one table, and the generation number. Foreign tables
// are never asked for.
#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "nft.h"

namespace {
nlmsghdr *Request(std::vector<char> &buffer, uint16_t type, uint16_t flags, uint8_t family, uint32_t seq) {
  buffer.assign(4096, 0);
  nlmsghdr *nlh = mnl_nlmsg_put_header(buffer.data());
  nlh->nlmsg_type = static_cast<uint16_t>((NFNL_SUBSYS_NFTABLES << 8) | type);
  nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  nlh->nlmsg_seq = seq;
  nfgenmsg *header = static_cast<nfgenmsg *>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->nfgen_family = family;
  header->version = NFNETLINK_V0;
  return nlh;
}

// The attributes of one level by type; those above `Max` are passed over.
template <size_t Max>
struct Attributes {
  const nlattr *at[Max + 1] = {};
  void Take(const nlattr *attr) {
    uint16_t type = mnl_attr_get_type(attr);
    if (type <= Max) at[type] = attr;
  }
  explicit Attributes(const nlmsghdr *nlh) {
    EachAttribute(nlh, sizeof(nfgenmsg), [this](const nlattr *attr) { Take(attr); });
  }
  explicit Attributes(const nlattr *nest) {
    EachNested(nest, [this](const nlattr *attr) { Take(attr); });
  }
};

std::string Text(const nlattr *attr) {
  if (!attr) return "";
  const char *data = static_cast<const char *>(mnl_attr_get_payload(attr));
  return std::string(data, strnlen(data, mnl_attr_get_payload_len(attr)));
}
uint32_t U32(const nlattr *attr) { return attr && mnl_attr_get_payload_len(attr) >= 4 ? ntohl(mnl_attr_get_u32(attr)) : 0; }

std::string Hex(uint64_t value) {
  char text[17];
  snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// A promise of a request that runs on a worker thread.
class ReadWorker : public Napi::AsyncWorker {
 public:
  ReadWorker(NftSocket *handle, const Napi::CallbackInfo &info)
      : Napi::AsyncWorker(info.Env()), handle_(handle), socket_(handle->socket()),
        deferred_(Napi::Promise::Deferred::New(info.Env())) {
    keep_.Reset(handle->Value(), 1);
  }
  Napi::Value Start() {
    Napi::Promise promise = deferred_.Promise();
    Queue();
    return promise;
  }
  void Execute() override {
    // A dump that a commit crossed is inconsistent and must be taken again; somebody who commits all the
    // time cannot keep us here for ever.
    for (int attempt = 0; attempt < 10; attempt++) {
      Reset();
      error_ = Read();
      if (error_ != EINTR) return;
    }
  }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    handle_->busy = false;
    if (error_) {
      Napi::Error error = Napi::Error::New(Env(), std::string("nftables dump: ") + strerror(error_));
      error.Set("code", ErrnoName(error_));
      deferred_.Reject(error.Value());
    } else {
      deferred_.Resolve(Result());
    }
  }

 protected:
  virtual void Reset() = 0;
  virtual int Read() = 0;
  virtual Napi::Value Result() = 0;
  NetlinkSocket *socket() { return socket_; }

 private:
  NftSocket *handle_;
  NetlinkSocket *socket_;
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference keep_;
  int error_ = 0;
};

class ElementReader : public ReadWorker {
 public:
  // dumpElements(family, table, layouts, set index, sumsOnly, crossed: as it is when a commit has crossed it)
  ElementReader(NftSocket *handle, const Napi::CallbackInfo &info)
      : ReadWorker(handle, info), family_(static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value())),
        table_(info[1].As<Napi::String>()),
        layout_(handle->Layouts(family_, info[2].As<Napi::Array>())->at(info[3].As<Napi::Number>().Uint32Value())),
        sums_only_(info[4].As<Napi::Boolean>()), crossed_(info[5].ToBoolean()) {}

 protected:
  void Reset() override {
    packed_.clear();
    shares_.assign(kShares, 0);
    count_ = 0;
    strange_ = 0;
  }

  int Read() override {
    std::vector<char> buffer;
    nlmsghdr *nlh = Request(buffer, NFT_MSG_GETSETELEM, NLM_F_DUMP, family_, socket()->NextSeq());
    mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, table_.c_str());
    mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, layout_.name.c_str());
    const int error = socket()->Dump(nlh, [this](const nlmsghdr *answer) {
      Attributes<NFTA_SET_ELEM_LIST_MAX> list(answer);
      const nlattr *elements = list.at[NFTA_SET_ELEM_LIST_ELEMENTS];
      if (elements) EachNested(elements, [this](const nlattr *element) { Take(element); });
    });
    return crossed_ && error == EINTR ? 0 : error;
  }

  // {shares: BigUint64Array, count, strange, packed: Uint8Array}: packed as in a batch: u8 flags, key, data or u8
  // length and chain, u8 length and comment. `strange` counts elements that are not of our layout.
  Napi::Value Result() override {
    Napi::Object result = Napi::Object::New(Env());
    Napi::BigUint64Array shares = Napi::BigUint64Array::New(Env(), kShares);
    memcpy(shares.Data(), shares_.data(), kShares * sizeof(uint64_t));
    result.Set("shares", shares);
    result.Set("count", Napi::Number::New(Env(), static_cast<double>(count_)));
    result.Set("strange", Napi::Number::New(Env(), static_cast<double>(strange_)));
    Napi::Uint8Array packed = Napi::Uint8Array::New(Env(), packed_.size());
    if (!packed_.empty()) memcpy(packed.Data(), packed_.data(), packed_.size());
    result.Set("packed", packed);
    return result;
  }

 private:
  void Append(const void *data, size_t size) {
    const uint8_t *bytes = static_cast<const uint8_t *>(data);
    packed_.insert(packed_.end(), bytes, bytes + size);
  }
  void AppendText(const std::string &text) {
    packed_.push_back(static_cast<uint8_t>(std::min<size_t>(text.size(), 255)));
    Append(text.data(), std::min<size_t>(text.size(), 255));
  }
  static const nlattr *Value(const nlattr *nest) {
    return nest ? Attributes<NFTA_DATA_MAX>(nest).at[NFTA_DATA_VALUE] : nullptr;
  }
  static std::string Comment(const nlattr *userdata) {
    if (!userdata) return "";
    const uint8_t *at = static_cast<const uint8_t *>(mnl_attr_get_payload(userdata));
    size_t left = mnl_attr_get_payload_len(userdata);
    while (left >= 2 && left - 2 >= at[1]) {
      if (at[0] == 0) return std::string(reinterpret_cast<const char *>(at + 2), strnlen(reinterpret_cast<const char *>(at + 2), at[1]));
      left -= 2u + at[1];
      at += 2u + at[1];
    }
    return "";
  }

  // Of an element that counts: "packets bytes".
  static std::string Counter(const nlattr *expression) {
    const nlattr *data = Attributes<NFTA_EXPR_MAX>(expression).at[NFTA_EXPR_DATA];
    if (!data) return "";
    Attributes<NFTA_COUNTER_MAX> counter(data);
    const nlattr *packets = counter.at[NFTA_COUNTER_PACKETS], *bytes = counter.at[NFTA_COUNTER_BYTES];
    if (!packets || !bytes || mnl_attr_get_payload_len(packets) < 8 || mnl_attr_get_payload_len(bytes) < 8) return "";
    return std::to_string(be64toh(mnl_attr_get_u64(packets))) + " " + std::to_string(be64toh(mnl_attr_get_u64(bytes)));
  }

  void Take(const nlattr *nest) {
    Attributes<NFTA_SET_ELEM_MAX> element(nest);
    const nlattr *key = Value(element.at[NFTA_SET_ELEM_KEY]);
    uint32_t flags = U32(element.at[NFTA_SET_ELEM_FLAGS]);
    count_++;
    if (!key || mnl_attr_get_payload_len(key) != layout_.key_len) {
      strange_++;
      return;
    }
    const uint8_t *key_bytes = static_cast<const uint8_t *>(mnl_attr_get_payload(key));
    const size_t key_len = static_cast<size_t>(layout_.key_len);
    std::string chain;
    const uint8_t *data = nullptr;
    size_t data_len = 0;
    if (layout_.data_len == kVerdictData) {
      if (!ReadVerdict(element.at[NFTA_SET_ELEM_DATA], &chain)) {
        strange_++;
        return;
      }
      data = reinterpret_cast<const uint8_t *>(chain.data());
      data_len = chain.size();
    } else if (layout_.data_len != kNoData) {
      const nlattr *value = Value(element.at[NFTA_SET_ELEM_DATA]);
      if (!value || mnl_attr_get_payload_len(value) != layout_.data_len) {
        strange_++;
        return;
      }
      data = static_cast<const uint8_t *>(mnl_attr_get_payload(value));
      data_len = static_cast<size_t>(layout_.data_len);
    }
    // Of an element that runs out: milliseconds left.
    const nlattr *left = element.at[NFTA_SET_ELEM_EXPIRATION];
    std::string comment = left && mnl_attr_get_payload_len(left) >= 8
                              ? std::to_string(be64toh(mnl_attr_get_u64(left)))
                              : Comment(element.at[NFTA_SET_ELEM_USERDATA]);
    if (element.at[NFTA_SET_ELEM_EXPR]) comment = Counter(element.at[NFTA_SET_ELEM_EXPR]);
    const uint64_t hash = ElementHash(key_bytes, key_len, data, data_len, comment);
    shares_[ShareOf(hash)] += hash;
    if (sums_only_) return;
    packed_.push_back(flags & NFT_SET_ELEM_INTERVAL_END ? 1 : 0);
    Append(key_bytes, key_len);
    if (layout_.data_len == kVerdictData) {
      AppendText(chain);
    } else {
      Append(data, data_len);
    }
    AppendText(comment);
  }

  // "" is drop, a name is jump; any other verdict is not ours.
  static bool ReadVerdict(const nlattr *nest, std::string *chain) {
    if (!nest) return false;
    const nlattr *verdict = Attributes<NFTA_DATA_MAX>(nest).at[NFTA_DATA_VERDICT];
    if (!verdict) return false;
    Attributes<NFTA_VERDICT_MAX> parts(verdict);
    int32_t code = static_cast<int32_t>(U32(parts.at[NFTA_VERDICT_CODE]));
    if (code == NFT_JUMP) {
      *chain = Text(parts.at[NFTA_VERDICT_CHAIN]);
      return true;
    }
    return code == 0;  // NF_DROP
  }

  uint8_t family_;
  std::string table_;
  SetLayout layout_;
  bool sums_only_, crossed_;
  std::vector<uint8_t> packed_;
  std::vector<uint64_t> shares_;
  size_t count_ = 0, strange_ = 0;
};

class RuleReader : public ReadWorker {
 public:
  // dumpRules(family, table): [{chain, hash}] in the order of the rules; the hash is over the expressions.
  RuleReader(NftSocket *handle, const Napi::CallbackInfo &info)
      : ReadWorker(handle, info), family_(static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value())),
        table_(info[1].As<Napi::String>()) {}

 protected:
  void Reset() override { rows_.clear(); }
  int Read() override {
    std::vector<char> buffer;
    nlmsghdr *nlh = Request(buffer, NFT_MSG_GETRULE, NLM_F_DUMP, family_, socket()->NextSeq());
    mnl_attr_put_strz(nlh, NFTA_RULE_TABLE, table_.c_str());
    return socket()->Dump(nlh, [this](const nlmsghdr *answer) {
      Attributes<NFTA_RULE_MAX> rule(answer);
      if (Text(rule.at[NFTA_RULE_TABLE]) != table_) return;
      const nlattr *expressions = rule.at[NFTA_RULE_EXPRESSIONS];
      uint64_t hash = 0;
      if (expressions) {
        hash = ElementHash(static_cast<const uint8_t *>(mnl_attr_get_payload(expressions)),
                           mnl_attr_get_payload_len(expressions), nullptr, 0, "");
      }
      rows_.emplace_back(Text(rule.at[NFTA_RULE_CHAIN]), hash);
    });
  }
  Napi::Value Result() override {
    Napi::Array rows = Napi::Array::New(Env(), rows_.size());
    for (size_t i = 0; i < rows_.size(); i++) {
      Napi::Object row = Napi::Object::New(Env());
      row.Set("chain", rows_[i].first);
      row.Set("hash", Hex(rows_[i].second));
      rows.Set(static_cast<uint32_t>(i), row);
    }
    return rows;
  }

 private:
  uint8_t family_;
  std::string table_;
  std::vector<std::pair<std::string, uint64_t>> rows_;
};

class NameReader : public ReadWorker {
 public:
  // dumpNames(family, table): {tableFlags: number (-1: no such table), chains: string[], sets: string[]};
  // a base chain's name is followed by its type, hook and priority: "name nat 0 -100".
  NameReader(NftSocket *handle, const Napi::CallbackInfo &info)
      : ReadWorker(handle, info), family_(static_cast<uint8_t>(info[0].As<Napi::Number>().Uint32Value())),
        table_(info[1].As<Napi::String>()) {}

 protected:
  void Reset() override {
    table_flags_ = -1;
    chains_.clear();
    sets_.clear();
  }
  int Read() override {
    std::vector<char> buffer;
    nlmsghdr *nlh = Request(buffer, NFT_MSG_GETTABLE, NLM_F_DUMP, family_, socket()->NextSeq());
    int err = socket()->Dump(nlh, [this](const nlmsghdr *answer) {
      Attributes<NFTA_TABLE_MAX> table(answer);
      if (Text(table.at[NFTA_TABLE_NAME]) == table_) table_flags_ = U32(table.at[NFTA_TABLE_FLAGS]);
    });
    if (err || table_flags_ < 0) return err;
    nlh = Request(buffer, NFT_MSG_GETCHAIN, NLM_F_DUMP, family_, socket()->NextSeq());
    err = socket()->Dump(nlh, [this](const nlmsghdr *answer) { TakeChain(answer); });
    if (err) return err;
    nlh = Request(buffer, NFT_MSG_GETSET, NLM_F_DUMP, family_, socket()->NextSeq());
    mnl_attr_put_strz(nlh, NFTA_SET_TABLE, table_.c_str());
    return socket()->Dump(nlh, [this](const nlmsghdr *answer) {
      Attributes<NFTA_SET_MAX> set(answer);
      std::string name = Text(set.at[NFTA_SET_NAME]);
      // Anonymous sets belong to their rule and have names that the kernel made up.
      if (name.rfind("__set", 0) != 0 && name.rfind("__map", 0) != 0) sets_.push_back(name);
    });
  }
  Napi::Value Result() override {
    Napi::Object result = Napi::Object::New(Env());
    result.Set("tableFlags", Napi::Number::New(Env(), static_cast<double>(table_flags_)));
    result.Set("chains", Strings(chains_));
    result.Set("sets", Strings(sets_));
    return result;
  }

 private:
  void TakeChain(const nlmsghdr *answer) {
    Attributes<NFTA_CHAIN_MAX> chain(answer);
    if (Text(chain.at[NFTA_CHAIN_TABLE]) != table_) return;
    std::string row = Text(chain.at[NFTA_CHAIN_NAME]);
    if (chain.at[NFTA_CHAIN_HOOK]) {
      Attributes<NFTA_HOOK_MAX> hook(chain.at[NFTA_CHAIN_HOOK]);
      row += " " + Text(chain.at[NFTA_CHAIN_TYPE]) + " " + std::to_string(U32(hook.at[NFTA_HOOK_HOOKNUM])) + " " +
             std::to_string(static_cast<int32_t>(U32(hook.at[NFTA_HOOK_PRIORITY])));
    }
    chains_.push_back(row);
  }
  Napi::Value Strings(const std::vector<std::string> &list) {
    Napi::Array array = Napi::Array::New(Env(), list.size());
    for (size_t i = 0; i < list.size(); i++) array.Set(static_cast<uint32_t>(i), list[i]);
    return array;
  }
  uint8_t family_;
  std::string table_;
  int64_t table_flags_ = -1;
  std::vector<std::string> chains_, sets_;
};

class GenerationReader : public ReadWorker {
 public:
  using ReadWorker::ReadWorker;

 protected:
  void Reset() override { generation_ = 0; }
  int Read() override {
    std::vector<char> buffer;
    nlmsghdr *nlh = Request(buffer, NFT_MSG_GETGEN, NLM_F_ACK, AF_UNSPEC, socket()->NextSeq());
    return socket()->Dump(nlh, [this](const nlmsghdr *answer) {
      Attributes<NFTA_GEN_MAX> generation(answer);
      generation_ = U32(generation.at[NFTA_GEN_ID]);
    });
  }
  Napi::Value Result() override { return Napi::Number::New(Env(), generation_); }

 private:
  uint32_t generation_ = 0;
};

template <class Reader>
Napi::Value Start(NftSocket *handle, const Napi::CallbackInfo &info) {
  return (new Reader(handle, info))->Start();
}
}  // namespace

Napi::Value StartDumpElements(NftSocket *handle, const Napi::CallbackInfo &info) {
  return Start<ElementReader>(handle, info);
}
Napi::Value StartDumpRules(NftSocket *handle, const Napi::CallbackInfo &info) { return Start<RuleReader>(handle, info); }
Napi::Value StartDumpNames(NftSocket *handle, const Napi::CallbackInfo &info) { return Start<NameReader>(handle, info); }
Napi::Value StartGeneration(NftSocket *handle, const Napi::CallbackInfo &info) {
  return Start<GenerationReader>(handle, info);
}
