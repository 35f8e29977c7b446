// See cuda_graphs.h.
#include "common/backend/cuda/cuda_graphs.h"

#include <iterator>

#include "common/base/log.h"
#include "common/base/str.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

static_assert(CudaGraphs::kMostRows <= CudaContext::kFaultRows);

void LogFailure(const absl::Status& status) {
  Log(LogLevel::kWarning, "steps are queued without CUDA graphs", {{"cause", ToStd(status.message())}});
}

}  // namespace

CudaGraphs::CudaGraphs(CudaContext* context, size_t most_pieces)
    : context_(*context), most_pieces_(most_pieces), on_(most_pieces > 0) {}

CudaGraphs::Entry* CudaGraphs::Find(const GraphKey& key) {
  if (const uint64_t moves = context_.moves(); moves != moves_) {
    by_key_.clear();
    entries_.clear();
    pieces_ = 0;
    moves_ = moves;
  }
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &*found->second;
}

void CudaGraphs::Drop(std::list<Entry>::iterator entry) {
  pieces_ -= entry->pieces;
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

void CudaGraphs::KeepWithinLimit() {
  while (pieces_ > most_pieces_ && !entries_.empty()) Drop(std::prev(entries_.end()));
}

bool CudaGraphs::Launch(const GraphKey& key) {
  Entry* const entry = Find(key);
  if (entry == nullptr || entry->graph == nullptr) return false;
  const TraceSpan span("replay", {"rows", key.rows});
  entry->graph->Launch();
  ++stats_.replayed;
  return true;
}

bool CudaGraphs::Begin(const GraphKey& key) {
  if (Find(key) == nullptr) {
    entries_.emplace_front().key = key;
    by_key_[key] = entries_.begin();
    ++pieces_;
    KeepWithinLimit();
    return false;
  }
  if (const absl::Status begun = context_.device().BeginGraph(); !begun.ok()) {
    LogFailure(begun);
    on_ = false;
    return false;
  }
  context_.BeginRecording();
  return true;
}

bool CudaGraphs::End(const GraphKey& key) {
  const bool of_use = context_.EndRecording();
  absl::StatusOr<std::unique_ptr<DeviceGraph>> graph = context_.device().EndGraph();
  if (!graph.ok()) {
    LogFailure(graph.status());
    on_ = false;
    return false;
  }
  if (!of_use) return false;
  Entry* const entry = Find(key);
  if (entry == nullptr) return false;
  (*graph)->Launch();
  entry->graph = *std::move(graph);
  const size_t pieces = entry->graph->pieces();
  entry->pieces += pieces;
  pieces_ += pieces;
  ++stats_.recorded;
  KeepWithinLimit();
  return true;
}

}  // namespace moepool
