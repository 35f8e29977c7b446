// What constrained decoding costs a step: the time of a mask, by schema, the first time that a place is met
// and when it is known.  constrain_bench VOCABULARY.gguf...   Prints a table; asserts nothing.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/status_macros.h"
#include "common/constrain/json_schema.h"
#include "common/constrain/text_constraint.h"
#include "common/text/tokenizer.h"
#include "tests/unit/text/vocabulary_file.h"

namespace moepool {
namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

struct Case {
  const char* name;
  const char* schema;  // empty: any object
  std::vector<const char*> texts;
};

const Case kCases[] = {
    {"any object",
     "",
     {R"({"title": "The rain in Spain", "pages": [1, 2, 3], "meta": {"open": true, "note": null, "ratio": 0.75}})",
      "{\n  \"people\": [\n    {\n      \"name\": \"Zoë\",\n      \"age\": 41\n    }\n  ]\n}"}},
    {"person",
     R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},
        "email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"}}},
        "required":["name","age"],"additionalProperties":false})",
     {R"({"name": "Ada Lovelace, Countess", "age": 36, "email": "ada@example.org", "tags": ["mathematics", "poetry"]})",
      R"({"name":"Li Wei 李伟","age":9})"}},
    {"lengths",
     R"({"type":"object","properties":{"summary":{"type":"string","minLength":10,"maxLength":200},
        "keywords":{"type":"array","items":{"type":"string","maxLength":12},"maxItems":5}},"required":["summary"]})",
     {R"({"summary": "A step of the engine takes what has arrived, asks for a plan, and hands out what comes of it.", "keywords": ["engine", "plan"]})"}},
    {"recursive",
     R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"string"},"children":{"type":"array",
        "items":{"$ref":"#/$defs/node"}}},"required":["value","children"]}},"$ref":"#/$defs/node"})",
     {R"({"value": "a", "children": [{"value": "b", "children": [{"value": "deep down", "children": []}]}, {"value": "c", "children": []}]})"}},
    {"pattern",
     R"({"type":"object","properties":{"plate":{"type":"string","pattern":"^[A-Z]{1,3}-[A-Z]{2} [1-9][0-9]{0,3}$"},
        "when":{"type":"string","format":"date-time"},"kind":{"enum":["car","van","lorry","motor cycle"]}},
        "required":["plate","when","kind"]})",
     {R"({"plate": "GOE-AB 123", "when": "2026-11-28T20:15:00Z", "kind": "lorry"})",
      R"({"plate": "B-XY 42", "when": "2026-11-28T20:15:00Z", "kind": "motor cycle"})"}},
};

double At(const std::vector<double>& sorted, double share) {
  return sorted.empty() ? 0
                        : sorted[std::min(sorted.size() - 1,
                                          static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

// Times of the masks along the texts.
std::vector<double> Walk(const std::shared_ptr<const TextConstraint>& constraint, const Tokenizer& tokenizer,
                         const Case& one) {
  std::vector<double> times;
  for (const char* text : one.texts) {
    TextMatcher matcher(constraint);
    const std::vector<int32_t> ids = tokenizer.Encode(text, /*parse_special=*/false).value();
    for (const int32_t id : ids) {
      const Clock::time_point begin = Clock::now();
      const auto mask = matcher.Mask().value();
      times.push_back(MicrosecondsSince(begin));
      if (!HasBit(*mask, id)) break;  // the texts are for any vocabulary; some have a first space
      matcher.Accept(id);
    }
  }
  std::sort(times.begin(), times.end());
  return times;
}

void Measure(const char* path) {
  auto spec = ReadVocabulary(path);
  MOEPOOL_CHECK(spec.ok());
  const auto tokenizer = MakeTokenizer(*std::move(spec));
  MOEPOOL_CHECK(tokenizer.ok());
  Clock::time_point begin = Clock::now();
  const auto vocabulary = Vocabulary::Make(**tokenizer);
  MOEPOOL_CHECK(vocabulary.ok());
  std::printf("%s: %d ids, made ready in %.1f ms\n", path, (*vocabulary)->size(),
              MicrosecondsSince(begin) / 1000);
  std::printf("%-12s %10s %6s %28s %28s %9s\n", "", "compile ms", "masks", "first p50/p99/max us",
              "known p50/p99/max us", "KiB");
  for (const Case& one : kCases) {
    const std::string schema = one.schema;
    const absl::StatusOr<std::string> grammar =
        schema.empty() ? JsonObjectGrammar() : JsonSchemaToGrammar(nlohmann::ordered_json::parse(schema));
    MOEPOOL_CHECK(grammar.ok());
    begin = Clock::now();
    const auto constraint = TextConstraint::Make(*grammar, "", false, *vocabulary);
    const double compile = MicrosecondsSince(begin) / 1000;
    MOEPOOL_CHECK(constraint.ok());
    const std::vector<double> first = Walk(*constraint, **tokenizer, one);
    const std::vector<double> known = Walk(*constraint, **tokenizer, one);
    std::printf("%-12s %10.1f %6zu %8.1f %9.1f %9.1f %8.2f %9.2f %9.2f %9zu\n", one.name, compile,
                first.size(), At(first, 0.5), At(first, 0.99), At(first, 1), At(known, 0.5), At(known, 0.99),
                At(known, 1), (*constraint)->bytes() / 1024);
  }
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) moepool::Measure(argv[i]);
  return argc > 1 ? 0 : 2;
}
