// A router's pool as JSON: what `moepool status --json` prints and the gateway's GET /pool answers.
#pragma once

#include "common/trunk/trunk.h"
#include "nlohmann/json.hpp"

namespace moepool {

// Names as in proto/trunk.proto, all fields present.
nlohmann::ordered_json PoolJson(const PoolInfo& pool);

}  // namespace moepool
