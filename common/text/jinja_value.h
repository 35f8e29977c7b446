// Values of the template language, with Python's notions of truth, equality, order, text and representation.
// Lists and dicts never change once made, so they hold no cycles, and each knows its depth, so recursion over
// them is bounded.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace moepool::jinja {

class Object;
class Runtime;
class Value;

struct StringData {
  std::string text;
  bool markup;  // made by `safe` or `escape`: not escaped again
};

enum class ListKind { kList, kTuple, kGroup, kRange, kDictKeys, kDictValues, kDictItems };
struct ListData;
struct DictData;

class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kObject };

  Value() = default;              // undefined
  Value(bool v) : data_(v) {}     // NOLINT: implicit on purpose, as the next ones
  Value(int64_t v) : data_(v) {}  // NOLINT
  Value(double v) : data_(v) {}   // NOLINT
  Value(std::shared_ptr<const ListData> v) : data_(std::move(v)) {}  // NOLINT
  Value(std::shared_ptr<const DictData> v) : data_(std::move(v)) {}  // NOLINT
  Value(Object* v) : data_(v) {}                                     // NOLINT: owned by the Runtime
  template <typename T>
  Value(T*) = delete;  // no pointer becomes a bool
  static Value None() {
    Value v;
    v.data_ = NoneTag();
    return v;
  }
  // `why` is the error of whoever uses the value ("'x' is undefined").
  static Value Undefined(std::string why);
  static Value String(std::string text, bool markup = false) {
    Value v;
    v.data_ = std::make_shared<const StringData>(StringData{std::move(text), markup});
    return v;
  }

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool IsUndefined() const { return kind() == Kind::kUndefined; }
  bool IsNone() const { return kind() == Kind::kNone; }
  bool IsString() const { return kind() == Kind::kString; }
  bool IsList() const { return kind() == Kind::kList; }
  bool IsDict() const { return kind() == Kind::kDict; }
  bool IsObject() const { return kind() == Kind::kObject; }
  bool IsIntegral() const { return kind() == Kind::kInt || kind() == Kind::kBool; }
  bool IsNumber() const { return IsIntegral() || kind() == Kind::kFloat; }

  // Each asks for its kind.
  bool AsBool() const { return std::get<bool>(data_); }
  int64_t AsInt() const { return kind() == Kind::kBool ? AsBool() : std::get<int64_t>(data_); }
  double AsDouble() const {
    return kind() == Kind::kFloat ? std::get<double>(data_) : static_cast<double>(AsInt());
  }
  const std::string& AsString() const { return std::get<StringPtr>(data_)->text; }
  bool IsMarkup() const { return IsString() && std::get<StringPtr>(data_)->markup; }
  const ListData& AsList() const { return *std::get<std::shared_ptr<const ListData>>(data_); }
  const DictData& AsDict() const { return *std::get<std::shared_ptr<const DictData>>(data_); }
  Object* AsObject() const { return std::get<Object*>(data_); }
  std::string UndefinedReason() const;

  std::string_view TypeName() const;  // Python's name of the type
  int Depth() const;                  // of lists and dicts within one another; 0 for anything else
  // Whether both are the same object in memory, or equal scalars.
  bool IsSame(const Value& other) const;

 private:
  struct NoneTag {
    bool operator==(const NoneTag&) const = default;
  };
  using StringPtr = std::shared_ptr<const StringData>;
  std::variant<std::shared_ptr<const std::string>, NoneTag, bool, int64_t, double, StringPtr,
               std::shared_ptr<const ListData>, std::shared_ptr<const DictData>, Object*>
      data_;
};

struct ListData {
  ListKind kind;
  int depth;
  std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // kRange, for its representation
};

// In order of insertion, with an index over the keys.
struct DictData {
  int depth = 1;
  std::vector<std::pair<Value, Value>> entries;
  std::map<std::string, size_t, std::less<>> index;  // by EncodeKey

  // Null where the key is absent.
  const Value* Find(std::string_view string_key) const;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Something with identity: a namespace, a macro, `loop`, an iterator, a function.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view TypeName() const = 0;
  virtual absl::Status AppendRepr(Runtime& runtime, std::string* out) const;
  // Undefined where there is no such attribute.
  virtual absl::StatusOr<Value> GetAttribute(Runtime& runtime, std::string_view name);
  virtual bool IsCallable() const { return false; }
  virtual absl::StatusOr<Value> Call(Runtime& runtime, const Args& args);
  virtual bool IsIterable() const { return false; }
  // What is left to iterate; an iterator is then used up.
  virtual absl::StatusOr<std::vector<Value>> TakeItems(Runtime& runtime);
  virtual absl::StatusOr<int64_t> Length(Runtime& runtime) const;
};

bool IsTrue(const Value& value);
absl::StatusOr<bool> Equal(Runtime& runtime, const Value& a, const Value& b);
// Negative, zero or positive. InvalidArgument between kinds without an order.
absl::StatusOr<int> Compare(Runtime& runtime, const Value& a, const Value& b);
// A text that is equal for equal keys and differs for others. InvalidArgument: the kind cannot be a key.
absl::Status EncodeKey(Runtime& runtime, const Value& key, std::string* out);

// str() and repr(). ResourceExhausted beyond the output limit.
absl::StatusOr<std::string> ToText(Runtime& runtime, const Value& value);
absl::Status AppendText(Runtime& runtime, const Value& value, std::string* out);
absl::Status AppendRepr(Runtime& runtime, const Value& value, std::string* out);
std::string FloatRepr(double value);

struct JsonFormat {
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
// json.dumps. InvalidArgument for what JSON cannot hold.
absl::Status AppendJson(Runtime& runtime, const Value& value, const JsonFormat& format, int level,
                        std::string* out);

}  // namespace moepool::jinja
