// The head of a step: see decoder.h.
#include <algorithm>

#include "common/base/trace.h"
#include "router/decoder.h"

namespace moepool {

void Decoder::FetchAndCount(std::span<Fetched> wanted) {
  fetched_.assign(wanted.begin(), wanted.end());
  const size_t each = tokens_.size() * static_cast<size_t>(config_.experts_per_token);
  const size_t layers = counter_ != nullptr ? direct_times_.size() : 0;
  fetched_.push_back({device_selected_, layers * each * sizeof(SelectedExpert)});
  backend_->Trunk().Fetch(fetched_);
  std::copy_n(fetched_.begin(), wanted.size(), wanted.begin());
  const auto* const selected = static_cast<const SelectedExpert*>(fetched_.back().host);
  for (size_t layer = 0; layer < layers; ++layer) {
    counter_->CountDirect(static_cast<int>(layer), static_cast<int>(tokens_.size()),
                          {selected + layer * each, each}, *direct_routes_, direct_times_[layer]);
  }
  counter_ = nullptr;
}

void Decoder::Head(std::span<const StepRow> rows, RowFaults faults, const IdSink& picked,
                   const LogitsSink& sink) {
  TrunkOps& ops = backend_->Trunk();
  const size_t hidden = static_cast<size_t>(config_.hidden);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  head_rows_.clear();
  for (size_t t = 0; t < rows.size(); ++t) {
    if (rows[t].wants_logits && !faults[t]) head_rows_.push_back(static_cast<int32_t>(t));
  }
  const TraceSpan span("head", {"rows", static_cast<int64_t>(head_rows_.size())});
  const auto logits_of = [&](size_t i) { return Fetched{logits_ + i * vocab, vocab * sizeof(float)}; };
  ops.Gather(head_rows_, config_.hidden, all_.x);  // which nothing else reads after this
  for (size_t begin = 0; begin < head_rows_.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, head_rows_.size() - begin);
    head_faults_.assign(count, 0);
    Activations normed = all_.normed;
    normed.rows = static_cast<int>(count);
    ops.Norm(weights_.output_norm, all_.x + begin * hidden, &normed, head_faults_);
    ops.MatMul(*weights_.head, normed, weights_.head_bias, nullptr, logits_, config_.vocab_size);
    picks_.clear();
    wanted_.assign(1, {});
    for (size_t i = 0; i < count; ++i) {
      const std::optional<PickParams>& pick = rows[static_cast<size_t>(head_rows_[begin + i])].pick;
      if (pick.has_value()) {
        picks_.push_back({static_cast<int32_t>(i), *pick});
      } else {
        wanted_.push_back(logits_of(i));
      }
    }
    if (!picks_.empty()) {
      const TraceSpan sample("sample", {"rows", static_cast<int64_t>(picks_.size())});
      ops.Pick(picks_, config_.vocab_size, logits_, ids_);
    }
    wanted_[0] = {ids_, picks_.size() * sizeof(int32_t)};
    FetchAndCount(wanted_);
    const auto* const ids = static_cast<const int32_t*>(wanted_[0].host);
    size_t next_id = 0;
    size_t next_logits = 1;
    no_id_.clear();
    for (size_t i = 0; i < count; ++i) {
      const int32_t row = head_rows_[begin + i];
      if (head_faults_[i]) faults[row] = 1;
      const bool faulty = faults[row] != 0;  // those of the layers may have come with the logits
      if (!rows[static_cast<size_t>(row)].pick.has_value()) {
        const Fetched& logits = wanted_[next_logits++];
        if (!faulty) sink(row, {logits.f32(), vocab});
        continue;
      }
      const int32_t id = ids[next_id++];
      if (faulty) continue;
      if (id >= 0) {
        picked(row, id);
      } else {
        no_id_.push_back(i);
      }
    }
    for (const size_t i : no_id_) {
      Fetched unusable = logits_of(i);
      ops.Fetch({&unusable, 1});
      sink(head_rows_[begin + i], {unusable.f32(), vocab});
    }
  }
}

}  // namespace moepool
