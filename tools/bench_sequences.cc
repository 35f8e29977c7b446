// See bench_sequences.h.
#include "tools/bench_sequences.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "tools/bench_statistics.h"

namespace moepool {
namespace {

// What the trunk's threads tell the caller of Run.
class Progress {
 public:
  explicit Progress(size_t sequences) : timelines_(sequences) {}

  void Submitted(size_t i) {
    MutexLock lock(&mutex_);
    timelines_[i].submitted_s = SteadySeconds();
  }

  void Update(size_t i, const SequenceUpdate& update) {
    const double now = SteadySeconds();
    MutexLock lock(&mutex_);
    Timeline& timeline = timelines_[i];
    if (timeline.ids_s.empty() && !update.ids.empty()) begun_ += 1;
    timeline.ids_s.insert(timeline.ids_s.end(), update.ids.size(), now);
    cached_tokens_ = std::max(cached_tokens_, update.cached_tokens);
    if (update.finished) {
      ended_ += 1;
      if (error_.ok()) error_ = update.status;
    }
    changed_.NotifyAll();
  }

  // Until `condition`, an error, or `until_s`. What failed, or OK.
  absl::Status WaitUntil(double until_s, const std::function<bool(size_t begun, size_t ended)>& condition) {
    MutexLock lock(&mutex_);
    while (error_.ok() && !condition(begun_, ended_)) {
      const double left_s = until_s - SteadySeconds();
      if (left_s <= 0) {
        return absl::DeadlineExceededError(
            StrCat(begun_, " of ", timelines_.size(), " sequences have begun and ", ended_, " have ended"));
      }
      changed_.WaitFor(&mutex_,
                       std::chrono::nanoseconds(static_cast<int64_t>(std::min(left_s, 3600.0) * 1e9)));
    }
    return error_;
  }

  int32_t cached_tokens() {
    MutexLock lock(&mutex_);
    return cached_tokens_;
  }
  std::vector<Timeline> TakeTimelines() {
    MutexLock lock(&mutex_);
    return std::move(timelines_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Timeline> timelines_ GUARDED_BY(mutex_);
  size_t begun_ GUARDED_BY(mutex_) = 0;
  size_t ended_ GUARDED_BY(mutex_) = 0;
  int32_t cached_tokens_ GUARDED_BY(mutex_) = 0;
  absl::Status error_ GUARDED_BY(mutex_);
};

}  // namespace

SequenceRunner::SequenceRunner(Trunk* trunk, const ModelInfo& model, uint64_t seed, absl::Duration patience)
    : trunk_(trunk), patience_(patience), random_(seed) {
  for (int32_t id = 0; id < model.vocab_size; ++id) {
    const auto i = static_cast<size_t>(id);
    if (i >= model.tokenizer.types.size() || model.tokenizer.types[i] == TokenType::kNormal)
      ids_.push_back(id);
  }
  if (ids_.empty()) ids_.push_back(0);
}

std::vector<int32_t> SequenceRunner::RandomPrompt(int tokens) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(ids_[random_() % ids_.size()]);
  return prompt;
}

absl::StatusOr<std::vector<Timeline>> SequenceRunner::Run(const std::vector<SequenceSpec>& specs, int at_once,
                                                          AdmissionPolicy policy,
                                                          const std::function<void()>& on_decoding) {
  const double until_s = SteadySeconds() + absl::ToDoubleSeconds(patience_);
  std::vector<SequenceRequest> requests;
  for (const SequenceSpec& spec : specs) {
    SequenceRequest& request = requests.emplace_back();
    request.request_id = StrCat("bench-", requests.size());
    request.prompt = RandomPrompt(spec.prompt_tokens);
    request.max_tokens = spec.new_tokens;
  }
  Progress progress(specs.size());
  std::vector<std::unique_ptr<TrunkCall>> calls;  // goes first: no update comes after
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto places = static_cast<size_t>(at_once);
    const size_t ended_before =
        policy == AdmissionPolicy::kStatic ? i / places * places : i - std::min(i, places - 1);
    MOEPOOL_RETURN_IF_ERROR(progress.WaitUntil(
        until_s, [&](size_t, size_t ended) { return i < places || ended >= ended_before; }));
    progress.Submitted(i);
    MOEPOOL_ASSIGN_OR_RETURN(
        std::unique_ptr<TrunkCall> call,
        trunk_->Generate(std::move(requests[i]),
                         [&progress, i](const SequenceUpdate& update) { progress.Update(i, update); }));
    calls.push_back(std::move(call));
  }
  if (on_decoding) {
    MOEPOOL_RETURN_IF_ERROR(
        progress.WaitUntil(until_s, [&](size_t begun, size_t) { return begun == specs.size(); }));
    on_decoding();
  }
  MOEPOOL_RETURN_IF_ERROR(
      progress.WaitUntil(until_s, [&](size_t, size_t ended) { return ended == specs.size(); }));
  if (const int32_t cached = progress.cached_tokens(); cached > 0) {
    return absl::FailedPreconditionError(
        StrCat(cached, " tokens of a prompt were in the prefix cache, which is to have none of them"));
  }
  return progress.TakeTimelines();
}

absl::StatusOr<PoolInfo> SequenceRunner::IdlePool() {
  const double until_s = SteadySeconds() + absl::ToDoubleSeconds(patience_);
  for (;;) {
    MOEPOOL_ASSIGN_OR_RETURN(PoolInfo pool, trunk_->Pool());
    if (pool.running == 0 && pool.waiting == 0) return pool;
    if (SteadySeconds() > until_s) {
      return absl::DeadlineExceededError(StrCat("the trunk is not idle: ", pool.running, " sequences run, ",
                                                pool.waiting, " wait; nobody else is to use it"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

absl::StatusOr<double> TogetherTokensPerSecond(const std::vector<Timeline>& timelines) {
  double begin_s = 0;
  double end_s = std::numeric_limits<double>::infinity();
  for (const Timeline& timeline : timelines) {
    if (timeline.ids_s.empty()) return absl::FailedPreconditionError("a sequence made no ids");
    begin_s = std::max(begin_s, timeline.ids_s.front());
    end_s = std::min(end_s, timeline.ids_s.back());
  }
  double sum = 0;
  for (const Timeline& timeline : timelines) {
    const auto first = std::lower_bound(timeline.ids_s.begin(), timeline.ids_s.end(), begin_s);
    const auto last = std::upper_bound(first, timeline.ids_s.end(), end_s);
    if (last - first < 2 || *(last - 1) <= *first) {
      return absl::FailedPreconditionError(StrCat(
          "of ", timelines.size(), " sequences one made ", last - first,
          " ids while all decoded, at least 2 are needed: they have to run at the same time, and for long"
          " enough"));
    }
    sum += static_cast<double>(last - first - 1) / (*(last - 1) - *first);
  }
  return sum;
}

}  // namespace moepool
