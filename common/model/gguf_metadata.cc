// See gguf_metadata.h.
#include "common/model/gguf_metadata.h"

#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/utf8.h"

namespace moepool {
namespace {

constexpr size_t kQuotedBytes = 96;
constexpr size_t kRenderedElements = 8;

struct TypeRow {
  std::string_view name;
  size_t bytes;
};
constexpr TypeRow kTypes[kGgufTypeCount] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

std::string TypeOf(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value))
    return StrCat("array of ", Name(array->element));
  return std::string(Name(value.type));
}

absl::Status WrongType(std::string_view key, std::string_view found, std::string_view wanted) {
  return absl::InvalidArgumentError(
      StrCat("key ", Quoted(key), " is of type ", found, ", expected ", wanted));
}

absl::Status Absent(std::string_view key) {
  return absl::NotFoundError(StrCat("key ", Quoted(key), " is missing"));
}

template <typename T>
T LoadElement(const GgufArray& array, uint64_t index) {
  T value;
  std::memcpy(&value, array.raw.data() + index * sizeof(T), sizeof(T));
  return value;
}

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kF64:
    case GgufType::kBool:
    case GgufType::kString:
    case GgufType::kArray:
      return false;
    default:
      return true;
  }
}

// Element of an array of integers; false where a u64 exceeds int64.
bool IntElement(const GgufArray& array, uint64_t i, int64_t* out) {
  switch (array.element) {
    case GgufType::kU8:
      *out = LoadElement<uint8_t>(array, i);
      return true;
    case GgufType::kI8:
      *out = LoadElement<int8_t>(array, i);
      return true;
    case GgufType::kU16:
      *out = LoadElement<uint16_t>(array, i);
      return true;
    case GgufType::kI16:
      *out = LoadElement<int16_t>(array, i);
      return true;
    case GgufType::kU32:
      *out = LoadElement<uint32_t>(array, i);
      return true;
    case GgufType::kI32:
      *out = LoadElement<int32_t>(array, i);
      return true;
    default:
      *out = LoadElement<int64_t>(array, i);
      return array.element == GgufType::kI64 || *out >= 0;
  }
}

std::string RenderElement(const GgufArray& array, uint64_t i) {
  switch (array.element) {
    case GgufType::kString:
      return Quoted(array.strings[i]);
    case GgufType::kF32:
      return StrCat(LoadElement<float>(array, i));
    case GgufType::kF64:
      return StrCat(LoadElement<double>(array, i));
    case GgufType::kBool:
      return LoadElement<uint8_t>(array, i) != 0 ? "true" : "false";
    case GgufType::kU64:
      return StrCat(LoadElement<uint64_t>(array, i));
    default: {
      int64_t value = 0;
      IntElement(array, i, &value);
      return StrCat(value);
    }
  }
}

// `value`, or `absent` where it is NotFound.
template <typename T>
absl::StatusOr<T> Or(absl::StatusOr<T> value, T absent) {
  if (absl::IsNotFound(value.status())) return absent;
  return value;
}

}  // namespace

std::string_view Name(GgufType type) { return kTypes[static_cast<uint32_t>(type)].name; }
size_t ScalarBytes(GgufType type) { return kTypes[static_cast<uint32_t>(type)].bytes; }

// Messages end in JSON, which takes neither control characters nor what is not UTF-8.
std::string Quoted(std::string_view name) {
  std::string out = "'";
  size_t i = 0;
  while (i < name.size() && i < kQuotedBytes) {
    const Utf8Step step = NextUtf8(name.substr(i));
    const bool control = static_cast<uint8_t>(name[i]) < 0x20 || name[i] == 0x7f;
    if (step.kind != Utf8Kind::kCharacter || control) {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint8_t>(name[i++]));
    } else {
      out += name.substr(i, static_cast<size_t>(step.bytes));
      i += static_cast<size_t>(step.bytes);
    }
  }
  return out + (i < name.size() ? "…'" : "'");
}

std::string Render(const GgufValue& value) {
  if (const auto* u = std::get_if<uint64_t>(&value.value)) return StrCat(*u);
  if (const auto* i = std::get_if<int64_t>(&value.value)) return StrCat(*i);
  if (const auto* f = std::get_if<double>(&value.value)) return StrCat(*f);
  if (const auto* b = std::get_if<bool>(&value.value)) return *b ? "true" : "false";
  if (const auto* s = std::get_if<std::string>(&value.value)) return Quoted(*s);
  const auto& array = std::get<GgufArray>(value.value);
  std::string out = StrCat("[", array.count, " x ", Name(array.element), "] ");
  for (uint64_t i = 0; i < array.count; ++i) {
    if (i == kRenderedElements) return out + ", …";
    if (i > 0) out += ", ";
    out += RenderElement(array, i);
  }
  return out;
}

