#pragma once
// One atomic nftables transaction from the packed operations of src/dataplane/nft/packed.ts. Neighbouring
// element operations on one set share a message: ten times fewer messages, and a refusal still names its
// element by the offset in the extended acknowledgement.
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
  BatchBuilder(uint8_t family, std::string table, std::vector<SetLayout> layouts, uint32_t first_seq,
               bool one_element_a_message);

  bool Add(ByteReader &in);
  void Finish();

  std::vector<char> bytes;
  std::vector<Message> messages;
  std::vector<Element> elements;
  uint32_t last_seq = 0;
  const std::vector<uint64_t> &sums() const { return sums_; }
  uint32_t seq() const { return seq_; }

 private:
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
  std::vector<SetLayout> layouts_;
  uint32_t seq_;
  bool single_;
  std::vector<uint64_t> sums_;
  uint32_t next_set_id_ = 1;
  size_t open_at_ = 0;
  // The element message that is still open, if any.
  int open_kind_ = 0;
  int open_set_ = -1;
  size_t list_at_ = 0;
};
