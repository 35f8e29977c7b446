// A device: memory, weights in its own layout, and the few operations that a transformer needs. Router and
// worker are written against this and nothing below it. Float pointers are device memory from Allocate(),
// which the host writes by Buffer::Write() and reads by Fetch(), except where host memory is said; on the CPU
// all is ordinary memory. All shapes are row-major, [rows, columns].
//
// Numbers: DESIGN section 5. Within one numeric class a row's result depends on that row alone: never on
// the other rows of the call, on threads, or on which instruction set ran.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/pick.h"
#include "common/model/canonical_sum.h"
#include "common/model/config.h"
#include "common/model/gate_policy.h"
#include "common/model/weight_key.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

// Device memory, zeroed, aligned to 64 bytes.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() = 0;
  virtual size_t bytes() const = 0;
  // offset + bytes.size() <= bytes(). Done on return.
  virtual void Write(size_t offset, std::span<const std::byte> bytes) = 0;
  float* f32() { return reinterpret_cast<float*>(data()); }
};

// Weights repacked for the device. Immutable, and independent of the bytes they were made from.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual DType dtype() const = 0;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  virtual uint64_t bytes() const = 0;  // device memory held
};

// n rows of activations in the forms in which matrix products read them. A producer fills those forms whose
// pointers are set; a product with quantised weights reads q and scale, one with F32/F16/BF16 weights reads
// f32.
struct Activations {
  int rows = 0;
  int cols = 0;            // a multiple of 32 where q is set
  float* f32 = nullptr;    // [rows, cols]
  int8_t* q = nullptr;     // [rows, cols]       round to nearest even, within ±127
  float* scale = nullptr;  // [rows, cols / 32]  max|x| / 127 of the block; 0 where the maximum is under 1e-30
};

// Which rows of a call held a value that is not finite; sized [rows], set to 1 and never cleared by an
// operation. Host memory that stays where it is until the next Fetch(), from which on it can be read.
using RowFaults = std::span<uint8_t>;

// Device memory that the host wants to read, and where Fetch() has put it: the host's until the next Fetch()
// of the same operations, who may overwrite it.
struct Fetched {
  const void* device = nullptr;
  size_t bytes = 0;
  void* host = nullptr;
  float* f32() const { return static_cast<float*>(host); }
};

struct NormWeights {
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [cols]
  const float* bias = nullptr;    // [cols] or null
  float eps = 0;
};

inline constexpr int kKvBlockTokens = 16;    // positions in a block of the KV cache
inline constexpr int kAttentionSplit = 256;  // positions in a split of the softmax

enum class KvType : uint8_t { kF16, kF32, kQ8_0, kBF16 };

inline constexpr int kKvQuantBlock = 32;  // dimensions of a position that share a scale in a Q8_0 cache

// Bytes of K, or of V, of one head and block; of Q8_0, whose head_dim is a multiple of 32, codes and scales.
constexpr int64_t KvHeadBlockBytes(KvType type, int64_t head_dim) {
  if (type == KvType::kQ8_0) return kKvBlockTokens * (head_dim + head_dim / kKvQuantBlock * 2);
  return kKvBlockTokens * head_dim * (type == KvType::kF32 ? 4 : 2);
}

// One layer of the paged cache. Block b of KV head g, `bytes` = KvHeadBlockBytes:
//   K at k + (b * kv_heads + g) * bytes, as [head_dim][16 positions]
//   V at v + (b * kv_heads + g) * bytes, as [16 positions][head_dim]
// F16 and BF16 are rounded to nearest even, past the range to infinity; a NaN stays one.
// For Q8_0 these are int8 codes; after them stand f16 scales, of K and of V [head_dim / 32][16 positions].
// A block of 32 dimensions x of a position:
//   scale = f16(max|x| / 127), nearest even;  code = nearest even of x * (1 / scale), within ±127.
// Codes follow the rounded scale, so that code * scale errs by half a scale at most, and by under 4e-6 where
// the scale is too small for f16 to hold well; one that rounds to 0 has codes 0. A block with a value that
// is not finite, or with a scale past f16, gets the scale NaN: each row that sees it faults.
struct KvLayer {
  KvType type = KvType::kF16;
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  bool operator==(const KvLayer&) const = default;
};

struct AttentionShape {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  RopeKind rope = RopeKind::kInterleaved;
  int rope_dims = 0;
  QkNorm qk_norm = QkNorm::kNone;
  const float* q_norm = nullptr;  // RMS weights: kHead [head_dim], kRow [heads * head_dim]
  const float* k_norm = nullptr;  // kHead [head_dim], kRow [kv_heads * head_dim]
  float norm_eps = 0;
  int window = 0;  // a row sees itself and the window - 1 positions before it; 0: all before it
};

