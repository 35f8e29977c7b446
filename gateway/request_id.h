// What names a request in logs, here and elsewhere, whichever front end it came through.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

// The client's X-Request-Id where that is 1 to 128 letters, digits and "-_.:", else a random one.
std::string RequestId(const std::string& given);

// 00-TRACE-PARENT-FLAGS in lower-case hexadecimal, as W3C's trace context has it, neither of them all zeros.
bool IsTraceparent(std::string_view text);

}  // namespace moepool
