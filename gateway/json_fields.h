// Requests as JSON: bounded parsing, and tables of the fields that an object may have, with a reader for
// each. The tables are also what the OpenAPI file is held against.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace moepool {

inline constexpr size_t kMaxShownKeyBytes = 64;  // of a client's key in a message

// InvalidArgument about one field of a request. The field's name is kept for OpenAI's "param".
absl::Status InvalidField(const std::string& field, const std::string& message);
// The field's name, or empty.
std::string FieldOf(const absl::Status& status);

// Bounded parsing of a body: at most 32 levels and 100,000 values; keys stay in the client's order.
// InvalidArgument says where it is malformed, and quotes nothing of the body, or names a key that an object
// has twice.
absl::StatusOr<nlohmann::ordered_json> ParseJson(std::string_view body);

// A value as an error shows it: short, and never text of a prompt.
std::string ShownJson(const nlohmann::ordered_json& value);

// Each reads a value of the type that `out` has, or is InvalidField.
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value, bool* out);
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value, double* out);
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value, int32_t* out);
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value, std::string* out);
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value,
                      std::optional<uint64_t>* out);
template <typename T>
absl::Status ReadJson(const std::string& field, const nlohmann::ordered_json& value, std::optional<T>* out) {
  return ReadJson(field, value, &out->emplace());
}
// A string, or a list of at most max_strings strings.
absl::Status ReadStrings(const std::string& field, const nlohmann::ordered_json& value, size_t max_strings,
                         std::vector<std::string>* out);
// A list of ids; whether they are in the vocabulary is checked where that is known.
absl::Status ReadIds(const std::string& field, const nlohmann::ordered_json& value,
                     std::vector<int32_t>* out);

// One member of an object that becomes a T.
template <typename T>
struct JsonField {
  const char* name;
  std::function<absl::Status(const std::string& field, const nlohmann::ordered_json& value, T* out)> read;
};

template <typename T>
using JsonFields = std::vector<JsonField<T>>;

// A field that ReadJson reads into what `locate` finds in a T.
template <typename T, typename Locate>
JsonField<T> FieldAt(const char* name, Locate locate) {
  return {name, [locate](const std::string& field, const nlohmann::ordered_json& value, T* out) {
            return ReadJson(field, value, locate(*out));
          }};
}

// Fields of a part as fields of the whole.
template <typename T, typename Part>
JsonFields<T> FieldsOfPart(const JsonFields<Part>& fields, Part T::*part) {
  JsonFields<T> lifted;
  for (const JsonField<Part>& field : fields) {
    lifted.push_back(
        {field.name, [read = field.read, part](const std::string& name, const nlohmann::ordered_json& value,
                                               T* out) { return read(name, value, &(out->*part)); }});
  }
  return lifted;
}

template <typename T>
std::vector<std::string> FieldNames(const JsonFields<T>& fields) {
  std::vector<std::string> names;
  for (const JsonField<T>& field : fields) names.push_back(field.name);
  return names;
}

enum class UnknownFields : uint8_t { kRefused, kIgnored };

// Calls the reader of each member. A null is an absent field, whatever it is called. `path` stands before
// names in messages; empty: the object is the body.
template <typename T>
absl::Status ReadObject(const std::string& path, const nlohmann::ordered_json& object,
                        const JsonFields<T>& fields, UnknownFields unknown, T* out) {
  if (!object.is_object()) {
    const std::string shown = absl::StrCat("is ", ShownJson(object), ", not an object");
    return path.empty() ? absl::InvalidArgumentError(absl::StrCat("the body ", shown))
                        : InvalidField(path, shown);
  }
  for (const auto& [key, value] : object.items()) {
    const auto field = std::find_if(fields.begin(), fields.end(),
                                    [&key = key](const JsonField<T>& f) { return f.name == key; });
    const std::string name =
        absl::StrCat(path, path.empty() ? "" : ".", std::string(key).substr(0, kMaxShownKeyBytes));
    if (field == fields.end()) {
      if (unknown == UnknownFields::kIgnored) continue;
      return InvalidField(name, "is not a known field");
    }
    if (value.is_null()) continue;
    if (const absl::Status status = field->read(name, value, out); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace moepool
