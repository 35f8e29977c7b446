// A dispatch as a worker gets it, from a router that is not to be trusted: decoded, checked and computed by a
// real executor on a tiny model. Whatever it answers, the router's side can read.
#include <algorithm>
#include <memory>
#include <vector>

#include "common/backend/backend.h"
#include "common/base/status_macros.h"
#include "common/model/synthetic.h"
#include "common/transport/reply_inbox.h"
#include "expert_worker/executor.h"
#include "tests/fuzz/fuzz_frames.h"

namespace moepool {
namespace {

// Holds all experts of the first layer, and those with an even number of the second.
struct Worker {
  std::unique_ptr<ModelSource> source = MakeSyntheticSource(FuzzModel()).value();
  std::unique_ptr<Backend> backend = MakeBackend({}).value();
  ExpertStore store{source.get(), backend.get(), 0};
  FrameLimits limits = FuzzLimits(source->Config());
  Executor executor{backend.get(), &store, limits};

  Worker() {
    for (int expert = 0; expert < limits.experts; ++expert) {
      MOEPOOL_CHECK(store.Load(0, expert).ok());
      if (expert % 2 == 0) MOEPOOL_CHECK(store.Load(1, expert).ok());
    }
  }
};

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  static Worker* const worker = new Worker;
  const FrameBytes frame = CopyFrame(std::span(data, size));
  const auto header = DecodeHeader(frame.bytes);
  uint32_t parts = 0;
  int refusals = 0;
  worker->executor.Handle(frame.bytes, [&](const FramePieces& written) {
    const FrameBytes answer = CopyFrame(written);
    MOEPOOL_CHECK(header.ok() && written.bytes() <= kMaxReplyFrameBytes);
    const auto answered = DecodeHeader(answer.bytes);
    MOEPOOL_CHECK(answered.ok() && answered->dispatch_id == header->dispatch_id);
    if (answered->kind == FrameKind::kRefusal) {
      MOEPOOL_CHECK(!DecodeRefusal(answer.bytes).ok());
      ++refusals;
      return absl::OkStatus();
    }
    const auto reply = DecodeReply(answer.bytes, worker->limits);
    MOEPOOL_CHECK(reply.ok() && reply->header.first_part == parts);
    parts += reply->header.parts;
    return absl::OkStatus();
  });
  const bool computed = refusals == 0 && header.ok() && header->kind == FrameKind::kDispatch;
  if (!computed) return 0;
  MOEPOOL_CHECK(parts == header->parts);
  const auto view = DecodeDispatch(frame.bytes, worker->limits);
  MOEPOOL_CHECK(view.ok());
  if (view->x.q == nullptr) return 0;
  const std::span codes(view->x.q, static_cast<size_t>(view->x.rows) * view->x.cols);
  MOEPOOL_CHECK(std::find(codes.begin(), codes.end(), -128) == codes.end());
  return 0;
}
