// Segments (TrunkOps::QueueSegment) that the device has recorded, which are launched as a whole when they
// come again: a decode step's host then queues a layer with one launch, not a dozen, and none of the code
// that makes up their arguments runs.
//
// What a recording has in it are arguments: addresses, counts of rows, grids. All that differs between two
// uses of it lies in memory of the device, where it is copied before. What decides over the arguments is in
// the key, or drops all recordings (CudaContext::moves).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>

#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_attention.h"
#include "common/backend/cuda/cuda_context.h"
#include "common/backend/cuda/device.h"

namespace moepool {

struct GraphKey {
  uint64_t number = 0;  // as those of Segment
  int rows = 0;
  int first_row = 0;
  int micro_batch = 0;
  AttentionExtent attention = {};
  DeviceFaults faults = nullptr;  // where the segment's are reported
  auto operator<=>(const GraphKey&) const = default;
};

// For who holds the context's mutex.
class CudaGraphs {
 public:
  // Of a segment. With more, kernels run for longer than it takes to queue them.
  static constexpr int kMostRows = 64;
  // Kept of all recordings; those go that were used longest ago. A layer has 10 to 20, so that a model of 32
  // layers has some 60 counts of rows.
  static constexpr size_t kMostPieces = size_t{1} << 15;

  CudaGraphs(CudaContext* context, size_t most_pieces);

  // Whether segments of so many rows are recorded.
  bool Takes(int rows) const { return on_ && rows > 0 && rows <= kMostRows; }
  // Launches what is recorded of `key`. False: nothing is, and nothing was done.
  bool Launch(const GraphKey& key);
  // What comes for the second time is recorded: many rows come once, and after the first time the memory that
  // it works in is there. True: what this thread queues from here on is recorded, until End().
  bool Begin(const GraphKey& key);
  // Keeps what was recorded and launches it. False where it is of no use: none of it is done.
  bool End(const GraphKey& key);

  const SegmentStats& stats() const { return stats_; }

 private:
  struct Entry {
    GraphKey key;
    std::unique_ptr<DeviceGraph> graph;  // null: has come once
    size_t pieces = 1;                   // the entry's own among them
  };
  // The entry of `key`, now the last to go; null where there is none.
  Entry* Find(const GraphKey& key);
  void Drop(std::list<Entry>::iterator entry);
  void KeepWithinLimit();

  CudaContext& context_;
  const size_t most_pieces_;
  bool on_ = true;
  uint64_t moves_ = 0;        // of the context, when the entries were made
  std::list<Entry> entries_;  // that used last first
  std::map<GraphKey, std::list<Entry>::iterator> by_key_;
  size_t pieces_ = 0;
  SegmentStats stats_;
};

}  // namespace moepool
