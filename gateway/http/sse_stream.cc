#include "gateway/http/sse_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/http/openai_error.h"

namespace moepool {

SseStream::SseStream(std::shared_ptr<HttpResponder> responder, boost::asio::thread_pool* pool,
                     absl::Duration keepalive_interval)
    : responder_(std::move(responder)),
      interval_(absl::ToChronoNanoseconds(keepalive_interval)),
      timer_(*pool) {}

std::shared_ptr<SseStream> SseStream::Start(std::shared_ptr<HttpResponder> responder,
                                            boost::asio::thread_pool* pool,
                                            absl::Duration keepalive_interval) {
  const std::shared_ptr<SseStream> stream(new SseStream(std::move(responder), pool, keepalive_interval));
  MutexLock lock(&stream->mutex_);
  stream->WaitKeepalive();
  return stream;
}

void SseStream::Send(const std::string& json) {
  MutexLock lock(&mutex_);
  if (!over_) Write(absl::StrCat("data: ", json, "\n\n"));
}

void SseStream::Done() {
  MutexLock lock(&mutex_);
  if (over_) return;
  Write("data: [DONE]\n\n");
  over_ = true;
  timer_.cancel();
  responder_->EndStream();
}

void SseStream::Fail(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (over_) return;
  over_ = true;
  timer_.cancel();
  if (!started_) return responder_->Send(ErrorResponse(status));
  const nlohmann::json error = OpenAiError(status);
  Write(absl::StrCat("data: ", error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "\n\n"));
  responder_->EndStream();
}

void SseStream::WaitKeepalive() {
  if (over_) return;
  timer_.expires_after(interval_);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || self == nullptr) return;
    MutexLock lock(&self->mutex_);
    if (self->over_) return;
    if (!std::exchange(self->wrote_, false)) {
      self->Write(": keepalive\n\n");
      self->wrote_ = false;
    }
    self->WaitKeepalive();
  });
}

void SseStream::Write(std::string data) {
  if (!std::exchange(started_, true)) responder_->StartStream("text/event-stream");
  wrote_ = true;
  responder_->Write(std::move(data));
}

}  // namespace moepool
