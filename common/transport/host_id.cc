#include "common/transport/host_id.h"

#include <sys/stat.h>
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

std::string HostId(const std::string& shared_directory) {
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  struct stat directory;
  if (!shared_directory.empty() && stat(shared_directory.c_str(), &directory) == 0) {
    return StrCat(boot_id, "/directory ", directory.st_dev, ":", directory.st_ino);
  }
  return StrCat(boot_id, "/", HostName());
}

std::string ProcessName() { return StrCat(HostName(), ":", getpid()); }

}  // namespace moepool
