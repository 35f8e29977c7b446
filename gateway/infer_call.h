// One request under way: its answers are sequences of the trunk's, which share the prompt.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/answer_plan.h"
#include "gateway/inference.h"
#include "gateway/serial_tasks.h"
#include "gateway/token_stream.h"

namespace moepool {

// Owned by the Inference until its last event, and perhaps alive after it: a thread that the trunk lends may
// let go of it last. All but Cancel, Start, Prepare and id runs as a task.
class InferCallImpl : public InferCall, public std::enable_shared_from_this<InferCallImpl> {
 public:
  InferCallImpl(Inference* inference, InferRequest request, InferCallback on_event);
  void Cancel() override;
  const std::string& id() const override { return id_; }
  void Start();

 private:
  struct Answer {
    int32_t index = 0;
    uint64_t seed = 0;
    std::optional<TokenStream> text;
    std::optional<AnswerParser> parser;
    std::unique_ptr<TrunkCall> call;
    int32_t tokens = 0;
    absl::Time last_token;
    int32_t cached_tokens = 0;
    size_t prompt_entries = 0;  // log-probabilities of the prompt handed out
    FinishReason reason = FinishReason::kNone;
    bool prompt_shown = false;  // its first event, which begins with what is asked of the prompt, has come
    bool over = false;
  };

  // A task for a stream thread, from callers who must not be held up, or who hold locks.
  void RunLater(SerialTasks::AnyTask task);
  void FinishLater(absl::Status status);

  absl::StatusOr<std::unique_ptr<Admission::Ticket>> Admit();
  // What the request asks for, of a model. Not a task: templates and tokenizers take their time.
  struct Preparation {
    std::shared_ptr<const ServedModel> model;
    AnswerPlan plan;
    SequenceRequest sequence;
  };
  absl::StatusOr<Preparation> Prepare() const;
  absl::Status FillSequence(const ServedModel& model, AnswerPlan* plan, SequenceRequest* sequence) const;
  // Takes the tokens of all answers; shortens what the request leaves open to what this gateway takes.
  absl::Status TakeTokens(SequenceRequest* sequence);
  // Starts all answers, or fails.
  absl::Status Submit(Preparation preparation);
  void OnUpdate(Answer* answer, SequenceUpdate update);
  // Adds text of the answer to the event, parsed.
  void AddText(Answer* answer, const std::string& text, InferEvent* event);
  // What is held back, at the end of an answer.
  void FlushText(Answer* answer, InferEvent* event);
  InferEvent Read(Answer* answer, const SequenceUpdate& update);
  // What comes before the answer itself: the prompt's text and log-probabilities, where asked for.
  void ShowPrompt(Answer* answer, const SequenceUpdate& update, InferEvent* event);
  TokenLogprobEntries Entries(int32_t id, const TokenLogprobs& given) const;
  LogprobEntry Entry(int32_t id, float logprob) const;
  void CountIds(Answer* answer, int32_t count);
  // The answer is whole; the last one ends the request.
  void End(Answer* answer, FinishReason reason, InferEvent event);
  void Finish(const absl::Status& status, InferEvent event = {});
  void Count(const absl::Status& status);
  void LogIfSlow(const absl::Status& status, const Timings& timings) const;
  // Says which of several answers it was.
  absl::Status Of(const Answer& answer, const absl::Status& status) const;

  Inference* const inference_;
  GatewayMetrics& metrics_;
  const InferRequest request_;
  InferCallback on_event_;
  const std::string id_;
  SerialTasks tasks_;
  const absl::Time arrived_;
  absl::Time first_token_;
  absl::Time last_token_;
  std::unique_ptr<Admission::Ticket> ticket_;
  std::shared_ptr<const ServedModel> model_;
  AnswerPlan plan_;
  std::vector<int32_t> prompt_;  // kept where it is shown
  std::vector<Answer> answers_;  // all from the start on, never moved
  size_t running_ = 0;           // of these
  Usage usage_;
  // Of the answers the most; the worker is that of the answer which ended last.
  double queue_ms_ = 0;
  double prefill_ms_ = 0;
  int32_t preemptions_ = 0;
  int32_t retries_ = 0;
  std::string slowest_worker_;
  bool over_ = false;
};

}  // namespace moepool
