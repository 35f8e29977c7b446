#include "common/constrain/schema_merge.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::string_view kAnnotations[] = {
    "title",         "description", "default",    "examples",    "example",         "$schema",
    "$id",           "$comment",    "deprecated", "readOnly",    "writeOnly",       "$defs",
    "definitions",   "$anchor",     "strict",     "$vocabulary", "contentEncoding", "contentMediaType",
    "discriminator", "externalDocs"};
constexpr std::string_view kObjectKeywords[] = {"properties", "required", "additionalProperties",
                                                "minProperties", "maxProperties"};
constexpr std::string_view kArrayKeywords[] = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"};
constexpr std::string_view kNumberKeywords[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
constexpr std::string_view kStringKeywords[] = {"minLength", "maxLength", "pattern", "format"};
constexpr std::string_view kOtherKeywords[] = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"};

bool Contains(const auto& list, std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

bool SpeaksOf(const Json& schema, const auto& keywords) {
  return std::any_of(std::begin(keywords), std::end(keywords),
                     [&](std::string_view keyword) { return schema.contains(std::string(keyword)); });
}

absl::Status CannotMerge(std::string_view keyword, std::string_view why) {
  return absl::InvalidArgumentError(
      StrCat("two schemas for one value cannot be merged: ", keyword, " ", why));
}

// Values of an enum or const, or null.
Json ValuesOf(const Json& schema) {
  if (schema.contains("const")) return Json::array({schema["const"]});
  if (schema.contains("enum") && schema["enum"].is_array()) return schema["enum"];
  return nullptr;
}

bool Disjoint(const Json& a, const Json& b) {
  return std::none_of(a.begin(), a.end(),
                      [&](const Json& value) { return std::find(b.begin(), b.end(), value) != b.end(); });
}

absl::StatusOr<Json> MergeTypes(const Json& a, const Json& b) {
  const auto list = [](const Json& type) { return type.is_array() ? type : Json::array({type}); };
  Json both = Json::array();
  for (const Json& one : list(a)) {
    for (const Json& other : list(b)) {
      if (one == other || (one == "integer" && other == "number")) both.push_back(one);
      if (one == "number" && other == "integer") both.push_back(other);
    }
  }
  if (both.empty())
    return CannotMerge("type", StrCat("is ", a.dump(), " in one and ", b.dump(), " in the other"));
  return both;
}

bool IsClosed(const Json& schema) {
  return schema.contains("additionalProperties") && schema["additionalProperties"] == false;
}

// Of two objects' properties. What only one of them knows is valid under the other as an additional property.
absl::Status MergeProperties(const Json& a, const Json& b, Json* out) {
  static const Json kNone = Json::object();
  const Json& of_a = a.contains("properties") ? a["properties"] : kNone;
  const Json& of_b = b.contains("properties") ? b["properties"] : kNone;
  if (!of_a.is_object() || !of_b.is_object()) return CannotMerge("properties", "is not an object");
  // An object that keeps its order looks for each name from its beginning.
  using Index = absl::flat_hash_map<std::string, const Json*>;
  const auto index = [](const Json& properties) {
    Index by_name;
    for (const auto& [name, schema] : properties.items()) by_name.emplace(name, &schema);
    return by_name;
  };
  const Index names_of_a = index(of_a);
  const Index names_of_b = index(of_b);
  Json properties = Json::object();
  const auto put = [&](const std::string& name, Json schema) {
    properties.push_back(Json::object_t::value_type(name, std::move(schema)));
  };
  const auto add = [&](const Json& from, const Index& others, const Json& other_schema) -> absl::Status {
    for (const auto& [name, schema] : from.items()) {
      const auto other = others.find(name);
      if (other != others.end()) {
        if (&from == &of_a) put(name, {{"allOf", Json::array({schema, *other->second})}});
      } else if (IsClosed(other_schema)) {
        return CannotMerge("additionalProperties",
                           StrCat("is false in one, and ", name, " a property of the other alone"));
      } else if (other_schema.contains("additionalProperties") &&
                 other_schema["additionalProperties"].is_object()) {
        put(name, {{"allOf", Json::array({schema, other_schema["additionalProperties"]})}});
      } else {
        put(name, schema);
      }
    }
    return absl::OkStatus();
  };
  MOEPOOL_RETURN_IF_ERROR(add(of_a, names_of_b, b));
  MOEPOOL_RETURN_IF_ERROR(add(of_b, names_of_a, a));
  if (a.contains("properties") || b.contains("properties")) (*out)["properties"] = properties;
  return absl::OkStatus();
}

absl::Status MergeKeyword(const std::string& keyword, const Json& of_b, Json* out) {
  Json& value = (*out)[keyword];
  if (value == of_b) return absl::OkStatus();
  if (keyword == "type") {
    MOEPOOL_ASSIGN_OR_RETURN(value, MergeTypes(value, of_b));
    return absl::OkStatus();
  }
  const bool numbers = value.is_number() && of_b.is_number();
  if (numbers && (keyword.starts_with("min") || keyword == "exclusiveMinimum")) {
    value = std::max(value, of_b);
    return absl::OkStatus();
  }
  if (numbers && (keyword.starts_with("max") || keyword == "exclusiveMaximum")) {
    value = std::min(value, of_b);
    return absl::OkStatus();
  }
  if (keyword == "required" && value.is_array() && of_b.is_array()) {
    for (const Json& name : of_b) {
      if (std::find(value.begin(), value.end(), name) == value.end()) value.push_back(name);
    }
    return absl::OkStatus();
  }
  if (keyword == "enum" && value.is_array() && of_b.is_array()) {
    Json both = Json::array();
    for (const Json& one : value) {
      if (std::find(of_b.begin(), of_b.end(), one) != of_b.end()) both.push_back(one);
    }
    if (both.empty()) return CannotMerge(keyword, "has no value in common");
    value = both;
    return absl::OkStatus();
  }
  if (keyword == "additionalProperties" || keyword == "items") {
    if (value == false || of_b == true) return absl::OkStatus();
    value = value == true || of_b == false ? of_b : Json{{"allOf", Json::array({value, of_b})}};
    return absl::OkStatus();
  }
  return CannotMerge(keyword, "differs");
}

}  // namespace

bool IsAnnotation(std::string_view keyword) {
  return Contains(kAnnotations, keyword) || keyword.starts_with("x-");
}

bool IsKnownKeyword(std::string_view keyword) {
  return Contains(kObjectKeywords, keyword) || Contains(kArrayKeywords, keyword) ||
         Contains(kNumberKeywords, keyword) || Contains(kStringKeywords, keyword) ||
         Contains(kOtherKeywords, keyword);
}

absl::StatusOr<Json> MergeSchemas(const Json& a, const Json& b) {
  if (a == true) return b;
  if (b == true) return a;
  if (!a.is_object() || !b.is_object()) return CannotMerge("one of them", "allows nothing");
  Json out = a;
  MOEPOOL_RETURN_IF_ERROR(MergeProperties(a, b, &out));
  for (const auto& [keyword, value] : b.items()) {
    if (IsAnnotation(keyword) || keyword == "properties") continue;
    if (!out.contains(keyword)) {
      out[keyword] = value;
    } else {
      MOEPOOL_RETURN_IF_ERROR(MergeKeyword(keyword, value, &out));
    }
  }
  return out;
}

std::vector<std::string> TypesOf(const Json& schema) {
  std::vector<std::string> types;
  if (!schema.is_object()) return types;
  if (schema.contains("type")) {
    const Json& type = schema["type"];
    for (const Json& one : type.is_array() ? type : Json::array({type})) {
      if (one.is_string()) types.push_back(one.get<std::string>());
    }
    return types;
  }
  if (SpeaksOf(schema, kObjectKeywords)) types.emplace_back("object");
  if (SpeaksOf(schema, kArrayKeywords)) types.emplace_back("array");
  if (SpeaksOf(schema, kNumberKeywords)) types.emplace_back("number");
  if (SpeaksOf(schema, kStringKeywords)) types.emplace_back("string");
  return types;
}

bool ExcludeEachOther(const Json& a, const Json& b) {
  if (!a.is_object() || !b.is_object()) return false;
  const Json values_a = ValuesOf(a);
  const Json values_b = ValuesOf(b);
  if (values_a.is_array() && values_b.is_array()) return Disjoint(values_a, values_b);
  // Types that are named: those that are inferred leave others open.
  if (a.contains("type") && b.contains("type")) {
    if (!MergeTypes(a["type"], b["type"]).ok()) return true;
  }
  if (a.value("type", Json()) != "object" || b.value("type", Json()) != "object") return false;
  const auto required = [](const Json& schema) {
    return schema.contains("required") && schema["required"].is_array() ? schema["required"] : Json::array();
  };
  const auto property = [](const Json& schema, const Json& name) -> Json {
    if (!name.is_string() || !schema.contains("properties") || !schema["properties"].is_object())
      return nullptr;
    const Json& properties = schema["properties"];
    const auto found = properties.find(name.get<std::string>());
    return found == properties.end() ? Json() : *found;
  };
  for (const Json& name : required(a)) {
    const Json other = required(b);
    if (std::find(other.begin(), other.end(), name) == other.end()) continue;
    const Json one_values = ValuesOf(property(a, name).is_object() ? property(a, name) : Json::object());
    const Json other_values = ValuesOf(property(b, name).is_object() ? property(b, name) : Json::object());
    if (one_values.is_array() && other_values.is_array() && Disjoint(one_values, other_values)) return true;
  }
  // What is made for a schema has the properties that it names and no others, unless it asks for more.
  const auto lacks = [&](const Json& maker, const Json& other) {
    if (maker.contains("additionalProperties") && maker["additionalProperties"] != false) return false;
    const Json names = required(other);
    return maker.contains("properties") && std::any_of(names.begin(), names.end(), [&](const Json& name) {
             const Json own = required(maker);
             return property(maker, name).is_null() && std::find(own.begin(), own.end(), name) == own.end();
           });
  };
  return lacks(a, b) && lacks(b, a);
}

}  // namespace moepool
