// The filters, tests, methods and global functions of the language, found by name.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/jinja_runtime.h"

namespace moepool::jinja {

// Also the shape of a method, whose input is the object.
using BuiltinFilter = absl::StatusOr<Value> (*)(Runtime& runtime, const Value& input, const Args& args);
using BuiltinTest = absl::StatusOr<bool> (*)(Runtime& runtime, const Value& input, const Args& args);

// Null where there is none of this name.
BuiltinFilter FindFilter(std::string_view name);
BuiltinFilter FindTextFilter(std::string_view name);
BuiltinFilter FindListFilter(std::string_view name);
BuiltinFilter FindSelectFilter(std::string_view name);
BuiltinTest FindTest(std::string_view name);
BuiltinFilter FindStringMethod(std::string_view name);
BuiltinFilter FindListMethod(std::string_view name);
BuiltinFilter FindDictMethod(std::string_view name);
// Methods that would change a list or a dict: the sandbox gives undefined for them.
bool IsMutator(const Value& value, std::string_view name);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
absl::Status AddGlobals(Runtime& runtime, std::map<std::string, Value, std::less<>>* variables);

class Function : public Object {
 public:
  using Body = std::function<absl::StatusOr<Value>(Runtime&, const Args&)>;
  Function(std::string name, Body body) : name_(std::move(name)), body_(std::move(body)) {}
  std::string_view TypeName() const override { return "function"; }
  absl::Status AppendRepr(Runtime& runtime, std::string* out) const override;
  bool IsCallable() const override { return true; }
  absl::StatusOr<Value> Call(Runtime& runtime, const Args& args) override { return body_(runtime, args); }

 private:
  const std::string name_;
  const Body body_;
};

class Namespace : public Object {
 public:
  std::string_view TypeName() const override { return "Namespace"; }
  absl::Status AppendRepr(Runtime& runtime, std::string* out) const override;
  absl::StatusOr<Value> GetAttribute(Runtime& runtime, std::string_view name) override;
  // InvalidArgument for a name that begins with an underscore, as in transformers.
  absl::Status Set(std::string_view name, Value value);

 private:
  std::vector<std::pair<std::string, Value>> attributes_;  // in order of insertion
  std::map<std::string, size_t, std::less<>> index_;
};

// Arguments by position or by name.
class BoundArgs {
 public:
  // InvalidArgument names a missing, unknown or surplus argument; the first `required` must be there.
  static absl::StatusOr<BoundArgs> Bind(const Args& args, std::initializer_list<std::string_view> names,
                                        size_t required = 0);
  bool Has(size_t i) const { return values_[i] != nullptr; }
  const Value& operator[](size_t i) const { return *values_[i]; }
  Value Or(size_t i, Value otherwise) const { return Has(i) ? *values_[i] : otherwise; }
  bool True(size_t i, bool otherwise) const { return Has(i) ? IsTrue(*values_[i]) : otherwise; }
  // InvalidArgument where the value has another type.
  absl::StatusOr<int64_t> Int(size_t i, int64_t otherwise) const;
  absl::StatusOr<std::string> String(size_t i, std::string_view otherwise) const;

 private:
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;  // into the Args
};

// By name, for `map`, `select` and their like. InvalidArgument where there is none of this name.
absl::StatusOr<Value> CallFilter(Runtime& runtime, const std::string& name, const Value& input,
                                 const Args& args);
absl::StatusOr<bool> CallTest(Runtime& runtime, const std::string& name, const Value& input,
                              const Args& args);
// `path` is an integer, or names and integers separated by dots; an undefined result gives `otherwise` if not
// null.
absl::StatusOr<Value> GetPath(Runtime& runtime, const Value& value, const Value& path,
                              const Value* otherwise = nullptr);

std::string EscapeHtml(std::string_view text);
// `text % arguments` and str.format.
absl::StatusOr<Value> FormatPercent(Runtime& runtime, const std::string& text, const Value& arguments);
absl::StatusOr<Value> FormatBraces(Runtime& runtime, const std::string& text, const Args& args);

}  // namespace moepool::jinja
