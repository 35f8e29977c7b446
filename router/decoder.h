// The trunk of the model: from rows of tokens to logits, one step at a time, on one backend. The experts are
// workers', or run here too where the routes say that this backend has them all. Owned by the engine's
// thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/model/gate_policy.h"
#include "common/model/model_source.h"
#include "router/decoder_weights.h"
#include "router/dispatch.h"
#include "router/kv_cache.h"
#include "router/micro_batch.h"
#include "router/micro_batch_chooser.h"
#include "router/rope_tables.h"

namespace moepool {

// Called for each row that wants its id picked, in order.
using IdSink = std::function<void(int row, int32_t id)>;
// Called for each other row that wants logits, in order, and for those whose logits give no id; `logits`
// [vocab] may be overwritten.
using LogitsSink = std::function<void(int row, std::span<float> logits)>;

// Sees what the gate chose: selected [rows * experts_per_token], ascending within a row. A row that is
// faulty has been given nothing; what stands there means nothing, and may be expert -1.
using GateObserver =
    std::function<void(int layer, std::span<const StepRow> rows, std::span<const SelectedExpert> selected)>;

// Seams for tests.
struct DecoderHooks {
  std::shared_ptr<const GatePolicy> gate;  // in the place of the model's own
  GateObserver on_gate;
  // Of how many rows the first of two micro-batches is, in the place of half of them: a multiple of
  // kMicroBatchAlignment, and fewer than all.
  std::function<int(int rows)> first_rows = {};
};

class Decoder {
 public:
  // Loads the trunk's weights. Opens no tensor of a shared-out expert. `backend` outlives this.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(Backend* backend,
                                                         std::shared_ptr<const ModelSource> source,
                                                         int max_rows, DecoderHooks hooks = {});

  // Runs one step of at most max_rows rows, in one micro-batch or in two, where there are rows enough and the
  // experts are not run by the trunk itself; the results are the same. Unavailable: a worker was lost or
  // `routes` is stale; nothing was given to the sinks, and the same step can be run again. Cancelled, and the
  // same: `vain`, which is asked before each layer, has said that nobody wants the step any more, or the
  // dispatcher has. A row whose numbers are not finite has faults[row] set and yields no logits.
  absl::Status Forward(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                       const std::shared_ptr<const RoutingTable>& routes, int micro_batches, RowFaults faults,
                       const std::function<bool()>& vain, const IdSink& picked, const LogitsSink& sink);

  // How the layers of the last step went that succeeded; no micro-batches where the trunk ran the experts.
  const LayersTime& layers_time() const { return layers_time_; }
  int max_rows() const { return max_rows_; }

 private:
  Decoder(Backend* backend, std::shared_ptr<const ModelSource> source, int max_rows);
  absl::Status AllocateActivations();
  absl::StatusOr<Activations> MakeActivations(int cols);

  // What a step of these rows needs before its first layer.
  void Prepare(std::span<const StepRow> rows);
  // Makes batches_ of all rows of the step.
  void Split(std::span<const StepRow> rows, RowFaults faults, int micro_batches);
  // The step's rows [first, first + rows.size()).
  MicroBatch Part(int first, std::span<const StepRow> rows, RowFaults faults);
  // Runs batches_ through all layers. Of two the trunk computes one while the other is with the workers.
  absl::Status Layers(const KvCache& kv, Dispatcher* dispatcher,
                      const std::shared_ptr<const RoutingTable>& routes, const std::function<bool()>& vain);
  // Gives the layers' segments other numbers where what they are given is not what it was: the cache, and
  // where the trunk runs the experts the sets of `routes`.
  void NumberSegments(const KvCache& kv, const std::shared_ptr<const RoutingTable>& routes, bool direct);
  void Head(std::span<const StepRow> rows, RowFaults faults, const IdSink& picked, const LogitsSink& sink);
  // Fetches `wanted`, and what the gates of the step's layers chose where that is not counted yet.
  void FetchAndCount(std::span<Fetched> wanted);

  // --- One layer (decoder_layer.cc). ---

