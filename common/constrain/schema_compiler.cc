#include "common/constrain/schema_compiler.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/constrain/grammar.h"
#include "common/constrain/json_schema.h"

namespace moepool {
namespace {

constexpr int kMaxSchemaDepth = 64;
constexpr size_t kMaxMergedAlternatives = 256;

constexpr std::string_view kTypes[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

bool HasType(const Json& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number_float() &&
          value.get<double>() ==
              static_cast<double>(static_cast<int64_t>(std::clamp(value.get<double>(), -9e18, 9e18))));
}

bool Constrains(const Json& schema) {
  return std::any_of(schema.items().begin(), schema.items().end(),
                     [](const auto& item) { return !IsAnnotation(item.key()); });
}

Json Without(const Json& schema, const std::string& keyword) {
  Json rest = Json::object();
  for (const auto& [key, value] : schema.items()) {
    if (key != keyword) rest[key] = value;
  }
  return rest;
}

// Values in `value`, as deep as schemas may be.
int64_t CountValues(const Json& value, int depth) {
  int64_t count = 1;
  if (depth > 2 * kMaxSchemaDepth || !value.is_structured()) return count;
  for (const Json& inner : value) count += CountValues(inner, depth + 1);
  return count;
}

int64_t SizeOf(const Json& schema, const char* keyword) {
  return schema.is_object() && schema.contains(keyword) ? static_cast<int64_t>(schema[keyword].size()) : 0;
}

// Names and values that are compared with one another where `a` and `b` are merged or told apart.
int64_t Pairs(const Json& a, const Json& b) {
  return SizeOf(a, "enum") * SizeOf(b, "enum") + SizeOf(a, "required") * SizeOf(b, "required");
}

}  // namespace

absl::Status SchemaError(const std::string& at, std::string_view keyword, std::string_view what) {
  return absl::InvalidArgumentError(StrCat("schema keyword \"", keyword, "\" at ", at, ": ", what));
}

std::string Down(const std::string& at, std::string_view step) {
  return StrCat(at, "/", absl::StrReplaceAll(ToAbsl(step), {{"~", "~0"}, {"/", "~1"}}));
}

std::string JsonText(const Json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

absl::StatusOr<std::string> SchemaCompiler::Value(const Json& schema, const std::string& at, int depth) {
  if (depth > kMaxSchemaDepth) {
    return absl::InvalidArgumentError(
        StrCat("the schema is nested more than ", kMaxSchemaDepth, " deep at ", at));
  }
  if (++places_ > kMaxSchemaPlaces || text_.bytes() > kMaxGrammarBytes) {
    return absl::InvalidArgumentError(StrCat("the schema is too large: more than ", kMaxSchemaPlaces,
                                             " places, or a grammar of more than ", kMaxGrammarBytes,
                                             " bytes"));
  }
  if (schema == true) return text_.Use("value");
  if (schema == false) return absl::InvalidArgumentError(StrCat("the schema at ", at, " allows nothing"));
  if (!schema.is_object()) {
    return absl::InvalidArgumentError(StrCat("the schema at ", at, " is not an object, true or false"));
  }
  for (const auto& [keyword, value] : schema.items()) {
    if (!IsAnnotation(keyword) && !IsKnownKeyword(keyword))
      return SchemaError(at, keyword, "is not supported");
  }
  return Keywords(schema, at, depth);
}

absl::StatusOr<std::string> SchemaCompiler::Keywords(const Json& schema, const std::string& at, int depth) {
  if (schema.contains("$ref")) return Reference(schema, at, depth);
  if (schema.contains("allOf")) return Merged(schema, at, depth);
  for (const char* keyword : {"anyOf", "oneOf"}) {
    if (schema.contains(keyword)) return Alternatives(schema, keyword, at, depth);
  }
  if (schema.contains("const") || schema.contains("enum")) return Values(schema, at);
  std::vector<std::string> types = TypesOf(schema);
  if (schema.contains("type")) {
    if (types.empty()) return SchemaError(at, "type", "names no type");
    for (const std::string& type : types) {
      if (std::find(std::begin(kTypes), std::end(kTypes), type) == std::end(kTypes)) {
        return SchemaError(at, "type", StrCat("\"", type, "\" is not a type"));
      }
    }
  }
  if (types.empty()) return text_.Use("value");
  std::string all;
  for (const std::string& type : types) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::string one, OfType(type, schema, at, depth));
    all += (all.empty() ? "" : " | ") + one;
  }
  return types.size() == 1 ? all : text_.Add(all);
}

