#pragma once
// Which entries a list of deletions means: one look-up per entry, however long the list is.
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "flow.h"

enum class ReplyKind : uint8_t { kAny = 0, kBackend = 1, kUntranslated = 2 };

struct FlowItem {
  uint8_t family;
  uint8_t protocol;
  ReplyKind reply;
  bool unanswered;  // only entries that have seen no answer
  uint16_t port;
  uint16_t backend_port;
  FlowAddress destination;
  FlowAddress backend;
};

class FlowMatcher {
 public:
  void Add(const FlowItem &item) {
    Destination &to = destinations_[KeyOf(item.family, item.protocol, item.unanswered, item.port, item.destination)];
    to.first = item;
    if (item.reply == ReplyKind::kAny) to.any = true;
    if (item.reply == ReplyKind::kUntranslated) to.untranslated = true;
    if (item.reply == ReplyKind::kBackend) to.backends.insert(EndpointKey(item.backend_port, item.backend));
  }

  bool Matches(const Flow &flow) const {
    return MatchesOf(flow, false) || (!flow.Answered() && MatchesOf(flow, true));
  }

  size_t DestinationCount() const { return destinations_.size(); }

  // One narrow dump for each destination.
  std::vector<FlowFilter> NarrowFilters() const {
    std::vector<FlowFilter> filters;
    for (const auto &[key, to] : destinations_) {
      FlowFilter filter;
      filter.family = to.first.family;
      filter.protocol = to.first.protocol;
      filter.unanswered = to.first.unanswered;
      filter.by_destination = true;
      filter.destination = to.first.destination;
      filter.destination_port = to.first.port;
      if (!to.any && !to.untranslated && to.backends.size() == 1) {
        filter.by_backend = true;
        filter.backend = to.first.backend;
        filter.backend_port = to.first.backend_port;
      }
      filters.push_back(filter);
    }
    return filters;
  }

  // One wide dump for each family, protocol and kind of entries.
  std::vector<FlowFilter> WideFilters() const {
    std::vector<FlowFilter> filters;
    std::unordered_set<uint32_t> seen;
    for (const auto &[key, to] : destinations_) {
      const uint32_t kind = to.first.unanswered ? 1 << 16 : 0;
      if (!seen.insert(kind | static_cast<uint32_t>(to.first.family << 8) | to.first.protocol).second) continue;
      FlowFilter filter;
      filter.family = to.first.family;
      filter.protocol = to.first.protocol;
      filter.unanswered = to.first.unanswered;
      filters.push_back(filter);
    }
    return filters;
  }

 private:
  struct Destination {
    FlowItem first;
    bool any = false;
    bool untranslated = false;
    std::unordered_set<std::string> backends;
  };
  bool MatchesOf(const Flow &flow, bool unanswered) const {
    auto found = destinations_.find(KeyOf(flow.family, flow.protocol, unanswered, flow.orig.dport, flow.orig.dst));
    if (found == destinations_.end()) return false;
    const Destination &to = found->second;
    if (to.any) return true;
    if (to.untranslated && flow.reply.src == flow.orig.dst && flow.reply.sport == flow.orig.dport) return true;
    return to.backends.count(EndpointKey(flow.reply.sport, flow.reply.src)) > 0;
  }

  // Short keys, all of a length at which std::string allocates: 18 and 21 bytes. A dump of a million entries
  // makes them a million times, which the reading of the entries still outweighs.
  static std::string EndpointKey(uint16_t port, const FlowAddress &address) {
    std::string key(reinterpret_cast<const char *>(address.data()), address.size());
    key.push_back(static_cast<char>(port));
    key.push_back(static_cast<char>(port >> 8));
    return key;
  }
  static std::string KeyOf(uint8_t family, uint8_t protocol, bool unanswered, uint16_t port,
                           const FlowAddress &address) {
    std::string key = EndpointKey(port, address);
    key.push_back(static_cast<char>(family));
    key.push_back(static_cast<char>(protocol));
    key.push_back(unanswered ? 1 : 0);
    return key;
  }

  std::unordered_map<std::string, Destination> destinations_;
};
