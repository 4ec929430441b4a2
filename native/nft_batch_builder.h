#pragma once
// One atomic nftables transaction from the packed operations of src/dataplane/nft/packed.ts. Neighbouring
// element operations on one set share a message: ten times fewer messages, and a refusal still names its
// element by the offset in the extended acknowledgement.
#include <unordered_map>

#include "nft.h"

struct Element {
  uint32_t offset;
  uint32_t owner;
};
struct Message {
  uint32_t seq;
  uint32_t owner;
  size_t first_element;  // into BatchBuilder::elements, for element messages
  size_t element_count;
};

class BatchBuilder {
 public:
  using Layouts = std::shared_ptr<const std::vector<SetLayout>>;
  BatchBuilder(uint8_t family, std::string table, Layouts layouts, bool one_element_a_message);

  // Turns all packed operations into messages numbered from `first_seq` on. False: the packing is broken.
  bool Build(const uint8_t *operations, size_t size, uint32_t first_seq);

  std::vector<char> bytes;
  std::vector<Message> messages;
  std::vector<Element> elements;
  uint32_t last_seq = 0;
  // By set * kShares + share: hashes added minus those removed.
  const std::unordered_map<uint32_t, uint64_t> &sums() const { return sums_; }
  uint32_t seq() const { return seq_; }

 private:
  bool Add(ByteReader &in);
  void Finish();
  nlmsghdr *Open(uint16_t type, uint16_t flags, uint32_t owner);
  void Close();
  void BatchMark(uint16_t type);
  void PutVerdict(nlmsghdr *nlh, const std::string &chain, uint32_t code);
  bool AddElement(ByteReader &in, uint8_t kind, uint32_t owner);
  bool AddRuleMessage(ByteReader &in, uint32_t owner);
  void AddSetMessage(ByteReader &in, uint32_t owner);
  void Named(uint16_t type, uint16_t flags, uint16_t table_attr, uint16_t name_attr, const std::string &name,
             uint32_t owner);
  void EndElements();

  uint8_t family_;
  std::string table_;
  Layouts layouts_;
  uint32_t seq_ = 0;
  bool single_;
  std::unordered_map<uint32_t, uint64_t> sums_;
  uint32_t next_set_id_ = 1;
  size_t open_at_ = 0;
  // The element message that is still open, if any.
  int open_kind_ = 0;
  int open_set_ = -1;
  size_t list_at_ = 0;
};