absl::StatusOr<std::string> SchemaCompiler::OfType(const std::string& type, const Json& schema,
                                                   const std::string& at, int depth) {
  if (type == "object") return Object(schema, at, depth);
  if (type == "array") return Array(schema, at, depth);
  if (type == "string") return String(schema, at);
  if (type == "number") return Number(schema, /*whole=*/false, at);
  if (type == "integer") return Number(schema, /*whole=*/true, at);
  return text_.Use(type);
}

absl::StatusOr<const Json*> SchemaCompiler::Find(const std::string& reference, const std::string& at) const {
  if (!reference.starts_with('#')) {
    return SchemaError(at, "$ref",
                       StrCat("\"", reference, "\" is outside the schema, which is not supported"));
  }
  const Json* found = &root_;
  std::string_view rest = std::string_view(reference).substr(1);
  while (!rest.empty()) {
    if (rest[0] != '/') return SchemaError(at, "$ref", StrCat("\"", reference, "\" is not a JSON pointer"));
    rest.remove_prefix(1);
    const std::string_view step = rest.substr(0, rest.find('/'));
    rest.remove_prefix(step.size());
    const std::string key = absl::StrReplaceAll(ToAbsl(step), {{"~1", "/"}, {"~0", "~"}, {"%25", "%"}});
    const Json* next = nullptr;
    if (found->is_object() && found->contains(key)) next = &(*found)[key];
    if (found->is_array() && !key.empty() && key.size() < 6 &&
        key.find_first_not_of("0123456789") == std::string::npos) {
      const size_t index = std::stoul(key);
      if (index < found->size()) next = &(*found)[index];
    }
    if (next == nullptr) return SchemaError(at, "$ref", StrCat("\"", reference, "\" does not exist"));
    found = next;
  }
  return found;
}

const Json& SchemaCompiler::Target(const Json& schema) const {
  const Json* target = &schema;
  for (int i = 0; i < kMaxSchemaDepth && target->is_object() && target->contains("$ref"); ++i) {
    const Json& reference = (*target)["$ref"];
    const auto found =
        reference.is_string() ? Find(reference.get<std::string>(), "#") : absl::StatusOr<const Json*>(target);
    if (!found.ok() || *found == target) break;
    target = *found;
  }
  return *target;
}

absl::StatusOr<std::string> SchemaCompiler::Reference(const Json& schema, const std::string& at, int depth) {
  if (!schema["$ref"].is_string()) return SchemaError(at, "$ref", "is not a string");
  const std::string reference = schema["$ref"].get<std::string>();
  MOEPOOL_ASSIGN_OR_RETURN(const Json* target, Find(reference, at));
  const Json siblings = Without(schema, "$ref");
  if (Constrains(siblings)) {
    auto merged = Merge(*target, siblings, at);
    if (!merged.ok()) return SchemaError(at, "$ref", ToStd(merged.status().message()));
    return Value(*merged, at, depth + 1);
  }
  if (const auto known = rules_.find(reference); known != rules_.end()) return known->second;
  const std::string name = text_.Reserve();
  rules_[reference] = name;
  MOEPOOL_ASSIGN_OR_RETURN(const std::string body, Value(*target, reference, depth + 1));
  text_.Define(name, body);
  return name;
}

absl::Status SchemaCompiler::Spend(int64_t work, const std::string& at) {
  work_ += work;
  if (work_ <= kMaxSchemaWork) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the schema is too large: to merge and to tell apart its parts up to ", at, " takes more than ",
             kMaxSchemaWork, " steps"));
}

absl::StatusOr<Json> SchemaCompiler::Merge(const Json& a, const Json& b, const std::string& at) {
  MOEPOOL_RETURN_IF_ERROR(Spend(CountValues(a, 0) + CountValues(b, 0) + Pairs(a, b), at));
  return MergeSchemas(a, b);
}

absl::StatusOr<std::string> SchemaCompiler::Merged(const Json& schema, const std::string& at, int depth) {
  if (!schema["allOf"].is_array() || schema["allOf"].empty()) {
    return SchemaError(at, "allOf", "is not a list of schemas");
  }
  Json merged = Without(schema, "allOf");
  size_t index = 0;
  for (const Json& part : schema["allOf"]) {
    const Json& target = Target(part);
    auto both = Merge(merged, target, at);
    if (!both.ok()) {
      return SchemaError(at, "allOf", StrCat("part ", index, ": ", ToStd(both.status().message())));
    }
    merged = *std::move(both);
    ++index;
  }
  return Value(merged, at, depth + 1);
}

