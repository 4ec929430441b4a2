// The collector: walks tp_conns in slices, without system calls, while programs use it. An entry goes in two
// steps, LIVE -> DYING in one pass and DYING -> BUSY -> FREE in a later one; the next packet makes a DYING entry
// LIVE again (bpf/conntrack.h), so nothing that lives is ever taken down.
#include <netinet/in.h>

#include <vector>

#include "../bpf/hash.h"
#include "args.h"
#include "bpf.h"

namespace {

// Order of the time-outs, in ticks; shared with src/dataplane/ebpf/collector.ts.
enum Timeout {
  kSynSent, kSynRecv, kEstablished, kHalfClosed, kTimeWait, kClose,
  kUdp, kUdpStream,
  kSctpOpening, kSctpEstablished, kSctpHalfClosed, kSctpShutdown, kSctpClosed,
  kTimeouts
};
// What a slice counts.
enum Count { kLive, kMasqueraded, kPaired, kMarked, kFreed, kCounts };

struct Tables {
  tp_conn *conns;
  uint64_t *pairs;
  uint32_t *nat;
  const tp_backend *backends;
  uint32_t conn_mask, pair_mask, nat_mask, backend_count, frontend_count;
  __u64 seed[2];
  // By index: the number of the pass in which a connection referred to it last.
  uint32_t *frontend_seen, *backend_seen;
  // By set: a connection whose home it is lives elsewhere, as of this pass.
  uint32_t *needed;
  const uint32_t *timeouts;
  uint32_t now, pass;
};

bool Swap32(uint32_t *word, uint32_t from, uint32_t to) {
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
bool Swap64(uint64_t *word, uint64_t from, uint64_t to) {
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

uint16_t Swapped(uint16_t port) { return __builtin_bswap16(port); }
uint64_t SlotWord(uint32_t tag, uint32_t index) { return static_cast<uint64_t>(tag) << 32 | (index + 1); }

Timeout SctpTimeoutOf(const tp_conn &c) {
  const uint8_t both = c.seen_forward & c.seen_reply, any = c.seen_forward | c.seen_reply;
  if (any & TP_SEEN_RST) return kSctpClosed;
  if (any & TP_SEEN_FIN) return both & TP_SEEN_FIN ? kSctpShutdown : kSctpHalfClosed;
  return c.seen_forward & TP_SEEN_MORE ? kSctpEstablished : kSctpOpening;
}

// As nf_conntrack's time-outs, by what both directions have shown.
Timeout TimeoutOf(const tp_conn &c) {
  if (c.proto == IPPROTO_SCTP) return SctpTimeoutOf(c);
  if (c.proto != IPPROTO_TCP) return c.seen_reply ? kUdpStream : kUdp;
  const uint8_t both = c.seen_forward & c.seen_reply, any = c.seen_forward | c.seen_reply;
  if (any & TP_SEEN_RST) return kClose;
  if (both & TP_SEEN_FIN) return kTimeWait;
  if (any & TP_SEEN_FIN) return kHalfClosed;
  if (!c.seen_reply) return c.seen_forward & TP_SEEN_MORE ? kEstablished : kSynSent;
  return c.seen_forward & TP_SEEN_MORE ? kEstablished : kSynRecv;
}

bool IsOver(const Tables &t, const tp_conn &c) {
  // A datagram flow whose backend is gone is picked anew by its next packet: it is of no more use.
  if (c.proto == IPPROTO_UDP && !(c.flags & TP_C_DIRECT) && c.backend < t.backend_count &&
      !(t.backends[c.backend].flags & (TP_B_IN_CLUSTER | TP_B_IN_LOCAL)))
    return true;
  // Programs may be a tick ahead of us.
  int32_t idle = static_cast<int32_t>(t.now - __atomic_load_n(&c.last_seen, __ATOMIC_RELAXED));
  return idle > static_cast<int32_t>(t.timeouts[TimeoutOf(c)]);
}

// pair_drop() of bpf/nat.h, by the port (as in packets) under which the client stands there.
void Unpair(const Tables &t, const tp_conn &c, uint32_t index, uint16_t client_port) {
  const tp_backend &b = t.backends[c.backend];
  const uint64_t hash = tp_hash_pair(t.seed, &c.client, client_port, &b.addr, b.port, c.proto, c.family);
  const uint64_t word = SlotWord(static_cast<uint32_t>(hash >> 32), index);
  for (uint32_t i = 0; i < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; i++) {
    const uint32_t bucket = (static_cast<uint32_t>(hash) + i / TP_BUCKET_SLOTS) & t.pair_mask;
    if (Swap64(&t.pairs[bucket * TP_BUCKET_SLOTS + i % TP_BUCKET_SLOTS], word, TP_TOMB)) return;
  }
}

// conn_unlink() of bpf/nat.h, and conn_evict()'s of what is direct.
void Unlink(const Tables &t, const tp_conn &c, uint32_t index) {
  if (c.backend >= t.backend_count) return;
  const tp_backend &b = t.backends[c.backend];
  if (c.nat_port) {
    const uint64_t hash = tp_hash_nat(t.seed, &b.addr, b.port, c.proto, c.family);
    const uint16_t port = Swapped(c.nat_port);
    const uint32_t tag = (static_cast<uint32_t>(hash >> 32) ^ port) & 255;
    Swap32(&t.nat[(static_cast<uint32_t>(hash) + port) & t.nat_mask], tag << 24 | (index + 1), 0);
  }
  if (c.flags & TP_C_PAIR) Unpair(t, c, index, c.flags & TP_C_REMAP ? c.nat_port : c.client_port);
  if (c.flags & TP_C_DIRECT) Unpair(t, c, index, c.client_port);
}

void Refer(const Tables &t, const tp_conn &c, uint32_t set) {
  if (c.frontend < t.frontend_count) t.frontend_seen[c.frontend] = t.pass;
  if (c.backend < t.backend_count) t.backend_seen[c.backend] = t.pass;
  const uint64_t hash = tp_hash_conn(t.seed, &c.client, c.client_port, c.frontend, c.family);
  const uint32_t home = static_cast<uint32_t>(hash) & t.conn_mask;
  if (home != set) t.needed[home] = t.pass;
}

void Entry(const Tables &t, uint32_t index, uint32_t *counts) {
  tp_conn &c = t.conns[index];
  const uint32_t state = __atomic_load_n(&c.state, __ATOMIC_ACQUIRE);
  const uint32_t tag = state & ~TP_STATE_MASK, phase = state & TP_STATE_MASK;
  if (phase != TP_LIVE && phase != TP_DYING) return;
  const bool over = IsOver(t, c);
  if (phase == TP_DYING && over && Swap32(&c.state, tag | TP_DYING, tag | TP_BUSY)) {
    Unlink(t, c, index);
    __atomic_store_n(&c.state, TP_FREE, __ATOMIC_RELEASE);
    counts[kFreed]++;
    return;
  }
  if (phase == TP_LIVE && over && Swap32(&c.state, tag | TP_LIVE, tag | TP_DYING)) counts[kMarked]++;
  counts[kLive]++;
  counts[kMasqueraded] += c.nat_port != 0;
  counts[kPaired] += (c.flags & TP_C_PAIR) != 0;
  Refer(t, c, index / TP_CONN_WAYS);
}

uint32_t *WordsArg(const Napi::Value &value) { return value.As<Napi::Uint32Array>().Data(); }

Tables TablesOf(const Napi::Object &o) {
  Tables t = {};
  t.conns = reinterpret_cast<tp_conn *>(BytesOf(o.Get("conns")).data);
  t.pairs = reinterpret_cast<uint64_t *>(BytesOf(o.Get("pairs")).data);
  t.nat = reinterpret_cast<uint32_t *>(BytesOf(o.Get("nat")).data);
  t.backends = reinterpret_cast<tp_backend *>(BytesOf(o.Get("backends")).data);
  memcpy(t.seed, BytesOf(o.Get("seed")).data, sizeof(t.seed));
  Napi::Uint32Array sizes = o.Get("sizes").As<Napi::Uint32Array>();
  t.conn_mask = sizes[0] - 1;
  t.pair_mask = sizes[1] - 1;
  t.nat_mask = sizes[2] - 1;
  t.backend_count = sizes[3];
  t.frontend_count = sizes[4];
  t.frontend_seen = WordsArg(o.Get("frontendSeen"));
  t.backend_seen = WordsArg(o.Get("backendSeen"));
  t.needed = WordsArg(o.Get("needed"));
  t.timeouts = WordsArg(o.Get("timeouts"));
  return t;
}

// bpfCollect(tables, fromSet, sets, now, pass, counts): one slice; adds to `counts`.
Napi::Value Collect(const Napi::CallbackInfo &info) {
  Tables t = TablesOf(info[0].As<Napi::Object>());
  const uint32_t from = NumberArg(info, 1, t.conn_mask, "from");
  const uint32_t sets = NumberArg(info, 2, t.conn_mask + 1 - from, "sets");
  t.now = NumberArg(info, 3, UINT32_MAX, "now");
  t.pass = NumberArg(info, 4, UINT32_MAX, "pass");
  uint32_t *counts = WordsArg(info[5]);
  for (uint32_t index = from * TP_CONN_WAYS; index < (from + sets) * TP_CONN_WAYS; index++) Entry(t, index, counts);
  return info.Env().Undefined();
}

// A set's `spilled` says that one of its connections lives elsewhere; programs write 1 whenever they pass it by.
// 1 becomes 2 here after one pass; if it is still 2 after the next, and that pass met no such connection, it is 0.
void Spill(const Tables &t, uint32_t set) {
  uint8_t *spilled = &t.conns[set * TP_CONN_WAYS].spilled;
  uint8_t was = __atomic_load_n(spilled, __ATOMIC_RELAXED);
  if (was == 1) {
    __atomic_compare_exchange_n(spilled, &was, 2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  } else if (was == 2 && t.needed[set] != t.pass) {
    __atomic_compare_exchange_n(spilled, &was, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
}

bool IsDead(uint64_t word) { return word == 0 || word == TP_TOMB; }

// A bucket of tombs alone, as it was in the pass before, with nothing behind it that might have run over from it,
// is empty again.
void Exhume(const Tables &t, uint32_t bucket, uint8_t *candidates) {
  uint64_t *slots = &t.pairs[bucket * TP_BUCKET_SLOTS];
  bool tombs = slots[TP_BUCKET_SLOTS - 1] == TP_TOMB;
  for (uint32_t i = 0; tombs && i < TP_BUCKET_TRIES * TP_BUCKET_SLOTS; i++) {
    const uint32_t where = (bucket + i / TP_BUCKET_SLOTS) & t.pair_mask;
    tombs = IsDead(__atomic_load_n(&t.pairs[where * TP_BUCKET_SLOTS + i % TP_BUCKET_SLOTS], __ATOMIC_RELAXED));
  }
  if (tombs && candidates[bucket]) {
    // From the last one: a slot is free only if no used one stands behind it (bpf/open.h, tuple_taken).
    for (int i = TP_BUCKET_SLOTS - 1; i >= 0; i--) {
      if (slots[i] != 0 && !Swap64(&slots[i], TP_TOMB, 0)) break;
    }
    tombs = false;
  }
  candidates[bucket] = tombs;
}

// bpfCollectEnd(tables, pass, candidates): what is done once after each pass over all of tp_conns.
Napi::Value CollectEnd(const Napi::CallbackInfo &info) {
  Tables t = TablesOf(info[0].As<Napi::Object>());
  t.pass = NumberArg(info, 1, UINT32_MAX, "pass");
  uint8_t *candidates = BytesOf(info[2]).data;
  for (uint32_t set = 0; set <= t.conn_mask; set++) Spill(t, set);
  for (uint32_t bucket = 0; bucket <= t.pair_mask; bucket++) Exhume(t, bucket, candidates);
  return info.Env().Undefined();
}

// bpfSweepAffinities(fd, backends, limits, now): deletes what has run out or names a backend that is gone. limits:
// ticks by service, 0: the service has no affinity any more. Gives [kept, deleted].
Napi::Value SweepAffinities(const Napi::CallbackInfo &info) {
  constexpr uint32_t kBatch = 1024;
  Napi::Env env = info.Env();
  const int fd = FdOf(info[0]);
  Bytes backends = BytesOf(info[1]);
  const tp_backend *records = reinterpret_cast<tp_backend *>(backends.data);
  Napi::Uint32Array limits = info[2].As<Napi::Uint32Array>();
  const uint32_t now = NumberArg(info, 3, UINT32_MAX, "now");
  std::vector<tp_affinity_key> keys(kBatch), dead;
  std::vector<tp_affinity> values(kBatch);
  uint8_t token[sizeof(tp_affinity_key)];
  uint32_t kept = 0;
  for (bool first = true, more = true; more; first = false) {
    uint32_t count = kBatch;
    more = bpf_map_lookup_batch(fd, first ? nullptr : token, token, keys.data(), values.data(), &count, nullptr) == 0;
    if (!more && errno != ENOENT) break;
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t limit = keys[i].service < limits.ElementLength() ? limits[keys[i].service] : 0;
      const bool known = values[i].backend < backends.size / sizeof(tp_backend);
      const bool same = known && records[values[i].backend].incarnation == values[i].incarnation;
      if (same && limit && static_cast<int32_t>(now - values[i].last_used) <= static_cast<int32_t>(limit)) kept++;
      else dead.push_back(keys[i]);
    }
  }
  for (const tp_affinity_key &key : dead) bpf_map_delete_elem(fd, &key);
  Napi::Array out = Napi::Array::New(env, 2);
  out.Set(0u, kept);
  out.Set(1u, static_cast<uint32_t>(dead.size()));
  return out;
}

}  // namespace

void InitBpfCollect(Napi::Env env, Napi::Object exports) {
  exports.Set("bpfCollect", Napi::Function::New(env, Collect));
  exports.Set("bpfCollectEnd", Napi::Function::New(env, CollectEnd));
  exports.Set("bpfSweepAffinities", Napi::Function::New(env, SweepAffinities));
}
