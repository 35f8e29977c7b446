#include "gateway/token_stream.h"

#include <algorithm>
#include <utility>

namespace moepool {

TokenStream::TokenStream(const Tokenizer* tokenizer, std::vector<std::string> stops, int32_t min_tokens,
                         bool begins_text, std::vector<int32_t> marker_ids)
    : tokenizer_(tokenizer),
      detokenizer_(tokenizer, /*special=*/false, begins_text),
      stops_(std::move(stops)),
      marker_ids_(std::move(marker_ids)),
      min_tokens_(min_tokens) {
  for (const std::string& stop : stops_) longest_stop_ = std::max(longest_stop_, stop.size());
}

TokenStream::Step TokenStream::Push(std::span<const int32_t> ids) {
  Step step;
  while (!stopped_ && step.used < ids.size()) {
    const int32_t id = ids[step.used++];
    ++taken_;
    const bool marker = std::find(marker_ids_.begin(), marker_ids_.end(), id) != marker_ids_.end();
    step.text += Release(tokenizer_->EndsGeneration(id) ? ""
                         : marker                       ? detokenizer_.Push(id, /*special=*/true)
                                                        : detokenizer_.Push(id));
  }
  return step;
}

std::string TokenStream::Finish() {
  if (stopped_) return "";
  std::string text = Release(detokenizer_.Finish());
  if (!stopped_) text += std::exchange(held_, "");
  return text;
}

std::string TokenStream::Release(std::string_view added) {
  held_ += added;
  if (taken_ <= min_tokens_) exempt_ = held_.size();
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t from = exempt_ < stop.size() ? 0 : exempt_ + 1 - stop.size();
    first = std::min(first, held_.find(stop, from));
  }
  if (first != std::string::npos) {
    stopped_ = true;
    std::string text = held_.substr(0, first);
    held_.clear();
    return text;
  }
  // The earliest position from which the rest could still grow into a stop string.
  size_t keep = held_.size() - std::min(held_.size(), longest_stop_ == 0 ? 0 : longest_stop_ - 1);
  const auto may_grow = [&](const std::string& stop) {
    const std::string_view tail = std::string_view(held_).substr(keep);
    return tail.size() < stop.size() && std::string_view(stop).substr(0, tail.size()) == tail;
  };
  while (keep < held_.size() && std::none_of(stops_.begin(), stops_.end(), may_grow)) ++keep;
  std::string text = held_.substr(0, keep);
  held_.erase(0, keep);
  exempt_ -= std::min(exempt_, keep);
  return text;
}

}  // namespace moepool