// The rows of one step. Rows of a sequence are consecutive and ascend in position; a row sees positions 0 to
// its own, of which those before the step lie in the cache and those of the step are written by Attention()
// first.
// All of host memory.
struct AttentionBatch {
  int rows = 0;
  const int32_t* position = nullptr;            // [rows]
  const int32_t* const* block_table = nullptr;  // [rows] -> block number by position / 16; not read where the
                                                // window has left all of the block behind
  const float* cos = nullptr;                   // [rows, rope_dims / 2]
  const float* sin = nullptr;                   // [rows, rope_dims / 2]
  // Calls of one step, one a layer, share a number that no other step has; 0: a step of one call. What was
  // copied to the device for one of them then serves the others.
  uint64_t step = 0;
  // Which of those whose layers take turns, below kMostMicroBatches: each has steps of its own, and a place
  // on the device.
  int micro_batch = 0;
};

inline constexpr int kMostMicroBatches = 4;

// What a step queues between two meetings with the host, such as a layer's attention and gate. It comes again
// in the next step, with other values in the same memory, and may then be queued as a whole
// (TrunkOps::QueueSegment).
struct Segment {
  // Stands for its operations and all that they are given beside what stands here: buffers, weights, sets of
  // experts, the cache. Segments of one number are given the same, which exists as long as they come.
  uint64_t number = 0;
  int rows = 0;       // of each operation
  int first_row = 0;  // of the buffers: what the operations are given of them begins there
  // Of the calls of Attention() among them; batch->step is not 0.
  const AttentionShape* shape = nullptr;
  const AttentionBatch* batch = nullptr;
  RowFaults faults;  // [rows] of each operation that takes any
};

// Of segments that were queued.
struct SegmentStats {
  uint64_t recorded = 0;  // kept, to be queued as a whole from then on
  uint64_t replayed = 0;  // queued as a whole
};

// y[t, r] = (add[t, r] +) (sum_c w[r, c] x[t, c] + bias[r]), y and add rows `stride` floats apart; bias and
// add may be null, add may be y.
struct Product {
  const Matrix* w;
  const float* bias;  // [w->rows()]
  const float* add;
  float* y;
  int64_t stride;
};

// What the workers gave, and how each row's is added: the adds of a row, in order, leave its sum in its part
// 0.
struct CombineRow {
  int32_t row;  // of the residual
  int32_t parts_begin;
  int32_t parts_end;
  int32_t adds_begin;
  int32_t adds_end;
};
struct CombineBatch {
  std::span<const float* const> parts;  // [hidden] each, in host memory as they came
  std::span<const PlannedAdd> adds;     // counting from parts_begin
  std::span<const CombineRow> rows;
  const float* shared = nullptr;  // [rows of the residual, hidden] or null: the trunk's own expert
  int64_t hidden = 0;
  // [parts] 1: it lies in device memory, which may be overwritten and stays until the next Fetch(); empty:
  // none does.
  std::span<const uint8_t> on_device = {};
};

struct PickRow {
  int32_t row;  // of the logits
  PickParams params;
};

