// NAT ports that the connections of draining maps hold: the maps in force keep from giving them to connections toward the
// same backend, whose answers the draining programs, which stand before theirs, would take.
#include <netinet/in.h>

#include <vector>

#include "../bpf/hash.h"
#include "args.h"
#include "bpf.h"

namespace {

// Names no connection: whoever finds it compares it with what its index says (bpf/nat.h, nat_find).
constexpr uint32_t kReserved = 0x00ffffff;


// conn_is_over() of bpf/conntrack.h: such an entry gives way by itself (bpf/tc.c, to_nat_port_tc).
bool IsOver(const tp_conn &c) {
  if (c.proto == IPPROTO_UDP) return false;
  if ((c.seen_forward | c.seen_reply) & TP_SEEN_RST) return true;
  return c.seen_forward & c.seen_reply & TP_SEEN_FIN;
}

bool HoldsPort(const tp_conn &c) {
  const uint32_t phase = __atomic_load_n(&c.state, __ATOMIC_ACQUIRE) & TP_STATE_MASK;
  return (phase == TP_LIVE || phase == TP_DYING) && c.nat_port && !IsOver(c);
}

// bpfReserveNat(nat, seed, old): `old` is [conns, backends] of each draining generation. Reserves what they hold and is
// free, and frees what was reserved and is not held any more. Gives how many are reserved.
Napi::Value ReserveNat(const Napi::CallbackInfo &info) {
  Bytes nat = BytesOf(info[0]);
  uint32_t *slots = reinterpret_cast<uint32_t *>(nat.data);
  const uint32_t mask = static_cast<uint32_t>(nat.size / sizeof(uint32_t)) - 1;
  __u64 seed[2];
  AssertArg(info.Env(), BytesOf(info[1]).size == sizeof(seed), "seed");
  memcpy(seed, BytesOf(info[1]).data, sizeof(seed));
  Napi::Array old = info[2].As<Napi::Array>();
  std::vector<bool> held(mask + 1);
  for (uint32_t i = 0; i < old.Length(); i++) {
    Napi::Array pair = old.Get(i).As<Napi::Array>();
    Bytes conns = BytesOf(pair.Get(0u)), backends = BytesOf(pair.Get(1u));
    const tp_backend *records = reinterpret_cast<const tp_backend *>(backends.data);
    for (size_t at = 0; at + sizeof(tp_conn) <= conns.size; at += sizeof(tp_conn)) {
      const tp_conn &c = *reinterpret_cast<const tp_conn *>(conns.data + at);
      if (!HoldsPort(c) || c.backend >= backends.size / sizeof(tp_backend)) continue;
      const tp_backend &b = records[c.backend];
      const uint64_t hash = tp_hash_nat(seed, &b.addr, b.port, c.proto, c.family);
      held[(static_cast<uint32_t>(hash) + __builtin_bswap16(c.nat_port)) & mask] = true;
    }
  }
  uint32_t count = 0;
  for (uint32_t i = 0; i <= mask; i++) {
    uint32_t word = __atomic_load_n(&slots[i], __ATOMIC_RELAXED);
    if (word != 0 && word != kReserved) continue;
    const uint32_t wanted = held[i] ? kReserved : 0;
    if (word != wanted)
      __atomic_compare_exchange_n(&slots[i], &word, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    count += wanted != 0;
  }
  return Napi::Number::New(info.Env(), count);
}

}  // namespace

void InitBpfNatReserve(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfReserveNat", Napi::Function::New(env, ReserveNat));
}
