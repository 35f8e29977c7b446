// What the bodies of OpenAI's endpoints have in common.
#pragma once

#include <string>

#include "gateway/json_fields.h"

namespace moepool {

inline constexpr double kOpenAiTemperature = 1;

struct OpenAiFields {
  std::string model;           // empty: not given
  bool include_usage = false;  // of stream_options
};

const JsonFields<OpenAiFields>& OpenAiFieldTable();

}  // namespace moepool
