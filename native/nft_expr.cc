// Rules that are made at run time: the expressions that src/dataplane/nft/rule-writer.ts packs, as libnftnl
// objects. Only what Triplane's dynamic chains use.
#include <linux/netfilter/nf_tables.h>

#include <cstdio>

extern "C" {
#include <libnftnl/expr.h>
}

#include "nft.h"

namespace {
enum ExprKind : uint8_t {
  kMeta = 1,
  kCmp = 2,
  kPayloadLoad = 3,
  kPayloadWrite = 4,
  kNumgen = 5,
  kByteorder = 6,
  kLookup = 7,
  kVerdict = 8,
  kDynset = 9,
  kBitwise = 10,
  kImmediate = 11,
  kDnat = 12,
};

nftnl_expr *Load(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("payload");
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, in.U32());
  return e;
}

nftnl_expr *Write(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("payload");
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_SREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_CSUM_TYPE, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_FLAGS, in.U32());
  return e;
}

nftnl_expr *Cmp(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("cmp");
  nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, in.U32());
  std::string data = in.Text();
  nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data.data(), static_cast<uint32_t>(data.size()));
  return e;
}

nftnl_expr *Numgen(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("numgen");
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_TYPE, NFT_NG_RANDOM);
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_DREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_MODULUS, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_NG_OFFSET, in.U32());
  return e;
}

nftnl_expr *Byteorder(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("byteorder");
  nftnl_expr_set_u32(e, NFTNL_EXPR_BYTEORDER_SREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BYTEORDER_DREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BYTEORDER_OP, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BYTEORDER_LEN, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BYTEORDER_SIZE, in.U32());
  return e;
}

nftnl_expr *Lookup(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("lookup");
  nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, in.U32());
  uint32_t dreg_plus_one = in.U32();  // 0: no result wanted; register 0 is the verdict
  if (dreg_plus_one) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_DREG, dreg_plus_one - 1);
  nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, in.Text().c_str());
  return e;
}

nftnl_expr *Verdict(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("immediate");
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, in.U32());
  std::string chain = in.Text();
  if (!chain.empty()) nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain.c_str());
  return e;
}

nftnl_expr *Immediate(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("immediate");
  nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, in.U32());
  std::string data = in.Text();
  nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, data.data(), static_cast<uint32_t>(data.size()));
  return e;
}

nftnl_expr *Dnat(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("nat");
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, NFT_NAT_DNAT);
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_PROTO_MIN, in.U32());
  return e;
}

nftnl_expr *Dynset(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("dynset");
  nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_OP, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_KEY, in.U32());
  uint32_t data_register = in.U32();
  if (data_register) nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_DATA, data_register);
  uint64_t timeout_ms = static_cast<uint64_t>(in.U32()) * 1000;
  if (timeout_ms) nftnl_expr_set_u64(e, NFTNL_EXPR_DYNSET_TIMEOUT, timeout_ms);
  nftnl_expr_set_str(e, NFTNL_EXPR_DYNSET_SET_NAME, in.Text().c_str());
  return e;
}

nftnl_expr *Bitwise(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("bitwise");
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_OP, NFT_BITWISE_BOOL);
  std::string mask = in.Text();
  std::string zeros(mask.size(), '\0');
  nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, static_cast<uint32_t>(mask.size()));
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask.data(), static_cast<uint32_t>(mask.size()));
  nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, zeros.data(), static_cast<uint32_t>(zeros.size()));
  return e;
}

nftnl_expr *Meta(ByteReader &in) {
  nftnl_expr *e = nftnl_expr_alloc("meta");
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, in.U32());
  nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, in.U32());
  return e;
}
}  // namespace

bool AddExpressions(nftnl_rule *rule, ByteReader &in) {
  uint8_t count = in.U8();
  for (uint8_t i = 0; i < count && !in.Failed(); i++) {
    nftnl_expr *e = nullptr;
    switch (in.U8()) {
      case kMeta: e = Meta(in); break;
      case kCmp: e = Cmp(in); break;
      case kPayloadLoad: e = Load(in); break;
      case kPayloadWrite: e = Write(in); break;
      case kNumgen: e = Numgen(in); break;
      case kByteorder: e = Byteorder(in); break;
      case kLookup: e = Lookup(in); break;
      case kVerdict: e = Verdict(in); break;
      case kDynset: e = Dynset(in); break;
      case kBitwise: e = Bitwise(in); break;
      case kImmediate: e = Immediate(in); break;
      case kDnat: e = Dnat(in); break;
      default: return false;
    }
    if (!e) return false;
    nftnl_rule_add_expr(rule, e);
  }
  return !in.Failed();
}
