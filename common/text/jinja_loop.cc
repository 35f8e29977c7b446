#include "common/text/jinja_loop.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/jinja_builtins.h"

namespace moepool::jinja {

absl::StatusOr<bool> Loop::Fill(Runtime& runtime, size_t count) {
  while (items_.size() < count && tested_ < source_.size()) {
    const Value& item = source_[tested_];
    if (stmt_.test != nullptr) {
      MOEPOOL_RETURN_IF_ERROR(runtime.Charge(1));
      auto scope = std::make_shared<Scope>();
      scope->parent = scope_;
      MOEPOOL_RETURN_IF_ERROR(evaluator_.Assign(stmt_.target, item, scope));
      MOEPOOL_ASSIGN_OR_RETURN(const Value passes, evaluator_.Eval(*stmt_.test, scope));
      if (IsTrue(passes)) items_.push_back(item);
    } else {
      items_.push_back(item);
    }
    ++tested_;
  }
  return items_.size() >= count;
}

absl::StatusOr<bool> Loop::Next(Runtime& runtime) {
  MOEPOOL_ASSIGN_OR_RETURN(const bool more, Fill(runtime, static_cast<size_t>(index_ + 2)));
  if (more) ++index_;
  return more;
}

void Loop::Release() {
  source_.clear();
  source_.shrink_to_fit();
  items_.clear();
  items_.shrink_to_fit();
  tested_ = 0;
  index_ = -1;
}

absl::StatusOr<int64_t> Loop::Length(Runtime&) const { return static_cast<int64_t>(source_.size()); }

absl::StatusOr<Value> Loop::GetAttribute(Runtime& runtime, std::string_view name) {
  if (name == "index") return Value(index_ + 1);
  if (name == "index0") return Value(index_);
  if (name == "first") return Value(index_ == 0);
  if (name == "depth") return Value(int64_t{depth_ + 1});
  if (name == "depth0") return Value(int64_t{depth_});
  if (name == "length" || name == "revindex" || name == "revindex0") {
    MOEPOOL_RETURN_IF_ERROR(Fill(runtime, SIZE_MAX).status());
    const int64_t length = static_cast<int64_t>(items_.size());
    return Value(name == "length" ? length : name == "revindex" ? length - index_ : length - index_ - 1);
  }
  if (name == "last" || name == "nextitem") {
    const size_t next = static_cast<size_t>(index_ + 1);
    MOEPOOL_ASSIGN_OR_RETURN(const bool more, Fill(runtime, next + 1));
    if (name == "last") return Value(!more);
    return more ? items_[next] : Value::Undefined("there is no next item");
  }
  if (name == "previtem") {
    return index_ > 0 ? items_[static_cast<size_t>(index_ - 1)]
                      : Value::Undefined("there is no previous item");
  }
  if (name == "cycle" || name == "changed") return Method(runtime, name);
  return Object::GetAttribute(runtime, name);
}

absl::StatusOr<Value> Loop::Method(Runtime& runtime, std::string_view name) {
  auto cycle = [this](Runtime&, const Args& args) -> absl::StatusOr<Value> {
    if (args.positional.empty()) return TypeError("no items for cycling given");
    return args.positional[static_cast<size_t>(std::max<int64_t>(index_, 0)) % args.positional.size()];
  };
  auto changed = [this](Runtime& r, const Args& args) -> absl::StatusOr<Value> {
    bool same = has_changed_ && last_changed_.size() == args.positional.size();
    for (size_t i = 0; same && i < last_changed_.size(); ++i) {
      MOEPOOL_ASSIGN_OR_RETURN(same, Equal(r, last_changed_[i], args.positional[i]));
    }
    has_changed_ = true;
    last_changed_ = args.positional;
    return Value(!same);
  };
  Function::Body body = name == "cycle" ? Function::Body(cycle) : Function::Body(changed);
  MOEPOOL_ASSIGN_OR_RETURN(Object * function, runtime.New<Function>(std::string(name), std::move(body)));
  return Value(function);
}

absl::StatusOr<Value> Loop::Call(Runtime& runtime, const Args& args) {
  if (!stmt_.recursive) return TypeError("only a loop marked 'recursive' can be called");
  if (args.positional.size() != 1 || !args.named.empty()) return TypeError("loop() takes one argument");
  std::string out;
  MOEPOOL_RETURN_IF_ERROR(evaluator_.ExecLoop(stmt_, args.positional[0], scope_, depth_ + 1, &out));
  return runtime.NewString(std::move(out));
}

}  // namespace moepool::jinja
