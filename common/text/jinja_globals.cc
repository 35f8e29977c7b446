// Global functions.
#include <algorithm>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/jinja_builtins.h"

namespace moepool::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // the sandbox's limit

absl::StatusOr<Value> Range(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"start", "stop", "step"}, 1));
  int64_t start = 0, stop = 0;
  if (bound.Has(1)) {
    MOEPOOL_ASSIGN_OR_RETURN(start, bound.Int(0, 0));
    MOEPOOL_ASSIGN_OR_RETURN(stop, bound.Int(1, 0));
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(stop, bound.Int(0, 0));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int64_t step, bound.Int(2, 1));
  if (step == 0) return TypeError("range() arg 3 must not be zero");
  // In unsigned arithmetic, which holds the distance of any two 64-bit integers.
  const bool up = step > 0;
  const uint64_t distance = up ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                               : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
  const uint64_t stride = up ? static_cast<uint64_t>(step) : -static_cast<uint64_t>(step);
  const uint64_t count = (up ? stop <= start : start <= stop) ? 0 : (distance - 1) / stride + 1;
  if (count > kMaxRange) return TypeError(StrCat("range of ", count, " items, more than ", kMaxRange));
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(count)));
  ListData range{ListKind::kRange, 1, {}, start, stop, step};
  range.items.reserve(count);
  for (uint64_t i = 0; i < count; ++i) range.items.push_back(Value(start + static_cast<int64_t>(i) * step));
  return Value(std::make_shared<const ListData>(std::move(range)));
}

// Pairs of a mapping, or of a sequence of pairs, then the named arguments.
absl::StatusOr<std::vector<std::pair<Value, Value>>> DictEntries(Runtime& runtime, const Args& args) {
  std::vector<std::pair<Value, Value>> entries;
  if (args.positional.size() > 1) return TypeError("expected at most 1 positional argument");
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(runtime, from));
    if (from.IsDict()) {
      entries = from.AsDict().entries;
    } else {
      for (const Value& item : items) {
        MOEPOOL_ASSIGN_OR_RETURN(const std::vector<Value> pair, Items(runtime, item));
        if (pair.size() != 2) return TypeError("a dict is made of pairs");
        entries.emplace_back(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) entries.emplace_back(Value::String(name), value);
  return entries;
}

absl::StatusOr<Value> Dict(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(auto entries, DictEntries(runtime, args));
  return runtime.NewDict(std::move(entries));
}

absl::StatusOr<Value> MakeNamespace(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto entries, DictEntries(runtime, args));
  MOEPOOL_RETURN_IF_ERROR(runtime.Charge(static_cast<int64_t>(entries.size())));
  MOEPOOL_ASSIGN_OR_RETURN(Namespace * names, runtime.New<Namespace>());
  for (const auto& [key, value] : entries) {
    if (!key.IsString()) return TypeError("attributes of a namespace are strings");
    MOEPOOL_RETURN_IF_ERROR(names->Set(key.AsString(), value));
  }
  return Value(static_cast<Object*>(names));
}

class Cycler : public Object {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view TypeName() const override { return "Cycler"; }
  absl::StatusOr<Value> GetAttribute(Runtime& runtime, std::string_view name) override {
    if (name == "current") return items_[at_];
    if (name != "next" && name != "reset") return Object::GetAttribute(runtime, name);
    const bool next = name == "next";
    auto body = [this, next](Runtime&, const Args&) -> absl::StatusOr<Value> {
      const Value current = next ? items_[at_] : Value::None();
      at_ = next ? (at_ + 1) % items_.size() : 0;
      return current;
    };
    MOEPOOL_ASSIGN_OR_RETURN(Object * function, runtime.New<Function>(std::string(name), body));
    return Value(function);
  }

 private:
  const std::vector<Value> items_;
  size_t at_ = 0;
};

absl::StatusOr<Value> MakeCycler(Runtime& runtime, const Args& args) {
  if (args.positional.empty()) return TypeError("cycler() needs at least one item");
  MOEPOOL_ASSIGN_OR_RETURN(Object * cycler, runtime.New<Cycler>(args.positional));
  return Value(cycler);
}

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string_view TypeName() const override { return "Joiner"; }
  bool IsCallable() const override { return true; }
  absl::StatusOr<Value> Call(Runtime&, const Args&) override {
    return std::exchange(used_, true) ? separator_ : Value::String("");
  }

 private:
  const Value separator_;
  bool used_ = false;
};

absl::StatusOr<Value> MakeJoiner(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"sep"}));
  MOEPOOL_ASSIGN_OR_RETURN(Object * joiner, runtime.New<Joiner>(bound.Or(0, Value::String(", "))));
  return Value(joiner);
}

absl::StatusOr<Value> RaiseException(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"message"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string message, ToText(runtime, bound[0]));
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<Value> StrftimeNow(Runtime& runtime, const Args& args) {
  MOEPOOL_ASSIGN_OR_RETURN(const BoundArgs bound, BoundArgs::Bind(args, {"format"}, 1));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string format, bound.String(0, ""));
  // One specifier of three bytes may become tens of bytes; a width could become more, so there is none.
  constexpr size_t kMaxFormatBytes = 1024;
  if (format.size() > kMaxFormatBytes) return TypeError(StrCat("time format of ", format.size(), " bytes"));
  for (size_t i = 0; i + 1 < format.size(); ++i) {
    if (format[i] == '%' && format[i + 1] >= '0' && format[i + 1] <= '9')
      return TypeError("time format with a width");
    if (format[i] == '%') ++i;
  }
  return runtime.NewString(absl::FormatTime(format, runtime.now(), absl::LocalTimeZone()));
}

}  // namespace

absl::Status AddGlobals(Runtime& runtime, std::map<std::string, Value, std::less<>>* variables) {
  using Body = absl::StatusOr<Value> (*)(Runtime&, const Args&);
  static constexpr std::pair<std::string_view, Body> kGlobals[] = {
      {"range", Range},
      {"dict", Dict},
      {"namespace", MakeNamespace},
      {"cycler", MakeCycler},
      {"joiner", MakeJoiner},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  for (const auto& [name, body] : kGlobals) {
    MOEPOOL_ASSIGN_OR_RETURN(Object * function, runtime.New<Function>(std::string(name), body));
    (*variables)[std::string(name)] = Value(function);
  }
  return absl::OkStatus();
}

}  // namespace moepool::jinja
