#pragma once
// nftables over netlink: what nft_batch.cc (writing) and nft_dump.cc (reading) share.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "byte_reader.h"
#include "netlink_socket.h"

extern "C" {
#include <libnftnl/rule.h>
}

// How the elements of one set or map are laid out: byte lengths of key and data as the kernel has them
// (each part of a concatenation padded to four bytes). data_len kNoData: a set; kVerdictData: a verdict map.
constexpr int kNoData = 0;
constexpr int kVerdictData = -1;
struct SetLayout {
  std::string name;
  int key_len;
  int data_len;
};

// Appends the expressions packed at the reader's place to the rule. False: the packing is broken.
bool AddExpressions(nftnl_rule *rule, ByteReader &in);

// A set's elements are told apart by the upper bits of their hash, so that a dump which a commit has crossed can be
// right in most shares. src/dataplane/nft/set-sums.ts has the same number.
constexpr uint32_t kShares = 1024;
constexpr uint32_t ShareOf(uint64_t hash) { return static_cast<uint32_t>(hash >> 54); }

// A number for one element, to be added up over a share: equal sets have equal sums whatever their order.
// `verdict_chain` is the data of verdict maps ("drop" or a chain's name).
uint64_t ElementHash(const uint8_t *key, size_t key_len, const uint8_t *data, size_t data_len,
                     const std::string &comment);

// The handle that TypeScript holds.
class NftSocket : public Napi::ObjectWrap<NftSocket> {
 public:
  static void Init(Napi::Env env, Napi::Object exports);
  explicit NftSocket(const Napi::CallbackInfo &info);
  NetlinkSocket *socket() { return socket_.get(); }
  // The layouts of a family's table as C++ values; read again only when another array is given.
  std::shared_ptr<const std::vector<SetLayout>> Layouts(uint8_t family, const Napi::Array &array);
  bool busy = false;

 private:
  Napi::Value Commit(const Napi::CallbackInfo &info);
  Napi::Value DumpElements(const Napi::CallbackInfo &info);
  Napi::Value DumpRules(const Napi::CallbackInfo &info);
  Napi::Value DumpNames(const Napi::CallbackInfo &info);
  Napi::Value Generation(const Napi::CallbackInfo &info);
  Napi::Value PortId(const Napi::CallbackInfo &info);
  Napi::Value SendBufferBytes(const Napi::CallbackInfo &info);
  void Close(const Napi::CallbackInfo &info);
  // The socket for one more request; throws when the handle is closed or has a request under way.
  NetlinkSocket *Claim(Napi::Env env);
  std::unique_ptr<NetlinkSocket> socket_;
  struct KnownLayouts {
    Napi::ObjectReference array;
    std::shared_ptr<const std::vector<SetLayout>> layouts;
  };
  std::map<uint8_t, KnownLayouts> layouts_;
};

// Asynchronous requests; each releases the handle's claim when it settles its promise.
Napi::Value StartCommit(NftSocket *handle, const Napi::CallbackInfo &info);
Napi::Value StartDumpElements(NftSocket *handle, const Napi::CallbackInfo &info);
Napi::Value StartDumpRules(NftSocket *handle, const Napi::CallbackInfo &info);
Napi::Value StartDumpNames(NftSocket *handle, const Napi::CallbackInfo &info);
Napi::Value StartGeneration(NftSocket *handle, const Napi::CallbackInfo &info);
Napi::Value NftSums(const Napi::CallbackInfo &info);
std::vector<SetLayout> ReadLayouts(const Napi::Array &array);
