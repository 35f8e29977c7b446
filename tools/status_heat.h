// The heat map of experts by layer in characters.
#pragma once

#include <string>
#include <vector>

#include "common/trunk/trunk.h"
#include "tools/status_view.h"

namespace moepool {

// A headline and then the cells: tokens of the last minute, experts across, layers down. With colours and
// Unicode a character holds two layers; otherwise one, as one of ten shades. Where there is no room,
// neighbours share a cell that shows their mean. At most `rows` lines; none where the router does not count
// experts' tokens.
std::vector<std::string> HeatLines(const StatusScreen& screen, const PoolInfo& pool, int rows);

}  // namespace moepool
