// The `loop` of a for body. The `if` filter of the loop runs as late as it can, as Jinja's does: an item is
// tested when it is needed, by the next round or by an attribute that looks ahead.
#pragma once

#include <string_view>
#include <vector>

#include "common/text/jinja_eval.h"

namespace moepool::jinja {

class Loop : public Object {
 public:
  Loop(Evaluator& evaluator, const Stmt& stmt, ScopePtr scope, std::vector<Value> items, int depth)
      : evaluator_(evaluator),
        stmt_(stmt),
        scope_(std::move(scope)),
        source_(std::move(items)),
        depth_(depth) {}

  // Moves to the next item; false at the end.
  absl::StatusOr<bool> Next(Runtime& runtime);
  const Value& Current() const { return items_[static_cast<size_t>(index_)]; }
  // Frees the items of a loop that has ended.
  void Release();

  std::string_view TypeName() const override { return "LoopContext"; }
  absl::StatusOr<Value> GetAttribute(Runtime& runtime, std::string_view name) override;
  bool IsCallable() const override { return true; }
  // loop(children): the body again, over another sequence.
  absl::StatusOr<Value> Call(Runtime& runtime, const Args& args) override;
  absl::StatusOr<int64_t> Length(Runtime& runtime) const override;

 private:
  // Tests items until `count` have passed; false where there are fewer.
  absl::StatusOr<bool> Fill(Runtime& runtime, size_t count);
  absl::StatusOr<Value> Method(Runtime& runtime, std::string_view name);

  Evaluator& evaluator_;
  const Stmt& stmt_;
  const ScopePtr scope_;
  std::vector<Value> source_;  // all items
  size_t tested_ = 0;
  std::vector<Value> items_;  // those that passed so far
  int64_t index_ = -1;
  const int depth_;
  std::vector<Value> last_changed_;
  bool has_changed_ = false;
};

}  // namespace moepool::jinja
