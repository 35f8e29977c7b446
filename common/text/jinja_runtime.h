// What one rendering may spend and what it owns. Every loop over data charges steps here before it runs, and
// every object with identity lives here until the end, because namespaces may refer to one another in cycles.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/text/chat_template.h"
#include "common/text/jinja_value.h"

namespace moepool::jinja {

class Runtime {
 public:
  Runtime(const ChatTemplateLimits& limits, absl::Time now)
      : limits_(limits), now_(now), steps_left_(limits.steps) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const ChatTemplateLimits& limits() const { return limits_; }
  absl::Time now() const { return now_; }

  // ResourceExhausted once the steps are spent.
  absl::Status Charge(int64_t steps);
  // For text that is about to be read or written: one step for 32 bytes. ResourceExhausted also where `bytes`
  // exceeds the output limit, which no single string may.
  absl::Status ChargeBytes(size_t bytes);
  absl::Status CheckSize(size_t bytes) const;

  absl::StatusOr<Value> NewString(std::string text, bool markup = false);
  absl::StatusOr<Value> NewList(std::vector<Value> items, ListKind kind = ListKind::kList);
  // Later entries replace the values of earlier ones with an equal key.
  absl::StatusOr<Value> NewDict(std::vector<std::pair<Value, Value>> entries);
  // Single use, as Python's generators are.
  absl::StatusOr<Value> NewIterator(std::vector<Value> items);

  template <typename T, typename... A>
  absl::StatusOr<T*> New(A&&... args) {
    if (absl::Status status = Charge(16); !status.ok()) return status;
    auto owned = std::make_unique<T>(std::forward<A>(args)...);
    T* const object = owned.get();
    objects_.push_back(std::move(owned));
    return object;
  }

  // One level of recursion, left when the guard goes. The stack of the thread bounds how many there may be: a
  // level is a few hundred bytes of frames, more under a sanitizer.
  class Level {
   public:
    explicit Level(Runtime& runtime) : runtime_(runtime) { ++runtime_.level_; }
    ~Level() { --runtime_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    absl::Status Check() const;

   private:
    Runtime& runtime_;
  };

 private:
  static constexpr int kLevelsOfDepth = 8;  // expressions and statements nested in one call of a macro

  const ChatTemplateLimits limits_;
  const absl::Time now_;
  int64_t steps_left_;
  int level_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

// The sequence that a `for` would see. InvalidArgument where the value is not iterable.
absl::StatusOr<std::vector<Value>> Items(Runtime& runtime, const Value& value);
absl::StatusOr<int64_t> Length(Runtime& runtime, const Value& value);
absl::StatusOr<bool> Contains(Runtime& runtime, const Value& container, const Value& item);

// `value.name`: an attribute or method, else an item. `value[key]`: an item, else an attribute. Undefined
// where neither exists; InvalidArgument on an undefined value.
absl::StatusOr<Value> GetAttribute(Runtime& runtime, const Value& value, std::string_view name);
absl::StatusOr<Value> GetItem(Runtime& runtime, const Value& value, const Value& key);
// `value[start:stop:step]`, each none or an integer.
absl::StatusOr<Value> GetSlice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                               const Value& step);
absl::StatusOr<Value> CallValue(Runtime& runtime, const Value& callee, const Args& args);

// op: + - * / // % **
absl::StatusOr<Value> Arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
absl::StatusOr<Value> Negate(const Value& value);

absl::Status UndefinedError(const Value& value);
absl::Status TypeError(std::string_view cause);

}  // namespace moepool::jinja
