// The typed key-value pairs of a GGUF file. A value is read as the type it was written as: a wrong one is an
// error that names the key and both types, never a conversion.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace moepool {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
inline constexpr uint32_t kGgufTypeCount = 13;

std::string_view Name(GgufType type);
// Bytes of a scalar; 0 for strings and arrays.
size_t ScalarBytes(GgufType type);

struct GgufArray {
  GgufType element = GgufType::kU8;
  uint64_t count = 0;
  std::string raw;                   // scalars, as in the file
  std::vector<std::string> strings;  // where element is kString
};

struct GgufValue {
  GgufType type = GgufType::kU8;
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;  // integers by signedness
};

class GgufMetadata {
 public:
  // False where the key is there already.
  bool Insert(std::string key, GgufValue value);
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }
  const GgufValue* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  // NotFound where the key is absent; InvalidArgument where the value has another type (Int: any integer type
  // whose value fits int64; Float: F32 or F64), or is a string that is not UTF-8. The elements of Strings are
  // bytes.
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string> String(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Strings(std::string_view key) const;

  // The same, with a value for an absent key.
  absl::StatusOr<int64_t> IntOr(std::string_view key, int64_t absent) const;
  absl::StatusOr<double> FloatOr(std::string_view key, double absent) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool absent) const;
  absl::StatusOr<std::string> StringOr(std::string_view key, std::string_view absent) const;

 private:
  absl::StatusOr<const GgufArray*> Array(std::string_view key, std::string_view wanted) const;

  std::map<std::string, GgufValue, std::less<>> values_;
};

// A value as a person reads it: long strings and arrays abridged, control bytes escaped.
std::string Render(const GgufValue& value);
// `name` in quotes for a message: escaped, and cut where long.
std::string Quoted(std::string_view name);

}  // namespace moepool
