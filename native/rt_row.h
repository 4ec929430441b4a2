#pragma once
// rtnetlink messages as rows of one fixed layout, for dumps and notifications alike.
#include <libmnl/libmnl.h>

#include <cstdint>
#include <vector>

// What to dump. Numbers are shared with src/node/rtnetlink.ts.
enum class RtKind : uint32_t {
  kLink = 0,
  kAddress = 1,
  kRoute = 2,
  kNeighbour = 3,
  kDefaultRoute = 4,
  kLocalRoute = 5
};
constexpr uint32_t kRtKindLast = 5;

constexpr size_t kRtRowBytes = 112;

// Appends the message as a row. False: it is none of links, addresses, routes and neighbours, or malformed.
bool AppendRtRow(const nlmsghdr *nlh, std::vector<uint8_t> *rows);

// The dump request for `kind` in `buffer` (at least 128 bytes).
nlmsghdr *BuildRtDump(void *buffer, RtKind kind, uint32_t seq);

// Whether a dump of `kind` wants the message: of default routes those without a destination (the whole family), of local ones
// those of the table `local`. A node may have hundreds of thousands of others.
bool WantsRt(RtKind kind, const nlmsghdr *nlh);