absl::StatusOr<std::string> SchemaCompiler::Alternatives(const Json& schema, const std::string& keyword,
                                                         const std::string& at, int depth) {
  const Json& branches = schema[keyword];
  if (!branches.is_array() || branches.empty()) return SchemaError(at, keyword, "is not a list of schemas");
  const Json base = Without(schema, keyword);
  const bool merges = Constrains(base);
  if (merges && branches.size() > kMaxMergedAlternatives) {
    return SchemaError(at, keyword,
                       StrCat("has ", branches.size(), " schemas beside other keywords, at most ",
                              kMaxMergedAlternatives, " are possible"));
  }
  std::vector<Json> merged;
  std::string all;
  for (size_t i = 0; i < branches.size(); ++i) {
    const std::string branch_at = Down(Down(at, keyword), StrCat(i));
    Expression one;
    if (merges) {
      auto both = Merge(base, Target(branches[i]), at);
      if (!both.ok()) return SchemaError(branch_at, keyword, ToStd(both.status().message()));
      merged.push_back(*std::move(both));
      one = Value(merged.back(), branch_at, depth + 1);
    } else {
      if (keyword == "oneOf") merged.push_back(Target(branches[i]));
      one = Value(branches[i], branch_at, depth + 1);
    }
    if (!one.ok()) return one.status();
    all += (all.empty() ? "" : " | ") + *one;
  }
  if (keyword == "oneOf") {
    if (merged.size() > kMaxMergedAlternatives) {
      return SchemaError(
          at, keyword,
          StrCat("has ", merged.size(), " schemas, at most ", kMaxMergedAlternatives, " are possible"));
    }
    for (size_t i = 0; i < merged.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        MOEPOOL_RETURN_IF_ERROR(Spend(1 + Pairs(merged[i], merged[j]), at));
        if (ExcludeEachOther(merged[i], merged[j])) continue;
        return SchemaError(at, keyword,
                           StrCat("a value could be valid under schemas ", j, " and ", i,
                                  " at once; use anyOf, or give them a property of different "
                                  "constants"));
      }
    }
  }
  return text_.Add(all);
}

absl::StatusOr<std::string> SchemaCompiler::Values(const Json& schema, const std::string& at) {
  const char* keyword = schema.contains("const") ? "const" : "enum";
  if (schema.contains("enum") && !schema["enum"].is_array()) {
    return SchemaError(at, "enum", "is not a list of values");
  }
  Json values = schema[keyword];
  if (schema.contains("const")) {
    values = Json::array({schema["const"]});
    if (schema.contains("enum") &&
        std::find(schema["enum"].begin(), schema["enum"].end(), schema["const"]) == schema["enum"].end()) {
      return SchemaError(at, "const", "is not one of the enum");
    }
  }
  if (!values.is_array() || values.empty()) return SchemaError(at, keyword, "is not a list of values");
  for (const auto& [other, value] : schema.items()) {
    if (!IsAnnotation(other) && other != "type" && other != "enum" && other != "const") {
      return SchemaError(at, other, StrCat("is not supported beside ", keyword));
    }
  }
  const std::vector<std::string> types = TypesOf(schema);
  std::string all;
  for (const Json& value : values) {
    const auto has = [&](const std::string& type) { return HasType(value, type); };
    if (!types.empty() && std::none_of(types.begin(), types.end(), has)) continue;
    all += (all.empty() ? "" : " | ") + GrammarLiteral(JsonText(value));
  }
  if (all.empty()) return SchemaError(at, keyword, "has no value of the type");
  return text_.Add(all);
}

absl::StatusOr<int64_t> SchemaCompiler::Count(const Json& schema, const char* keyword, int64_t otherwise,
                                              const std::string& at) const {
  if (!schema.contains(keyword)) return otherwise;
  const Json& value = schema[keyword];
  if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxGrammarCount) return value.get<int64_t>();
  if (value.is_number_integer() && !value.is_number_unsigned() && value.get<int64_t>() >= 0 &&
      value.get<int64_t>() <= kMaxGrammarCount) {
    return value.get<int64_t>();
  }
  return SchemaError(at, keyword,
                     StrCat("is ", JsonText(value), ", must be an integer from 0 to ", kMaxGrammarCount));
}

absl::StatusOr<std::string> JsonSchemaToGrammar(const Json& schema) {
  GrammarText text;
  MOEPOOL_ASSIGN_OR_RETURN(const std::string root, SchemaCompiler(schema, &text).Compile());
  std::string grammar = text.Finish(root);
  if (grammar.size() > kMaxGrammarBytes) {
    return absl::InvalidArgumentError(StrCat("the schema makes a grammar of ", grammar.size(),
                                             " bytes, at most ", kMaxGrammarBytes, " are possible"));
  }
  return grammar;
}

std::string JsonObjectGrammar() {
  GrammarText text;
  return text.Finish(text.Use("object"));
}

}  // namespace moepool
