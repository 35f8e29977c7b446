// What schemas allow, text by text.
#include "common/constrain/json_schema.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/constrain/matcher.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;

std::shared_ptr<const Vocabulary> Bytes() {
  static const auto* const vocabulary = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    return new std::shared_ptr<const Vocabulary>(Vocabulary::Make(std::move(tokens)).value());
  }();
  return *vocabulary;
}

struct Case {
  const char* schema;
  std::vector<const char*> texts;
  std::vector<const char*> others;
};

class SchemaTest : public testing::TestWithParam<Case> {};

TEST_P(SchemaTest, Allows) {
  const auto grammar = JsonSchemaToGrammar(Json::parse(GetParam().schema));
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  const auto compiled = CompiledGrammar::Make(*grammar, Bytes());
  ASSERT_TRUE(compiled.ok()) << compiled.status() << "\n" << *grammar;
  const auto is_text = [&](const char* text) {
    Matcher matcher(*compiled);
    return matcher.Accept(std::string_view(text)) && matcher.CanEnd();
  };
  for (const char* text : GetParam().texts) EXPECT_TRUE(is_text(text)) << text;
  for (const char* text : GetParam().others) EXPECT_FALSE(is_text(text)) << text;
}

const Case kCases[] = {
    {R"({})",
     {"{}", "[1, -2.5e+3, \"a\"]", "null", "{\"a\":{\"b\":[]}}", "0"},
     {"", "01", "+1", "1.", "{,}", "[1,]", "tru"}},
    {R"({"type":"string"})",
     {R"("")", R"("é😀\n\"\\\/\u00e9")", R"("\uD83D\uDE00")"},
     {R"("\uD83D")", R"("\uD83Dx")", R"("\uDE00")", "\"a\nb\"", R"("\x")", "\"\xFF\"", "\"\xC3\"", "\"a"}},
    {R"({"type":"string","minLength":2,"maxLength":3})",
     {R"("ab")", R"("é你😀")", R"("\u00e9\uD83D\uDE00")"},
     {R"("a")", R"("abcd")", R"("\uD83D\uDE00")"}},
    {R"({"type":"integer"})", {"0", "-7", "123456789012345678"}, {"1.0", "1e3", "00", "1234567890123456789"}},
    {R"({"type":"integer","minimum":5,"maximum":120})",
     {"5", "9", "10", "19", "99", "100", "119", "120"},
     {"4", "121", "05", "-5", "1", "200", "1000"}},
    {R"({"type":"integer","minimum":-15,"maximum":7})",
     {"-15", "-1", "0", "7", "-9", "-10"},
     {"-16", "-0", "8", "-20"}},
    {R"({"type":"integer","exclusiveMinimum":1.5,"exclusiveMaximum":4})", {"2", "3"}, {"1", "4"}},
    {R"({"type":"integer","maximum":-3})", {"-3", "-99"}, {"-2", "0", "3"}},
    {R"({"type":"number","minimum":0,"maximum":1})",
     {"0", "0.5", "1", "1.0", "0.99"},
     {"1.01", "-0.1", "-0", "2"}},
    {R"({"type":"number","exclusiveMinimum":0,"maximum":2.55})",
     {"0.01", "2.55", "2.550", "2.549", "1.999", "2.5"},
     {"0", "0.0", "2.56", "2.6", "2.5501", "3"}},
    {R"({"type":"number","minimum":-1.5})",
     {"-1.5", "-1.49", "100", "0", "-0.7", "3.25"},
     {"-1.51", "-2", "-1.6"}},
    {R"({"type":"number","minimum":0.0001,"maximum":1e3})",
     {"0.0001", "1000", "1000.0"},
     {"0.00009", "1000.1", "0"}},
    {R"({"type":"string","pattern":"^[a-z]+@x$"})", {R"("a@x")"}, {R"("@x")", R"("a@xy")"}},
    {R"({"type":"string","pattern":"b"})", {R"("abc")", R"("b")", R"("\n\u00e9b")"}, {R"("ac")"}},
    {R"({"type":"string","pattern":"^(a|bc){2}\\d*?$|z$"})",
     {R"("abc")", R"("aa12")", R"("12z")"},
     {R"("a")", R"("za")"}},
    {R"({"type":"string","pattern":"^[^\\w\\s]\"\\\\$"})", {R"("-\"\\")"}, {R"("a\"\\")", R"("-"\\")"}},
    {R"({"type":"string","pattern":"^\\u{1F600}\\uD83D\\uDE00.$"})", {R"("😀😀x")"}, {R"("😀x")", R"("😀😀\n")"}},
    {R"({"type":"string","format":"date"})",
     {R"("2024-02-29")", R"("2000-02-29")", R"("1999-12-31")"},
     {R"("2023-02-29")", R"("1900-02-29")", R"("2024-13-01")", R"("2024-04-31")", R"("2024-1-1")"}},
    {R"({"type":"string","format":"date-time"})",
     {R"("2024-02-29T23:59:59Z")", R"("2024-02-29T00:00:00.123+01:30")"},
     {R"("2024-02-29")", R"("2024-02-29T24:00:00Z")", R"("2024-02-29T23:59:59")"}},
    {R"({"type":"string","format":"uuid"})",
     {R"("123e4567-e89b-12d3-a456-426614174000")"},
     {R"("123e4567e89b12d3a456426614174000")"}},
    {R"({"type":"string","format":"uuid4"})",
     {R"("123e4567-e89b-42d3-a456-426614174000")"},
     {R"("123e4567-e89b-12d3-a456-426614174000")", R"("123e4567-e89b-42d3-c456-426614174000")"}},
    {R"({"type":"string","format":"byte"})",
     {R"("")", R"("QUJD")", R"("QUI=")", R"("QUJDQQ==")"},
     {R"("QUJ")", R"("QUI==")", R"("Q===")", R"("QU-_")"}},
    {R"({"type":"string","format":"password","minLength":2,"x-order":[1]})", {R"("ab")"}, {R"("a")"}},
    {R"({"type":"string","format":"ipv4"})",
     {R"("192.168.0.255")"},
     {R"("256.1.1.1")", R"("1.2.3")", R"("01.2.3.4")"}},
    {R"({"type":"string","format":"ipv6"})",
     {R"("::1")", R"("2001:db8::7")", R"("1:2:3:4:5:6:7:8")"},
     {R"("1:2:3")", R"("::1::")"}},
    {R"({"type":"string","format":"email"})",
     {R"("a.b+c@example.org")"},
     {R"("a@")", R"("a..b@c")", R"("@c")"}},
    {R"({"enum":["a","ab","é\"",1,null,{"x":[1]}]})",
     {R"("a")", R"("ab")", R"("é\"")", "1", "null", R"({"x":[1]})"},
     {R"("b")", R"("abc")", "2"}},
    {R"({"type":["string","null"],"enum":["a",1,null]})", {R"("a")", "null"}, {"1"}},
    {R"({"const":{"a":1}})", {R"({"a":1})"}, {R"({"a":2})"}},
    {R"({"type":["integer","null"],"maximum":3})", {"3", "null"}, {"4"}},
    {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"},"c":{"type":"null"}},"required":["b"]})",
     {R"({"a": 1,"b":true,"c":null})", R"({"b":false})", "{\n  \"b\": true\n}", R"({"b":true,"c":null})"},
     {R"({})", R"({"a":1})", R"({"b":true,"a":1})", R"({"b":true,})", R"({"b":true,"d":1})",
      R"({"b" :true})"}},
    {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})",
     {"{}", "{ }", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
     {R"({,"b":1})", R"({"a":1 "b":2})"}},
    {R"({"type":"object","properties":{"ab":{"type":"integer"},"\"q\" 😀":true},"additionalProperties":{"type":"string"}})",
     {R"({"ab":1,"x":"y"})", R"({"a":"x"})", R"({"abc":"x","é":"z"})", R"({"\"q\" 😀":1})", R"({"":"x"})"},
     {R"({"ab":"x"})", R"({"x":1})", R"({"a\u0062":"x"})", R"({"x":"y","ab":1})"}},
    {R"({"type":"object"})", {"{}", R"({"a":[],"b":{"c":1}})"}, {"[]", R"({"a"})"}},
    {R"({"type":"object","additionalProperties":{"type":"null"}})",
     {"{}", R"({"a":null,"b":null})"},
     {R"({"a":1})"}},
    {R"({"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":2})",
     {R"({"x":1})", R"({"\"":1,"y":2})"},
     {"{}", R"({"x":1,"y":2,"z":3})", R"({"x":"1"})"}},
    {R"({"type":"object","required":["x"],"properties":{"y":false}})",
     {R"({"x":[]})"},
     {"{}", R"({"y":1,"x":1})"}},
    {R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3})",
     {"[1,2]", "[ 1, 2, 3 ]", "[\n  1,\n  2\n]"},
     {"[]", "[1]", "[1,2,3,4]", "[1,,2]", "[1,2,]"}},
    {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"minItems":1,"items":{"type":"null"},"maxItems":3})",
     {"[1]", R"([1,"a"])", R"([1,"a",null])"},
     {"[]", R"(["a"])", R"([1,"a",null,null])", "[1,null]"}},
    {R"({"type":"array","prefixItems":[{"type":"integer"}]})", {"[]", "[1]"}, {"[1,2]"}},
    {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
    {R"({"anyOf":[{"type":"string"},{"type":"null"}]})", {R"("x")", "null"}, {"1"}},
    {R"({"type":"object","properties":{"k":{"type":"string"}},"required":["k"],
        "anyOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"const":1}},"required":["b"]}]})",
     {R"({"k":"x","a":3})", R"({"k":"x","b":1})"},
     {R"({"k":"x"})", R"({"k":"x","b":2})"}},
    {R"({"oneOf":[{"type":"object","properties":{"t":{"const":"a"},"x":{"type":"integer"}},"required":["t"]},
                  {"type":"object","properties":{"t":{"const":"b"}},"required":["t"]}]})",
     {R"({"t":"a","x":1})", R"({"t":"b"})"},
     {R"({"t":"c"})", R"({"t":"b","x":1})"}},
    {R"({"discriminator":{"propertyName":"t","mapping":{"a":"#/$defs/A","b":"#/$defs/B"}},
        "oneOf":[{"$ref":"#/$defs/A"},{"$ref":"#/$defs/B"}],"$defs":{
        "A":{"type":"object","properties":{"t":{"const":"a","type":"string"}},"required":["t"],"title":"A"},
        "B":{"type":"object","properties":{"t":{"const":"b","type":"string"}},"required":["t"],"title":"B"}}})",
     {R"({"t":"a"})", R"({"t":"b"})"},
     {R"({"t":"c"})"}},
    {R"({"allOf":[{"type":"integer","minimum":3},{"maximum":9,"minimum":1}]})", {"3", "9"}, {"1", "10"}},
    {R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},
        "c":{"type":"array","items":{"$ref":"#/$defs/n"}}},"required":["v","c"],"additionalProperties":false}}})",
     {R"({"v":1,"c":[]})", R"({"v":1,"c":[{"v":2,"c":[{"v":3,"c":[]}]}]})"},
     {R"({"v":1,"c":[1]})", R"({"v":1})"}},
    {R"({"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"]})",
     {R"({"next":{"next":null}})"},
     {R"({"next":1})"}},
    {R"({"definitions":{"a/b~c":{"type":"null"}},"properties":{"x":{"description":"x","$ref":"#/definitions/a~1b~0c"}},
        "type":"object","title":"T","default":{},"examples":[1],"$schema":"x"})",
     {R"({"x":null})"},
     {R"({"x":1})"}},
};

