// See weight_flags.h.
#include "common/backend/weight_flags.h"

#include "CLI/CLI.hpp"
#include "common/base/private_directory.h"
#include "common/base/str.h"

namespace moepool {

void AddWeightFlags(CLI::App* app, WeightFlags* flags) {
  app->add_option(
         "--weights", flags->weights,
         "read: into memory of this process, on huge pages; mmap: map the files of the weights' cache")
      ->check(CLI::IsMember({"read", "mmap"}))
      ->capture_default_str();
  app->add_option("--weights-cache", flags->cache,
                  "Keep repacked weights for later starts: on (in the user's cache), off, or a directory")
      ->capture_default_str();
  app->add_option("--weights-cache-limit", flags->cache_limit_bytes,
                  "Most that the directory keeps of all models, in bytes or as 64GiB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->capture_default_str();
}

absl::StatusOr<WeightOptions> ToWeightOptions(const WeightFlags& flags) {
  WeightOptions options;
  options.map = flags.weights == "mmap";
  options.cache_limit_bytes = flags.cache_limit_bytes;
  if (flags.cache == "on") {
    options.cache_directory = UserCachePath("weights");
  } else if (flags.cache != "off") {
    if (flags.cache.find('/') == std::string::npos) {
      return absl::InvalidArgumentError(
          StrCat("--weights-cache: '", flags.cache, "' is not on, off or a path with a '/'"));
    }
    options.cache_directory = flags.cache;
  }
  if (options.map && options.cache_directory.empty()) {
    return absl::InvalidArgumentError("--weights: mmap maps the files of the cache, and there is none");
  }
  return options;
}

}  // namespace moepool
