// The description of the HTTP API, as it is served: gateway/http/openapi.json, which a test holds against the
// routes and the parsers' tables.
#pragma once

#include <string_view>

namespace moepool {

std::string_view OpenApiText();

}  // namespace moepool
