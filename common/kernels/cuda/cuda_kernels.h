// The launches of the CUDA kernels: one table for the device, one for the emulation, of the same sources.
// Pointers are device memory. Each result is that of the CPU's kernels (common/kernels/kernels.h) to the last
// bit: the order of every sum is the one written there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/backend/backend.h"
#include "common/backend/expert_pairs.h"
#include "common/kernels/cuda/attention_args.h"
#include "common/kernels/cuda/probe_args.h"

namespace moepool {

// Packed as common/kernels/packed.h says.
struct DeviceWeights {
  const uint8_t* data = nullptr;
  int64_t group_bytes = 0;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t blocks = 0;           // of 32 columns; columns for F32, F16 and BF16
  int32_t first_sub_block = 0;  // K-quants
  DType dtype = DType::kF32;
};

// Rows of activations; those forms are set that are wanted.
struct RowForms {
  float* f32 = nullptr;    // [rows, cols]
  int8_t* q = nullptr;     // [rows, cols]
  float* scale = nullptr;  // [rows, cols / 32]
};

// Where a kernel says that a row is not finite: [rows], set to 1, never cleared; null: nobody asks.
using DeviceFaults = uint8_t*;

struct NormArgs {
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [cols]
  const float* bias = nullptr;    // [cols] or null
  float eps = 0;
  const float* x = nullptr;  // [rows, cols]
  RowForms y;                // y.f32 is set
  int32_t rows = 0;
  int32_t cols = 0;
  DeviceFaults faults = nullptr;
};

struct QuantizeArgs {
  RowForms y;  // y.q and y.scale from y.f32
  int32_t rows = 0;
  int32_t cols = 0;
  DeviceFaults faults = nullptr;
};

inline constexpr int kMaxProducts = 4;  // of one launch

// As Product of backend.h.
struct ProductArgs {
  DeviceWeights w;
  const float* bias = nullptr;
  const float* add = nullptr;
  float* y = nullptr;
  int64_t stride = 0;
};
struct ProductsArgs {
  ProductArgs product[kMaxProducts];  // all quantised, or none
  int32_t products = 0;
  RowForms x;
  int32_t rows = 0;
};

// Row i of x becomes row rows[i]; rows ascend.
struct GatherArgs {
  float* x = nullptr;
  const int32_t* rows = nullptr;
  int32_t count = 0;
  int32_t cols = 0;
};

// As TrunkOps::Pack.
struct PackArgs {
  RowForms x;                     // f32 is packed where q is null
  const int32_t* rows = nullptr;  // [count], of page-locked memory too
  int32_t count = 0;
  int32_t cols = 0;  // a multiple of 32 where q is set
  std::byte* to = nullptr;
};

// As TrunkOps::Pick.
struct PickArgs {
  const float* logits = nullptr;  // [rows, vocab]
  const PickRow* rows = nullptr;  // [count]
  int32_t* ids = nullptr;         // [count]
  int32_t count = 0;
  int32_t vocab = 0;
};

// As CombineBatch of backend.h.
struct CombineArgs {
  float* const* parts = nullptr;     // [parts] -> [cols], overwritten
  const PlannedAdd* adds = nullptr;  // counting from parts_begin
  const CombineRow* rows = nullptr;  // [count]
  const float* shared = nullptr;     // [rows, cols] or null
  float* residual = nullptr;         // [rows, cols]
  int32_t count = 0;
  int32_t cols = 0;
};

// --- The gate's choice ---

inline constexpr int kMostGateExperts = 1024;

// As GatePolicy of common/model/gate_policy.h, a row a block of threads.
struct GateArgs {
  GateConfig gate;
  const float* logits = nullptr;  // [rows, experts], not read by the dense gate
  int32_t rows = 0;
  int32_t experts = 0;                 // at most kMostGateExperts
  int32_t experts_per_token = 0;       // 2 for sparsemixer
  SelectedExpert* selected = nullptr;  // [rows, experts_per_token]; -1 where a row is at fault
  DeviceFaults faults = nullptr;       // read too
};

// The shared expert, number 0, for every row that is not at fault: with weight sigmoid(logits[row]), or 1.
struct SharedGateArgs {
  const float* logits = nullptr;  // [rows] or null
  int32_t rows = 0;
  SelectedExpert* selected = nullptr;  // [rows]
  DeviceFaults faults = nullptr;       // read too
};

// --- Experts ---

// A pair is one (part, entry). Pairs are sorted by expert; a tile is some of one expert's.
struct ExpertTile {
  int32_t expert = 0;  // in ExpertsArgs::experts
  int32_t begin = 0;   // pairs
  int32_t end = 0;
};
struct DeviceExpert {
  DeviceWeights gate;
  DeviceWeights up;
  DeviceWeights down;
};
struct ExpertsArgs {
  const DeviceExpert* experts = nullptr;
  const ExpertTile* tiles = nullptr;
  int32_t tile_count = 0;
  const int32_t* tiles_there = nullptr;  // where not null, as many of them are tiles
  int32_t tile_pairs = 0;                // the most of a tile
  bool plain_up = false;    // gate and up are F32, F16 or BF16, of all experts; otherwise quantised
  bool plain_down = false;  // the same of down
  int32_t up_type = -1;     // DType of all gates and ups, or -1: several
  int32_t down_type = -1;   // the same of down
  int32_t max_ffn = 0;      // of the experts' gate.rows
  int32_t padded = 0;       // max_ffn rounded up to 32
  int32_t hidden = 0;
  RowForms x;                          // [rows, hidden]
  RowForms h;                          // [pairs, padded]: f32 where plain_down, otherwise q and scale
  const int32_t* pair_row = nullptr;   // [pairs]
  const float* pair_weight = nullptr;  // [pairs]
  uint8_t* pair_fault = nullptr;       // [pairs] zeros before
  float* leaves = nullptr;             // [pairs, hidden]
  // Where gate, up and activation are launches of their own; h.f32 is then there too.
  float* gate_sums = nullptr;  // [pairs, padded]
  float* up_sums = nullptr;    // [pairs, padded]
};

// Parts from their leaves.
struct LeavesArgs {
  float* leaves = nullptr;  // [pairs, cols], overwritten
  const uint8_t* pair_fault = nullptr;
  // [slots] -> pair; a part's slots are neighbours, in order of entries. -1 in its first: nothing is made of
  // it.
  const int32_t* slot_pair = nullptr;
  const int32_t* part_begin = nullptr;  // [parts + 1] slots
  const PlannedAdd* adds = nullptr;     // counting from the part's first slot
  const AddRange* part_adds = nullptr;  // [parts] in adds
  int32_t parts = 0;
  int32_t cols = 0;
  float* out = nullptr;           // [parts, cols]; null: residual takes them
  const float* shared = nullptr;  // [parts, cols] or null
  float* residual = nullptr;      // [parts, cols] += part (+ shared)
  DeviceFaults faults = nullptr;
};

inline constexpr int kMaxFusedSlots = 16;  // leaves of a part

// Parts straight from h, where few pairs share an expert: leaves stay in shared memory. Down is quantised of
// all experts.
struct PartsArgs {
  ExpertsArgs experts;                   // without tiles
  const int32_t* pair_expert = nullptr;  // [pairs] in experts.experts
  LeavesArgs parts;                      // without leaves; of at most kMaxFusedSlots slots each
};

// What ExpertPairs and the tiles of an ExpertBatch are, made on the device from what the gate chose. A row is
// a part, row * experts_per_token its first slot.
struct PlanArgs {
  const SelectedExpert* selected = nullptr;  // [rows, experts_per_token]
  const DeviceExpert* experts = nullptr;     // [expert_count]; an empty slice's down has no rows
  int32_t rows = 0;
  int32_t experts_per_token = 0;
  int32_t expert_count = 0;  // at most kMostGateExperts
  int32_t tile_pairs = 0;    // the most of a tile
  int32_t* tile_count = nullptr;
  ExpertTile* tiles = nullptr;     // [tile_count], expert by expert; none of empty slices
  int32_t* pair_row = nullptr;     // [pairs], pairs of an expert ascend by row
  float* pair_weight = nullptr;    // [pairs]
  int32_t* pair_expert = nullptr;  // [pairs] -1: its slice is empty
  int32_t* slot_pair = nullptr;    // [rows * experts_per_token] -1: the row has no experts
  int32_t* part_begin = nullptr;   // [rows + 1]
  PlannedAdd* adds = nullptr;      // [rows * (experts_per_token - 1)]
  AddRange* part_adds = nullptr;   // [rows]
};

struct CudaKernels {
  void (*norm)(const NormArgs& args, void* stream);
  void (*quantize)(const QuantizeArgs& args, void* stream);
  void (*quantized_products)(const ProductsArgs& args, void* stream);
  void (*plain_products)(const ProductsArgs& args, void* stream);
  void (*gather)(const GatherArgs& args, void* stream);
  void (*pack)(const PackArgs& args, void* stream);
  void (*pick)(const PickArgs& args, void* stream);
  void (*combine)(const CombineArgs& args, void* stream);
  void (*select)(const GateArgs& args, void* stream);
  void (*select_shared)(const SharedGateArgs& args, void* stream);
  void (*plan)(const PlanArgs& args, void* stream);
  // h of every pair from gate and up; leaves of every pair from h and down.
  void (*expert_hidden)(const ExpertsArgs& args, void* stream);
  // The same h from four launches with memory between them, to see what one is worth.
  void (*expert_hidden_apart)(const ExpertsArgs& args, void* stream);
  void (*expert_leaves)(const ExpertsArgs& args, void* stream);
  void (*add_leaves)(const LeavesArgs& args, void* stream);
  // The last two in one.
  void (*expert_parts)(const PartsArgs& args, void* stream);
  AttentionKernels attention;
  ProbeKernels probes;
};

// Of the device where this build has CUDA (common/kernels/cuda, compiled by nvcc), and of the emulation where
// tests/support/simt is linked.
namespace device {
const CudaKernels& Kernels();
}
namespace emulated {
const CudaKernels& Kernels();
}

}  // namespace moepool
