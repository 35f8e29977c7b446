// Templates that would run for ever, fill memory or overflow the stack end with a status instead.
#include "common/text/chat_template.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;

std::string Repeat(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

absl::StatusCode Outcome(const std::string& source, ChatTemplateLimits limits = {},
                         const Json& variables = Json::object()) {
  const auto parsed = ChatTemplate::Parse(source, limits);
  if (!parsed.ok()) return parsed.status().code();
  return (*parsed)->Render(variables, absl::FromUnixSeconds(0)).status().code();
}

TEST(ChatTemplateLimits, StepsOutputAndLevelsAreBounded) {
  const std::string nine = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
  for (const std::string& source : {
           nine,
           std::string("{{ 'x' * 10000000000 }}"),
           std::string("{{ [0] * 10000000000 }}"),
           std::string("{{ 'ab' * 9223372036854775807 }}"),
           std::string("{% set ns = namespace(s='abcdefgh') %}{% for i in range(99) %}{% set ns.s = ns.s ~ "
                       "ns.s %}{% endfor %}"),
           std::string("{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l "
                       "%}{% endfor %}"),
           std::string(
               "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"),
           std::string("{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% "
                       "endfor %}{{ ns.l }}"),
           std::string("{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = (ns.l, ns.l) %}{% "
                       "endfor %}{{ {ns.l: 1} }}"),
           std::string("{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% "
                       "endfor %}{{ ns.l|tojson }}"),
           std::string("{% set ns = namespace(l=1) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% "
                       "endfor %}{{ ns.l == [ns.l[0], ns.l[1]] }}"),
           std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
           std::string("{% macro m(n) %}{{ n }}{{ m([n, n]) }}{% endmacro %}{{ m(1) }}"),
           std::string("{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}"),
           std::string("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"),
           std::string("{{ 'a'|center(9999999999) }}"),
           std::string("{{ 'a\nb'|indent(9999999999) }}"),
           std::string("{{ {'a': 1}|tojson(indent=9999999999) }}"),
           std::string("{{ '%999999999d' % 1 }}"),
           std::string("{{ '{:>999999999}'.format('a') }}"),
           std::string("{{ [1]|batch(9999999999, 0)|list }}"),
           std::string("{{ [1]|slice(9999999999)|list }}"),
           std::string("{{ 'a'.ljust(9999999999) }}"),
           std::string("{{ ('a' * 4000000).replace('', 'bbbb') }}"),
           std::string("{% for i in range(99999) %}{{ ('ab' * 4000000).rfind('bb' * 100000) }}{% endfor %}"),
           std::string("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}"),
           std::string("{{ 'a'|map(*['map'] * 90000)|list }}"),
       }) {
    SCOPED_TRACE(source);
    EXPECT_EQ(Outcome(source), absl::StatusCode::kResourceExhausted);
  }
}

TEST(ChatTemplateLimits, DeepSourceIsRefusedByTheParser) {
  constexpr int kTimes = 100'000;
  for (const std::string& source : {
           "{{ " + Repeat("(", kTimes) + "1" + Repeat(")", kTimes) + " }}",
           "{{ " + Repeat("[", kTimes) + Repeat("]", kTimes) + " }}",
           "{{ " + Repeat("{1:", kTimes) + "1" + Repeat("}", kTimes) + " }}",
           "{{ " + Repeat("not ", kTimes) + "1 }}",
           "{{ " + Repeat("-", kTimes) + "1 }}",
           "{{ 1" + Repeat("+1", kTimes) + " }}",
           "{{ 1" + Repeat("**1", kTimes) + " }}",
           "{{ x" + Repeat(".x", kTimes) + " }}",
           "{{ x" + Repeat("[0]", kTimes) + " }}",
           "{{ x" + Repeat("()", kTimes) + " }}",
           "{{ x" + Repeat("|trim", kTimes) + " }}",
           "{{ 1" + Repeat(" if 1", kTimes) + " }}",
           "{{ 1" + Repeat(" if 0 else 1", kTimes) + " }}",
           "{{ x" + Repeat("(x", kTimes) + Repeat(")", kTimes) + " }}",
           "{{ x" + Repeat(" is eq (x", kTimes) + Repeat(")", kTimes) + " }}",
           Repeat("{% if x %}", kTimes),
           Repeat("{% for x in y %}", kTimes),
           Repeat("{% macro m() %}", kTimes),
           "{% set " + Repeat("(", kTimes) + "a" + Repeat(")", kTimes) + " = 1 %}",
       }) {
    SCOPED_TRACE(source.substr(0, 40));
    EXPECT_EQ(ChatTemplate::Parse(source).status().code(), absl::StatusCode::kInvalidArgument);
  }
  // Wide is not deep.
  EXPECT_EQ(Outcome("{{ 1" + Repeat("~1", 9999) + " }}"), absl::StatusCode::kOk);
  EXPECT_EQ(Outcome("{{ 1" + Repeat(" and 1", 9999) + " }}"), absl::StatusCode::kOk);
  EXPECT_EQ(Outcome("{% if x %}" + Repeat("{% elif x %}", 9999) + "{% endif %}"), absl::StatusCode::kOk);
}

TEST(ChatTemplateLimits, WhatTheParserAllowsTheEvaluatorSurvives) {
  const std::string deep = "{% macro m() %}" + Repeat("{% if 1 %}", 40) + "{{ " + Repeat("(", 20) + "[m()]" +
                           Repeat(")", 20) + " }}" + Repeat("{% endif %}", 40) + "{% endmacro %}{{ m() }}";
  EXPECT_EQ(Outcome(deep), absl::StatusCode::kResourceExhausted);
  const std::string sums = "{% macro m() %}{{ 1" + Repeat("+1", 90) + " + m()|int }}{% endmacro %}{{ m() }}";
  EXPECT_EQ(Outcome(sums), absl::StatusCode::kResourceExhausted);
}

TEST(ChatTemplateLimits, DeepVariablesAreRefused) {
  Json deep = 1;
  for (int i = 0; i < 200; ++i) deep = Json::array({deep});
  EXPECT_EQ(Outcome("x", {}, {{"v", deep}}), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Outcome("x", {}, Json::array()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Outcome("x", {}, {{"v", 18446744073709551615ull}}), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateLimits, SmallLimitsHold) {
  EXPECT_EQ(Outcome("{{ 'abcd' }}", {.output_bytes = 3}), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Outcome("abcd", {.output_bytes = 4}), absl::StatusCode::kOk);
  EXPECT_EQ(Outcome("{{ 1 }}{{ 2 }}", {.steps = 113}), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Outcome("{{ 1 }}", {.steps = 200}), absl::StatusCode::kOk);
  EXPECT_EQ(Outcome("{{ [[[[1]]]] }}", {.depth = 3}), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateLimits, IntegersDoNotWrap) {
  for (const char* const source :
       {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 4611686018427387904 * 2 }}",
        "{{ 2 ** 63 }}", "{{ 9223372036854775808 }}", "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ -(-9223372036854775807 - 1) }}", "{{ '9223372036854775808'|int }}", "{{ 1e300|int }}",
        "{{ (-9223372036854775807 - 1)|abs }}"}) {
    SCOPED_TRACE(source);
    EXPECT_EQ(Outcome(source), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Outcome("{{ range(-9223372036854775807, 9223372036854775807, 9223372036854775807)|list }}"
                    "{{ 'abc'[::-9223372036854775807] }}{{ [1, 2][9223372036854775807:] }}{{ "
                    "'a'[-9223372036854775807:] }}"),
            absl::StatusCode::kOk);
}

}  // namespace
}  // namespace moepool