// Operations of the trunk. One caller at a time; an operation may use all the device's threads.
class TrunkOps {
 public:
  virtual ~TrunkOps() = default;
  // x[i, :] = row ids[i] of `table`, which is host memory, dequantised. ids are within the table.
  virtual void Embed(const MatrixView& table, std::span<const int32_t> ids, float* x) = 0;
  // y = norm(x) in every form that `y` has. x [y->rows, y->cols].
  virtual void Norm(const NormWeights& norm, const float* x, Activations* y, RowFaults faults) = 0;
  // The quantised form of y->f32 (attention output before its projection).
  virtual void Quantize(Activations* y, RowFaults faults) = 0;
  // The products of one input, together, so that threads meet once. Outputs do not overlap.
  virtual void MatMuls(std::span<const Product> products, const Activations& x) = 0;
  void MatMul(const Matrix& w, const Activations& x, const float* bias, const float* add, float* y,
              int64_t stride) {
    const Product product = {&w, bias, add, y, stride};
    MatMuls({&product, 1}, x);
  }
  // Normalises (where asked), rotates, writes K and V of the batch to the cache, and attends.
  //   qkv [rows, (heads + 2 * kv_heads) * head_dim], q | k | v, overwritten.   out [rows, heads * head_dim].
  virtual void Attention(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                         float* qkv, float* out) = 0;
  // residual[row, :] += the row's sum of parts (+ shared[row, :]): residual + (routed + shared).
  virtual void Combine(const CombineBatch& batch, float* residual) = 0;
  // x[i, :] = x[rows[i], :]; rows ascend, each once.  x [more than rows.back(), cols].
  virtual void Gather(std::span<const int32_t> rows, int64_t cols, float* x) = 0;
  // ids[i] = the id that rows[i] picks from its logits [vocab], or -1 where one of these is NaN or +inf or
  // none is finite.  logits [rows, vocab], ids [rows.size()].
  virtual void Pick(std::span<const PickRow> rows, int64_t vocab, const float* logits, int32_t* ids) = 0;
  // Queues what `queue` queues by operations of this and of the same backend's ExpertOps, whose results are
  // the same in either way. What came before with the same number, rows and first_row may be replayed, and
  // `queue` is not called; or be recorded, and `queue` may then be called once more. So `queue` does nothing
  // but call Norm, Quantize, MatMuls, Attention, Select and RunSelected: the others read memory of the host
  // or wait.
  virtual void QueueSegment(const Segment& segment, absl::FunctionRef<void()> queue) = 0;
  // Rows rows[i] of x, one after another at `to`, device memory aligned to 16, as frames have them
  // (common/transport/frame.h): codes [rows.size(), cols] and behind them scales [rows.size(), cols / 32], or
  // where x.q is null f32 [rows.size(), cols].
  virtual void Pack(const Activations& x, std::span<const int32_t> rows, std::byte* to) = 0;
  // Waits for all operations before it, and sets `host` of each.
  virtual void Fetch(std::span<Fetched> wanted) = 0;
};

struct ExpertWeights {
  std::unique_ptr<Matrix> gate;  // [ffn_e, hidden]; all null where a slice is empty
  std::unique_ptr<Matrix> up;    // [ffn_e, hidden], quantised where gate is
  std::unique_ptr<Matrix> down;  // [hidden, ffn_e]
  Activation activation = Activation::kSilu;
};

// One part of a canonical sum (common/model/canonical_sum.h): entries [begin, end), in ascending order of
// expert, all under one node of the tree.
struct ExpertEntry {
  int32_t expert;
  float weight;
};
struct ExpertPart {
  int32_t row;    // of the activations
  int32_t begin;  // in entries
  int32_t end;
};

struct ExpertBatch {
  Activations x;  // [rows, hidden]
  std::span<const ExpertPart> parts;
  std::span<const ExpertEntry> entries;
  // Callers that compute even shares on this host at this moment, and which of them this one is.
  int host_callers = 1;
  int host_slot = 0;
  bool host_rows = false;  // x is host memory, free again on return
};

// Experts by number as RunSelected() takes them, made once. Immutable; the experts outlive it, and it does
// not outlive its backend.
class ExpertSet {
 public:
  virtual ~ExpertSet() = default;
};

// Rows and what their gate chose, all in device memory.
struct SelectedBatch {
  Activations x;                             // [rows, hidden]
  const SelectedExpert* selected = nullptr;  // [rows, experts_per_token] from Select()
  int experts_per_token = 0;
  const ExpertSet* shared = nullptr;     // the one expert that all rows take besides, or null
  const float* shared_logits = nullptr;  // [rows], the shared expert's weight being their sigmoid; null: 1
};

class ExpertOps {
 public:
  virtual ~ExpertOps() = default;
  // out[p, :] = the sum of part p: leaf e is weight * down(act(gate x) * up x), f32, finished from zero, and
  // leaves are added along the binary tree over expert numbers (siblings at level l differ in bit l). An
  // empty slice's leaf is a row of zeros.  experts is indexed by expert number; those named in entries are
  // loaded. out [parts, hidden].  Sets faults[p] where a part is not finite.
  virtual void Run(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
                   RowFaults faults) = 0;

  // --- Trunk and all experts of a layer on this device: nothing below waits for it. ---

