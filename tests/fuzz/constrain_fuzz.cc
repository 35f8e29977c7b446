// A grammar or a JSON schema, both hostile, and a text:  kind NUL-ended source, then the text.
//   's' schema, anything else grammar
// What compiles must agree with itself: a mask allows exactly the tokens that are then accepted, a place is
// never a dead end, and a matcher made anew is where the old one is.
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/constrain/json_schema.h"
#include "common/constrain/matcher.h"
#include "tests/fuzz/fuzz_input.h"

namespace moepool {
namespace {

const std::shared_ptr<const Vocabulary>& Tokens() {
  static const auto* const vocabulary = [] {
    std::vector<std::string> tokens = {"",     "{\"", "\": ",     "\",",      "}}", "ab",
                                       "true", "12",  "\xC3\xA9", "\xF0\x9F", "]}"};
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    return new std::shared_ptr<const Vocabulary>(Vocabulary::Make(std::move(tokens)).value());
  }();
  return *vocabulary;
}

void Check(const std::shared_ptr<const CompiledGrammar>& grammar, std::string_view text) {
  Matcher matcher(grammar);
  std::vector<int32_t> ids;
  for (const char c : text.substr(0, 64)) {
    const auto known = matcher.Mask();
    if (!known.ok()) {  // too ambiguous
      MOEPOOL_CHECK(absl::IsInvalidArgument(known.status()));
      MOEPOOL_CHECK(Matcher(matcher).Mask().status() == known.status());
      return;
    }
    const auto& mask = *known;
    // The byte where it is allowed, otherwise the first token that is.
    int32_t next = 11 + static_cast<uint8_t>(c);
    bool any = false;
    for (int32_t id = 0; id < Tokens()->size(); ++id) {
      Matcher copy = matcher;
      const bool accepted = copy.Accept(id);
      MOEPOOL_CHECK(HasBit(*mask, id) || !accepted);
      if (HasBit(*mask, id) && !accepted) return;  // a step that is too much, which a mask need not look at
      if (!HasBit(*mask, id)) continue;
      if (!any && !HasBit(*mask, next)) next = id;
      any = true;
    }
    MOEPOOL_CHECK(any || matcher.CanEnd());
    if (!any) break;
    MOEPOOL_CHECK(matcher.Accept(next));
    ids.push_back(next);
  }
  Matcher again(grammar);
  for (const int32_t id : ids) MOEPOOL_CHECK(again.Accept(id));
  const auto one = again.Mask();
  const auto other = matcher.Mask();
  MOEPOOL_CHECK(again.CanEnd() == matcher.CanEnd() && one.status() == other.status());
  MOEPOOL_CHECK(!one.ok() || **one == **other);
}

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  FuzzInput input(data, size);
  const bool is_schema = input.Take<char>() == 's';
  std::string source(input.TakeUntil('\0'));
  const std::string_view text = input.TakeRest();
  if (is_schema) {
    const auto schema = nlohmann::ordered_json::parse(source, nullptr, /*allow_exceptions=*/false);
    if (schema.is_discarded()) return 0;
    auto grammar = JsonSchemaToGrammar(schema);
    if (!grammar.ok()) {
      MOEPOOL_CHECK(absl::IsInvalidArgument(grammar.status()));
      return 0;
    }
    MOEPOOL_CHECK(ParseGrammar(*grammar).ok());
    source = *std::move(grammar);
  }
  const auto compiled = CompiledGrammar::Make(source, Tokens());
  if (!compiled.ok()) {
    MOEPOOL_CHECK(absl::IsInvalidArgument(compiled.status()) && !compiled.status().message().empty());
    return 0;
  }
  Check(*compiled, text);
  return 0;
}
