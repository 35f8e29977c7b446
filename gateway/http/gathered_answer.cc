#include "gateway/http/gathered_answer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {

GatheredAnswer::GatheredAnswer(std::shared_ptr<HttpResponder> responder, std::shared_ptr<CallGroup> calls,
                               int32_t n)
    : responder_(std::move(responder)),
      calls_(std::move(calls)),
      choices_(static_cast<size_t>(std::max(n, 1))) {}

size_t GatheredAnswer::Add(const std::vector<TokenLogprobEntries>& logprobs, std::string* written) const {
  const std::string elements = WriteLogprobs(logprobs);
  if (elements.empty()) return 0;
  absl::StrAppend(written, written->empty() ? "" : ",", elements);
  return elements.size();
}

void GatheredAnswer::OnEvent(InferEvent event) {
  if (over_) return;
  GatheredChoice& choice = choices_[static_cast<size_t>(event.index)];
  choice.text += event.text;
  choice.reasoning += event.reasoning;
  AddToolCalls(event.tool_calls, &choice.tool_calls);
  bytes_ += event.text.size() + event.reasoning.size() + Add(event.logprobs, &choice.logprobs) +
            Add(event.prompt_logprobs, &choice.prompt_logprobs);
  if (event.ended) {
    choice.reason = event.reason;
    choice.seed = event.seed;
  }
  over_ = event.finished || bytes_ > kMaxAnswerBytes;
  if (bytes_ > kMaxAnswerBytes) {
    responder_->Send(ErrorResponse(AnswerTooLarge()));
    return calls_->Cancel();
  }
  if (!event.finished) return;
  if (!event.status.ok()) return responder_->Send(ErrorResponse(event.status));
  HttpResponse response;
  response.body = Write(choices_, event);
  responder_->Send(std::move(response));
}

}  // namespace moepool
