#include "gateway/request_id.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace moepool {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

}  // namespace

std::string RequestId(const std::string& given) {
  const bool sound = !given.empty() && given.size() <= kMaxRequestIdBytes &&
                     std::all_of(given.begin(), given.end(), [](char c) {
                       return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                              c == '.' || c == ':';
                     });
  if (sound) return given;
  static thread_local std::random_device device;
  return absl::StrFormat("req-%08x%08x%08x", device(), device(), device());
}

}  // namespace moepool
