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

bool IsTraceparent(std::string_view text) {
  static constexpr std::string_view kForm = "00-hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh-hhhhhhhhhhhhhhhh-hh";
  if (text.size() != kForm.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool hex =
        absl::ascii_isdigit(static_cast<unsigned char>(text[i])) || (text[i] >= 'a' && text[i] <= 'f');
    if (kForm[i] == 'h' ? !hex : text[i] != kForm[i]) return false;
  }
  const auto zeros = [](std::string_view part) {
    return part.find_first_not_of('0') == std::string_view::npos;
  };
  return !zeros(text.substr(3, 32)) && !zeros(text.substr(36, 16));
}

}  // namespace moepool