  // Null where RunSelected() cannot take them: an expert is missing or not in memory of the device, or they
  // are of kinds that do not go together. ResourceExhausted names the bytes.
  virtual absl::StatusOr<std::unique_ptr<ExpertSet>> MakeSet(
      std::span<const ExpertWeights* const> experts) = 0;
  virtual bool CanSelect(const ModelConfig& config) const = 0;
  // What the gate of `config`, for which CanSelect(), chooses: as GatePolicy::Select. A row that is at fault,
  // before or by its logits, gets experts -1.
  //   logits [rows, experts], not read where the model is dense.   selected [rows, experts_per_token].
  virtual void Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
                      RowFaults faults) = 0;
  // residual[row, :] += the row's sum over its experts (+ the shared expert's): residual + (routed + shared),
  // with the bits of Run() and Combine(). Rows without experts are left alone.  residual [rows, hidden].
  virtual void RunSelected(const ExpertSet& set, const SelectedBatch& batch, float* residual,
                           RowFaults faults) = 0;
  // As TrunkOps::Fetch.
  virtual void Fetch(std::span<Fetched> wanted) = 0;
};

enum class Op : uint8_t { kEmbed, kMatMul, kExpert };

// Of every backend that gives the bits of the CPU's scalar kernels.
inline constexpr std::string_view kNumericClass = "cpu-1";

// The GPU that a backend computes on.
struct GpuFacts {
  std::string pci_bus_id;     // "0000:01:00.0"; empty: it computes on none
  uint64_t memory_bytes = 0;  // of it that weights may take; 0: not known
};

// The most that one call brings.
struct LargestCall {
  int rows = 0;
  int experts_per_row = 0;
  int ffn = 0;  // of an expert
};

// Of experts that lie in memory of the host and are copied to the device when they are chosen; each counted
// once a call.
struct ExpertCacheStats {
  uint64_t hits = 0;            // had a copy
  uint64_t copies = 0;          // were copied
  uint64_t read_from_host = 0;  // were read where they are: all copies belonged to the same call
  uint64_t exchanges = 0;       // came to lie on the device, in the place of one that was used less
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view Name() const = 0;     // "cpu", "cuda"
  virtual std::string NumericClass() const = 0;  // replicas of an expert share it
  virtual bool Supports(Op op, DType dtype) const = 0;
  // ResourceExhausted names the bytes.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) = 0;
  // InvalidArgument where columns do not fit the type's blocks, DataLoss where a scale is not finite; both
  // name values. May be called by several threads at once, and while operations run. What was made of the
  // same key before may be used in the place of `weights`, which are then not read.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> Load(const MatrixView& weights, const WeightKey& key) = 0;
  // A batch of Load() is over: what was made of keys may be kept for the next start. Does not wait for that,
  // except where what is kept is to be mapped (WeightOptions): then until it is written, or soon after `stop`
  // says so; the rest is left to the next call.
  virtual void KeepLoaded(absl::FunctionRef<bool()> stop) = 0;
  virtual TrunkOps& Trunk() = 0;
  virtual ExpertOps& Experts() = 0;
  virtual GpuFacts Gpu() const { return {}; }
  virtual ExpertCacheStats ExpertCopies() { return {}; }
  virtual SegmentStats Segments() { return {}; }
  // Takes the device memory that the operations work in, so that they need no more while they serve such
  // calls; nothing to do where that is the host's. ResourceExhausted names the bytes by role.
  virtual absl::Status ReserveTrunk(const ModelConfig&, const LargestCall&) { return absl::OkStatus(); }
  virtual absl::Status ReserveExperts(int /*hidden*/, const LargestCall&) { return absl::OkStatus(); }
};

struct WeightOptions {
  bool map = false;             // what is kept is mapped, rather than read into memory
  std::string cache_directory;  // of weights in the device's layout; empty: nothing is kept
  uint64_t cache_limit_bytes = uint64_t{64} << 30;
};

struct BackendOptions {
  std::string backend = "auto";  // auto, cpu, cuda
  std::string isa = "auto";      // cpu: auto, scalar, avx2, avx512, avx512vnni
  int threads = 0;               // cpu: 0 is one a core
  // cuda: most that is taken of the device's memory; 0: what is free at the start, less a margin.
  uint64_t device_memory_bytes = 0;
  // cuda: page-locked memory of the host for experts that do not fit the device.
  uint64_t pinned_memory_bytes = 0;
  bool fused = true;  // cuda: otherwise kernels are launched one by one, to see what fusing them is worth
  WeightOptions weights = {};
  int device = 0;           // cuda: of the machine's GPUs, counted from 0
  bool cuda_graphs = true;  // cuda: segments of few rows are recorded and replayed
};

// `auto` is cuda where the build and the machine have it, else cpu; the log says which GPU is used, or why
// none is though the build would use one. InvalidArgument for an unknown name or device; FailedPrecondition
// where the machine or the build lacks what was asked for by name.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options);

}  // namespace moepool
