#include "common/base/open_files.h"

#include <sys/resource.h>

#include <algorithm>

namespace moepool {
namespace {

constexpr rlim_t kEnough = 1 << 20;  // where there is no limit

}  // namespace

void AllowOpenFiles() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, kEnough));
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace moepool
