// The files of gateway/page, carried in the binary.
#pragma once

#include <string_view>
#include <vector>

namespace moepool {

struct PageFile {
  const char* path;       // "/" or "/page/NAME"
  std::string_view etag;  // with its quotes
  std::string_view bytes;
};

// Made at build time by cmake/embed.cmake.
const std::vector<PageFile>& PageFiles();

}  // namespace moepool
