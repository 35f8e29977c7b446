// What names a request in logs, here and elsewhere, whichever front end it came through.
#pragma once

#include <string>

namespace moepool {

// The client's X-Request-Id where that is 1 to 128 letters, digits and "-_.:", else a random one.
std::string RequestId(const std::string& given);

}  // namespace moepool