  AttentionShape ShapeOf(const TrunkLayer& layer) const;
  // Attention and gate, up to what the host needs of the gate: one segment.
  void QueueTrunk(const TrunkLayer& layer, int index, const KvCache& kv, MicroBatch* batch);
  // The layer as a whole, with the trunk's own experts: one segment.
  void QueueAll(const TrunkLayer& layer, int index, const KvCache& kv, const ExpertSet& set,
                MicroBatch* batch);
  void QueueSegment(const TrunkLayer& layer, uint64_t number, MicroBatch* batch,
                    absl::FunctionRef<void()> queue);
  void AttentionBlock(const TrunkLayer& layer, int index, const KvCache& kv, MicroBatch* batch);
  // The norm before the experts, and the logits of the gates, on the device.
  void GateLogits(const TrunkLayer& layer, int index, MicroBatch* batch);
  // Where the device has what the gate of the layer under way chose, if it is workers that run it.
  SelectedExpert* DeviceChoice(const MicroBatch& batch) const;
  // Waits for the choice, or makes it: fills `selected` of the batch, host_shared_logits_, and where
  // `rows_too` the rows in host memory as the layer's dispatch carries them, until the next Fetch(). They are
  // without pointers otherwise.
  Activations FetchChoice(const TrunkLayer& layer, bool rows_too, MicroBatch* batch);
  // `rows` in the form alone in which the layer's dispatch carries them.
  static Activations WireForm(const TrunkLayer& layer, Activations rows);
  // From what the gate gives to the layer's exchange, which is under way on return.
  absl::Status BeginExperts(const TrunkLayer& layer, int index, MicroBatch* batch, Dispatcher* dispatcher,
                            const std::shared_ptr<const RoutingTable>& routes);
  // Adds what the exchange gives, where one is under way, and the trunk's own expert, which computes until
  // then: behind the other micro-batch's gate, for which the host waits.
  absl::Status FinishExperts(MicroBatch* batch, Dispatcher* dispatcher);
  // By the logits of its gate that were fetched last.
  void WeighSharedExpert(const TrunkLayer& layer, MicroBatch* batch);
  // What the trunk's own expert gives each row of `normed`, or null where the model has none.
  const float* SharedExpert(const TrunkLayer& layer, MicroBatch* batch);
  // Whether the trunk runs all experts of `routes` itself. Layers are then queued one after the other, and
  // faults and what the gates chose are known after the step's next Fetch() alone.
  bool RunsDirectly(const RoutingTable& routes) const;
  void DirectExperts(const TrunkLayer& layer, int index, const ExpertSet& set, MicroBatch* batch);

  Backend* const backend_;
  const std::shared_ptr<const ModelSource> source_;
  const ModelConfig& config_;
  const int max_rows_;
  std::shared_ptr<const GatePolicy> gate_policy_;
  bool selects_on_device_ = false;  // the gate's rule is the model's own, which the backend has
  GateObserver on_gate_;
  std::function<int(int)> first_rows_;

  TrunkWeights weights_;
  RopeTables rope_;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // what the pointers below point into

  // Rows of logits computed at a time: a step that scores a whole chunk would otherwise hold rows * vocab
  // floats.
  static constexpr int kHeadRows = 32;
  // Of a step, sized for max_rows; device memory unless it is a vector.
  MicroBatch all_;  // where the first row of each activation stands
  std::vector<MicroBatch> batches_;
  LayersTime layers_time_;
  uint64_t first_segment_ = 0;        // two of each layer: its trunk, and all of it
  std::vector<KvLayer> segments_kv_;  // [layers] that they are given
  bool segments_direct_ = false;
  std::weak_ptr<const RoutingTable> segments_routes_;
  float* logits_ = nullptr;                    // [kHeadRows, vocab]
  int32_t* ids_ = nullptr;                     // [kHeadRows]
  SelectedExpert* device_selected_ = nullptr;  // [layers, rows, experts_per_token]
  std::vector<float> cos_;                     // [rows, rope dims / 2]
  std::vector<float> sin_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<const int32_t*> tables_;
  std::vector<SelectedExpert> selected_;   // [rows * experts_per_token]
  std::vector<float> host_shared_logits_;  // [rows] of the micro-batch whose gate has chosen last

  std::vector<float> shared_weights_;  // [rows]

  std::vector<Fetched> fetched_;  // scratch
  std::vector<Fetched> wanted_;   // of the head
  // Of a step whose experts the trunk runs: to be counted once what the gates chose is fetched.
  Dispatcher* counter_ = nullptr;  // null: nothing is left to count
  const RoutingTable* direct_routes_ = nullptr;
  std::vector<absl::Duration> direct_times_;  // [layers]
  std::vector<ExpertPart> shared_parts_;
  std::vector<ExpertEntry> shared_entries_;
  std::vector<uint8_t> head_faults_;
  std::vector<int32_t> head_rows_;
  std::vector<PickRow> picks_;
  std::vector<size_t> no_id_;  // rows under way whose logits give none
};

}  // namespace moepool
