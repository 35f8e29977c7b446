#include "common/transport/host_id.h"

#include <unistd.h>

#include <fstream>

#include "common/base/str.h"

namespace moepool {
namespace {

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

}  // namespace

std::string HostId() {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  return StrCat(boot_id, "/", HostName());
}

std::string ProcessName() { return StrCat(HostName(), ":", getpid()); }

}  // namespace moepool
