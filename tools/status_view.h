// A router's pool as text for a terminal: what `moepool status` draws. Pure; nothing here asks a router or
// knows a terminal.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/trunk/trunk.h"

namespace moepool {

struct StatusSight {
  absl::Time time;  // when the router was asked
  PoolInfo pool;
};

struct StatusRates {
  double decode = 0;   // rows a second
  double prefill = 0;  // rows a second
};

// Between two sights of one router; nothing where it was started again in between, or no time has passed.
std::optional<StatusRates> RatesBetween(const StatusSight& earlier, const StatusSight& later);

struct StatusScreen {
  int columns = 80;
  int rows = 24;
  bool unicode = true;  // blocks and bars; else ASCII
  bool colours = true;  // 256 of them
};

// Lines of at most `columns` columns, at most `rows` of them, without line ends; colours are switched off at
// the end of each. `trouble`: why the router does not answer now, or empty.
std::vector<std::string> StatusLines(const StatusScreen& screen, const std::string& router,
                                     const std::optional<StatusSight>& sight,
                                     const std::optional<StatusRates>& rates, const std::string& trouble);

// For files and pipes: the figures and a line a worker, as wide as it takes, with line ends.
std::string StatusTable(const PoolInfo& pool);

// What a peer calls itself, cut to `columns` columns: control characters and what is not UTF-8 become '?'.
std::string PlainName(std::string_view text, size_t columns);

}  // namespace moepool
