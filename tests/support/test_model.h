// The real model that tests/run.sh fetches.
#pragma once

#include <cstdlib>
#include <string>

namespace moepool {

// MOEPOOL_TEST_MODEL, or where deploy/fetch_model.sh puts SmolLM2-135M-Instruct.Q4_1.gguf. A test that cannot
// open it fails: run tests/run.sh, or name a copy.
inline std::string TestModelPath() {
  const auto environment = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const std::string path = environment("MOEPOOL_TEST_MODEL"); !path.empty()) return path;
  const std::string cache = environment("XDG_CACHE_HOME");
  return (cache.empty() ? environment("HOME") + "/.cache" : cache) +
         "/moepool/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace moepool