bool GgufMetadata::Insert(std::string key, GgufValue value) {
  return values_.emplace(std::move(key), std::move(value)).second;
}

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<int64_t> GgufMetadata::Int(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Absent(key);
  if (const auto* i = std::get_if<int64_t>(&value->value)) return *i;
  const auto* u = std::get_if<uint64_t>(&value->value);
  if (u == nullptr) return WrongType(key, TypeOf(*value), "an integer");
  if (*u > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(
        StrCat("key ", Quoted(key), " is ", *u, ", more than ", std::numeric_limits<int64_t>::max()));
  }
  return static_cast<int64_t>(*u);
}

absl::StatusOr<double> GgufMetadata::Float(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Absent(key);
  if (const auto* f = std::get_if<double>(&value->value)) return *f;
  return WrongType(key, TypeOf(*value), "f32 or f64");
}

absl::StatusOr<bool> GgufMetadata::Bool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Absent(key);
  if (const auto* b = std::get_if<bool>(&value->value)) return *b;
  return WrongType(key, TypeOf(*value), "bool");
}

absl::StatusOr<std::string> GgufMetadata::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Absent(key);
  const auto* s = std::get_if<std::string>(&value->value);
  if (s == nullptr) return WrongType(key, TypeOf(*value), "string");
  if (!IsUtf8(*s)) {
    return absl::InvalidArgumentError(StrCat("key ", Quoted(key), " is ", Quoted(*s), ", not UTF-8"));
  }
  return *s;
}

absl::StatusOr<const GgufArray*> GgufMetadata::Array(std::string_view key, std::string_view wanted) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Absent(key);
  if (const auto* array = std::get_if<GgufArray>(&value->value)) return array;
  return WrongType(key, TypeOf(*value), wanted);
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::Ints(std::string_view key) const {
  constexpr std::string_view kWanted = "array of integers";
  MOEPOOL_ASSIGN_OR_RETURN(const GgufArray* array, Array(key, kWanted));
  if (!IsInteger(array->element)) return WrongType(key, StrCat("array of ", Name(array->element)), kWanted);
  std::vector<int64_t> values(array->count);
  for (uint64_t i = 0; i < array->count; ++i) {
    if (!IntElement(*array, i, &values[i])) {
      return absl::InvalidArgumentError(StrCat("key ", Quoted(key), ": element ", i, " is ",
                                               static_cast<uint64_t>(values[i]), ", more than ",
                                               std::numeric_limits<int64_t>::max()));
    }
  }
  return values;
}

absl::StatusOr<std::vector<float>> GgufMetadata::Floats(std::string_view key) const {
  constexpr std::string_view kWanted = "array of f32";
  MOEPOOL_ASSIGN_OR_RETURN(const GgufArray* array, Array(key, kWanted));
  if (array->element != GgufType::kF32)
    return WrongType(key, StrCat("array of ", Name(array->element)), kWanted);
  std::vector<float> values(array->count);
  for (uint64_t i = 0; i < array->count; ++i) values[i] = LoadElement<float>(*array, i);
  return values;
}

absl::StatusOr<std::vector<std::string>> GgufMetadata::Strings(std::string_view key) const {
  constexpr std::string_view kWanted = "array of string";
  MOEPOOL_ASSIGN_OR_RETURN(const GgufArray* array, Array(key, kWanted));
  if (array->element != GgufType::kString)
    return WrongType(key, StrCat("array of ", Name(array->element)), kWanted);
  return array->strings;
}

absl::StatusOr<int64_t> GgufMetadata::IntOr(std::string_view key, int64_t absent) const {
  return Or(Int(key), absent);
}
absl::StatusOr<double> GgufMetadata::FloatOr(std::string_view key, double absent) const {
  return Or(Float(key), absent);
}
absl::StatusOr<bool> GgufMetadata::BoolOr(std::string_view key, bool absent) const {
  return Or(Bool(key), absent);
}
absl::StatusOr<std::string> GgufMetadata::StringOr(std::string_view key, std::string_view absent) const {
  return Or(String(key), std::string(absent));
}

}  // namespace moepool
