// An answer that is kept until its end and then sent as one JSON object, in whatever form.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/http/infer_answer.h"

namespace moepool {

// One choice, as far as it has come. Log-probabilities are list elements, written out: a tree of them would
// take ten times the memory.
struct GatheredChoice {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;  // whole ones
  std::string logprobs;
  std::string prompt_logprobs;
  FinishReason reason = FinishReason::kNone;
  uint64_t seed = 0;
};

// Answers with the error where the request fails, and where the answer outgrows kMaxAnswerBytes, which
// cancels `calls`. Not thread-safe: the events of one request come one after another.
class GatheredAnswer : public InferAnswer {
 public:
  GatheredAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls, int32_t n);
  void OnEvent(InferEvent event) final;

 private:
  // Elements of a list, with commas between them.
  virtual std::string WriteLogprobs(const std::vector<TokenLogprobEntries>& logprobs) const = 0;
  // The whole body; `last` is the event that ended it.
  virtual std::string Write(const std::vector<GatheredChoice>& choices, const InferEvent& last) const = 0;

  // Adds to `written`; returns the bytes added.
  size_t Add(const std::vector<TokenLogprobEntries>& logprobs, std::string* written) const;

  const std::shared_ptr<HttpResponder> responder_;
  const std::shared_ptr<CallGroup> calls_;
  std::vector<GatheredChoice> choices_;
  size_t bytes_ = 0;
  bool over_ = false;
};

}  // namespace moepool
