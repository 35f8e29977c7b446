#include "gateway/json_fields.h"

#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/cord.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

constexpr char kFieldPayload[] = "moepool/field";
constexpr int kMaxJsonDepth = 32;
constexpr int64_t kMaxJsonValues = 100'000;

// Depth and number of values of a text that need not be valid, so that the parser builds nothing large or
// deep.
absl::Status CheckJsonSize(std::string_view body) {
  int depth = 0;
  int64_t values = 1;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == ',' || c == '[' || c == '{') ++values;
    if (depth > kMaxJsonDepth)
      return absl::InvalidArgumentError(absl::StrCat("JSON deeper than ", kMaxJsonDepth, " levels"));
    if (values > kMaxJsonValues) {
      return absl::InvalidArgumentError(absl::StrCat("JSON of more than ", kMaxJsonValues, " values"));
    }
  }
  return absl::OkStatus();
}

// Builds the value, and looks for a key that stands twice in one object. The library's own builder of ordered
// objects compares each key with all before it, which a body of 100,000 keys would make a matter of seconds.
class Builder : public nlohmann::json_sax<ordered_json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t& value) override { return Add(std::move(value)); }
  bool start_array(size_t) override { return Open(ordered_json::array()); }
  bool end_array() override { return Close(); }
  bool start_object(size_t) override { return Open(ordered_json::object()); }
  bool end_object() override { return Close(); }
  bool key(string_t& key) override {
    Level& level = open_.back();
    level.key = key;
    if (!level.keys.insert(key).second && repeated_.empty()) repeated_ = Path();
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    if (e.id == 406) {  // a number beyond f64
      error_ = "the body is not valid JSON: a number is out of range";
      return false;
    }
    const bool utf8 = std::string_view(e.what()).find("UTF-8") != std::string_view::npos;
    error_ = absl::StrCat(utf8 ? "the body is not valid UTF-8" : "the body is not valid JSON", ", at byte ",
                          position);
    return false;
  }

  const std::string& error() const { return error_; }
  const std::string& repeated() const { return repeated_; }  // path of the first; empty where there is none
  ordered_json Take() { return std::move(root_); }

 private:
  struct Level {
    ordered_json* value;
    absl::flat_hash_set<std::string> keys;
    std::string key;  // the last
  };

  // Where a value ended up. A container that grows moves its values, but only the last one of each level is
  // pointed to, and that level grows no more until it is closed.
  template <typename V>
  ordered_json* Place(V&& value) {
    if (open_.empty()) {
      root_ = std::forward<V>(value);
      return &root_;
    }
    Level& level = open_.back();
    if (level.value->is_array()) {
      auto& array = level.value->get_ref<ordered_json::array_t&>();
      return &array.emplace_back(std::forward<V>(value));
    }
    using Members = ordered_json::object_t::Container;
    Members& members = level.value->get_ref<ordered_json::object_t&>();
    return &members.emplace_back(level.key, ordered_json(std::forward<V>(value))).second;
  }
  template <typename V>
  bool Add(V&& value) {
    Place(std::forward<V>(value));
    return true;
  }
  bool Open(ordered_json value) {
    ordered_json* const place = Place(std::move(value));
    open_.push_back({place, {}, {}});
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  std::string Path() const {
    std::string path;
    for (const Level& level : open_) {
      if (level.value->is_object()) {
        absl::StrAppend(&path, path.empty() ? "" : ".", level.key.substr(0, kMaxShownKeyBytes));
      }
    }
    return path;
  }

  ordered_json root_;
  std::vector<Level> open_;
  std::string repeated_;
  std::string error_;
};

}  // namespace

absl::Status InvalidField(const std::string& field, const std::string& message) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, " ", message));
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

std::string FieldOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  return payload.has_value() ? std::string(*payload) : std::string();
}

absl::StatusOr<ordered_json> ParseJson(std::string_view body) {
  MOEPOOL_RETURN_IF_ERROR(CheckJsonSize(body));
  Builder builder;
  if (!ordered_json::sax_parse(body, &builder)) return absl::InvalidArgumentError(builder.error());
  if (!builder.repeated().empty()) return InvalidField(builder.repeated(), "is given twice");
  return builder.Take();
}

std::string ShownJson(const ordered_json& value) {
  if (value.is_number() || value.is_boolean()) return value.dump();
  return value.type_name();
}

absl::Status ReadJson(const std::string& field, const ordered_json& value, bool* out) {
  if (!value.is_boolean()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a boolean"));
  }
  *out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadJson(const std::string& field, const ordered_json& value, double* out) {
  if (!value.is_number()) return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a number"));
  *out = value.get<double>();
  return absl::OkStatus();
}

absl::Status ReadJson(const std::string& field, const ordered_json& value, int32_t* out) {
  if (!value.is_number_integer()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not an integer"));
  }
  constexpr int64_t kMin = std::numeric_limits<int32_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMax);
  if (too_large || value.get<int64_t>() < kMin) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not in [", kMin, ", ", kMax, "]"));
  }
  *out = static_cast<int32_t>(value.get<int64_t>());
  return absl::OkStatus();
}

absl::Status ReadJson(const std::string& field, const ordered_json& value, std::optional<uint64_t>* out) {
  if (!value.is_number_unsigned()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not an integer in [0, 2^64)"));
  }
  *out = value.get<uint64_t>();
  return absl::OkStatus();
}

absl::Status ReadJson(const std::string& field, const ordered_json& value, std::string* out) {
  if (!value.is_string()) return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a string"));
  *out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadStrings(const std::string& field, const ordered_json& value, size_t max_strings,
                         std::vector<std::string>* out) {
  out->clear();
  if (value.is_string()) {
    out->push_back(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a string or a list of strings"));
  }
  if (value.size() > max_strings) {
    return InvalidField(field, absl::StrCat("has ", value.size(), " strings, more than ", max_strings));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    MOEPOOL_RETURN_IF_ERROR(ReadJson(absl::StrCat(field, "[", i, "]"), value[i], &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadIds(const std::string& field, const ordered_json& value, std::vector<int32_t>* out) {
  out->clear();
  if (!value.is_array())
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not a list of ids"));
  for (size_t i = 0; i < value.size(); ++i) {
    MOEPOOL_RETURN_IF_ERROR(ReadJson(absl::StrCat(field, "[", i, "]"), value[i], &out->emplace_back()));
  }
  return absl::OkStatus();
}

}  // namespace moepool