INSTANTIATE_TEST_SUITE_P(Schemas, SchemaTest, testing::ValuesIn(kCases));

TEST(SchemaErrorTest, NameTheKeywordAndItsPlace) {
  const std::pair<const char*, std::vector<const char*>> kErrors[] = {
      {R"({"not":{}})", {"\"not\"", "#:", "not supported"}},
      {R"({"type":"object","properties":{"a/b":{"type":"array","items":{"multipleOf":2}}}})",
       {"multipleOf", "#/properties/a~1b/items"}},
      {R"({"type":"object","patternProperties":{}})", {"patternProperties"}},
      {R"({"type":"array","uniqueItems":true})", {"uniqueItems"}},
      {R"({"type":"array","contains":{}})", {"contains"}},
      {R"({"if":{},"then":{}})", {"\"if\""}},
      {R"({"type":"strin"})", {"type", "strin"}},
      {R"({"type":"string","format":"idn-email"})", {"format", "idn-email", "date-time"}},
      {R"j({"type":"string","pattern":"(?=a)"})j", {"pattern", "look-around"}},
      {R"({"type":"string","pattern":"(a)\\1"})", {"pattern", "escape"}},
      {R"({"type":"string","pattern":"a^b"})", {"pattern", "^"}},
      {R"({"type":"string","pattern":"a{2"})", {"pattern", "expected }"}},
      {R"({"type":"string","pattern":"a","minLength":3})", {"pattern", "minLength"}},
      {R"({"type":"string","minLength":-1})", {"minLength", "-1"}},
      {R"({"type":"string","minLength":3,"maxLength":2})", {"maxLength"}},
      {R"({"type":"integer","minimum":3,"maximum":2})", {"minimum", "no number"}},
      {R"({"type":"number","minimum":1e-30})", {"minimum", "digits"}},
      {R"({"$ref":"#/$defs/x"})", {"$ref", "does not exist"}},
      {R"({"$ref":"http://example.org/"})", {"$ref", "outside"}},
      {R"({"$ref":"#"})", {"left-recursive"}},
      {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", {"oneOf", "anyOf"}},
      {R"({"allOf":[{"type":"integer"},{"type":"string"}]})", {"allOf", "type"}},
      {R"({"enum":[]})", {"enum"}},
      {R"({"enum":"a","const":"a"})", {"enum", "list"}},
      {R"({"type":"object","required":"a"})", {"required", "list"}},
      {R"({"enum":["a"],"minLength":2})", {"minLength"}},
      {R"({"type":"object","required":["x"],"additionalProperties":false})", {"required", "x"}},
      {R"({"type":"object","properties":{"a":false},"required":["a"]})",
       {"#/properties/a", "allows nothing"}},
      {R"([])", {"not an object"}},
      {R"({"type":"array","items":[{}]})", {"items", "prefixItems"}},
      {R"({"type":"object","properties":{"a":{"$ref":"#/properties/b"},"b":{"$ref":"#/properties/a"}}})",
       {"left-recursive"}},
  };
  for (const auto& [schema, words] : kErrors) {
    auto grammar = JsonSchemaToGrammar(Json::parse(schema));
    absl::Status status = grammar.status();
    if (grammar.ok()) status = CompiledGrammar::Make(*grammar, Bytes()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << schema;
    for (const char* word : words)
      EXPECT_TRUE(absl::StrContains(status.message(), word)) << status << "\n" << word;
  }
}

TEST(SchemaLimitTest, DeepAndHugeSchemasAreRefusedOrServed) {
  Json deep = {{"type", "null"}};
  for (int i = 0; i < 500; ++i) deep = {{"type", "array"}, {"items", deep}};
  EXPECT_TRUE(absl::StrContains(JsonSchemaToGrammar(deep).status().message(), "nested more than 64"));
  Json wide = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 30'000; ++i) wide["properties"][absl::StrCat("p", i)] = {{"type", "null"}};
  EXPECT_TRUE(absl::StrContains(JsonSchemaToGrammar(wide).status().message(), "too large"));
  Json names = Json::array();
  for (int i = 0; i < 10'000; ++i) names.push_back(absl::StrCat("value number ", i * 7919 % 10'000));
  const auto grammar = JsonSchemaToGrammar({{"enum", names}});
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  Matcher matcher(CompiledGrammar::Make(*grammar, Bytes()).value());
  EXPECT_TRUE(matcher.Accept(std::string_view("\"value number 7919\"")));
  EXPECT_TRUE(matcher.CanEnd());
}

TEST(SchemaLimitTest, ManyNamesAndLongOnesAreRefusedEarly) {
  Json names = Json::array();
  for (int i = 0; i < 200'000; ++i) names.push_back(absl::StrCat("n", i));
  EXPECT_TRUE(
      absl::StrContains(JsonSchemaToGrammar({{"type", "object"}, {"required", names}}).status().message(),
                        "\"required\" at #: is too large"));
  const Json long_name = {{"type", "object"},
                          {"properties", {{std::string(2'000'000, 'a'), true}}},
                          {"additionalProperties", true}};
  const absl::Status refused = JsonSchemaToGrammar(long_name).status();
  EXPECT_TRUE(absl::StrContains(refused.message(), "additionalProperties")) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "20000 rules")) << refused;
}

TEST(SchemaLimitTest, MergesAreBounded) {
  Json schema = {{"allOf", Json::array()}};
  for (int i = 0; i < 10'000; ++i) {
    schema["allOf"].push_back(
        {{"type", "object"}, {"properties", {{absl::StrCat("p", i), {{"type", "null"}}}}}});
  }
  const absl::Status refused = JsonSchemaToGrammar(schema).status();
  EXPECT_TRUE(absl::StrContains(refused.message(), "too large")) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), absl::StrCat(2'000'000))) << refused;
}

TEST(SchemaLimitTest, ManyOptionalPropertiesAreServed) {
  Json schema = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 1000; ++i) schema["properties"][absl::StrCat("property_", i)] = {{"type", "integer"}};
  Matcher matcher(CompiledGrammar::Make(JsonSchemaToGrammar(schema).value(), Bytes()).value());
  EXPECT_TRUE(matcher.Accept(std::string_view("{\"property_3\": 1, \"property_998\":2}")));
  EXPECT_TRUE(matcher.CanEnd());
}

TEST(JsonObjectGrammarTest, IsAnObject) {
  const auto compiled = CompiledGrammar::Make(JsonObjectGrammar(), Bytes()).value();
  Matcher matcher(compiled);
  EXPECT_FALSE(Matcher(compiled).Accept(std::string_view("[")));
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "{\"a\":[";
  ASSERT_TRUE(matcher.Accept(deep));
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(matcher.Accept(std::string_view("]}")));
  EXPECT_TRUE(matcher.CanEnd());
  EXPECT_FALSE(matcher.CanGoOn());
}

}  // namespace
}  // namespace moepool
