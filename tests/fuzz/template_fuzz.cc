// A chat template and the variables it is rendered with, both hostile:  template NUL json.
#include <string>

#include "common/base/status_macros.h"
#include "common/text/chat_template.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  constexpr ChatTemplateLimits kLimits = {.output_bytes = 1 << 20, .steps = 300'000};
  FuzzInput input(data, size);
  const std::string_view source = input.TakeUntil('\0');
  const std::string_view json = input.TakeRest();
  auto variables = nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (variables.is_discarded()) variables = nlohmann::ordered_json::object();

  const auto parsed = ChatTemplate::Parse(source, kLimits);
  if (!parsed.ok()) {
    MOEPOOL_CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  const auto text = (*parsed)->Render(variables, absl::FromUnixSeconds(1'700'000'000));
  if (text.ok()) {
    MOEPOOL_CHECK(text->size() <= kLimits.output_bytes);
    const auto again = (*parsed)->Render(variables, absl::FromUnixSeconds(1'700'000'000));
    MOEPOOL_CHECK(again.ok() && *again == *text);
  } else {
    MOEPOOL_CHECK(absl::IsInvalidArgument(text.status()) || absl::IsResourceExhausted(text.status()));
  }
  return 0;
}
