// The model's own Jinja template, parsed once and rendered within bounds. No template is recognised by its
// text or by the model's name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace moepool {

struct ChatTemplateLimits {
  size_t output_bytes = 8u << 20;
  int64_t steps = 5'000'000;  // evaluated nodes
  int depth = 100;            // of nesting and of macro calls
};

// Immutable and thread-safe.
class ChatTemplate {
 public:
  // InvalidArgument gives line and cause.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source,
                                                             ChatTemplateLimits limits = {});
  virtual ~ChatTemplate() = default;
  // `variables` is an object: messages, tools, add_generation_prompt, bos_token, eos_token, …, ordered
  // because tojson writes keys as the client sent them. `now` is what strftime_now sees. InvalidArgument
  // where the template raises (raise_exception's text) or misuses a value; ResourceExhausted at a limit; both
  // name the line.
  virtual absl::StatusOr<std::string> Render(const nlohmann::ordered_json& variables,
                                             absl::Time now) const = 0;
};

}  // namespace moepool
