// See model_report.h.
#include "common/model/model_report.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/checked_model.h"
#include "common/model/expert_tensors.h"
#include "common/model/gguf_file.h"
#include "common/model/gguf_source.h"

namespace moepool {
namespace {

std::string Size(uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? absl::StrFormat("%.0f %s", value, kUnits[unit])
                   : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string Shape(const TensorInfo& tensor) {
  std::string shape;
  for (int i = 0; i < tensor.n_dims; ++i) shape += StrCat(i == 0 ? "" : " x ", tensor.dims[i]);
  return shape;
}

void AddTotals(ModelReport* report) {
  std::array<TypeTotal, kDTypeCount> totals;
  for (const TensorInfo& tensor : report->tensors) {
    TypeTotal& total = totals[static_cast<size_t>(tensor.dtype)];
    total.dtype = tensor.dtype;
    ++total.tensors;
    total.bytes += tensor.bytes;
  }
  for (const TypeTotal& total : totals) {
    if (total.tensors > 0) report->types.push_back(total);
  }
}

void AddServing(const ModelSource& source, ModelReport* report) {
  report->config = source.Config();
  for (const TensorInfo& tensor : source.Tensors()) {
    (IsExpertTensor(source.Config(), tensor.name) ? report->expert_bytes : report->trunk_bytes) +=
        tensor.bytes;
  }
  const std::vector<uint64_t> experts = ExpertBytes(source);
  const auto [smallest, largest] = std::minmax_element(experts.begin(), experts.end());
  report->smallest_expert_bytes = *smallest;
  report->largest_expert_bytes = *largest;

  const TokenizerSpec& tokenizer = source.Tokenizer();
  if (tokenizer.tokens.empty()) report->warnings.push_back("no tokenizer: the model takes token ids alone");
  if (!tokenizer.tokens.empty() && tokenizer.pre.empty()) {
    report->warnings.push_back("tokenizer.ggml.pre is missing: the pre-tokenizer is unknown");
  }
  if (!tokenizer.tokens.empty() && tokenizer.eos_id < 0 && tokenizer.eot_id < 0) {
    report->warnings.push_back("no end-of-sequence token: answers end at their length limit");
  }
  if (tokenizer.chat_template.empty()) report->warnings.push_back("no chat template: prompts are taken raw");
  if (*smallest == 0)
    report->warnings.push_back("some expert slices are empty: the FFN has under 16 blocks of 32");
}

std::string_view GateName(const GateConfig& gate) {
  switch (gate.kind) {
    case GateKind::kDense:
      return "all";
    case GateKind::kSoftmax:
      return gate.renormalize ? "softmax, renormalised" : "softmax";
    case GateKind::kSigmoid:
      return gate.renormalize ? "sigmoid, renormalised" : "sigmoid";
    case GateKind::kSparseMixer:
      return "sparsemixer";
  }
  return "";
}

std::string AttentionLine(const ModelConfig& c) {
  std::string out =
      StrCat("attention     ", c.heads, " heads, ", c.kv_heads, " kv heads, head size ", c.head_dim);
  if (c.qk_norm != QkNorm::kNone) out += c.qk_norm == QkNorm::kHead ? ", qk norm" : ", qk norm of the row";
  if (c.qkv_bias) out += ", qkv bias";
  if (c.attn_output_bias) out += ", output bias";
  if (c.sliding_window > 0) out += StrCat(", window ", c.sliding_window);
  return StrCat(out, ", context ", c.context_tokens, "\n");
}

std::string RopeLine(const RopeConfig& rope) {
  std::string out = StrCat("rope          ", rope.kind == RopeKind::kNeox ? "neox" : "interleaved", ", ",
                           rope.dims, " dimensions, base ", rope.base);
  if (rope.linear_factor != 1) out += StrCat(", linear factor ", rope.linear_factor);
  if (!rope.long_factors.empty()) {
    out += StrCat(", long factors beyond ", rope.original_context_tokens, " tokens, scale ", rope.mscale);
  } else if (!rope.freq_factors.empty()) {
    out += ", frequency factors";
  }
  return out + "\n";
}

std::string ConfigLines(const ModelConfig& c) {
  std::string out =
      StrCat("family        ", c.family, c.dense() ? " (dense, served as expert slices)" : "", "\n");
  out += StrCat("layers        ", c.layers, ", hidden ", c.hidden, ", ffn ", c.ffn, ", vocabulary ",
                c.vocab_size, c.tied_embeddings ? " (tied)" : "", c.output_bias ? " (bias)" : "", ", ",
                c.norm == NormKind::kRms ? "rms norm" : "layer norm", c.norm_bias ? " with bias" : "", "\n");
  out += AttentionLine(c);
  out += StrCat("experts       ", c.experts, " a layer, ", c.experts_per_token, " a token, gate ",
                GateName(c.gate));
  if (c.shared_ffn > 0) out += StrCat(", shared expert of ", c.shared_ffn, c.shared_gated ? " (gated)" : "");
  return out + "\n" + RopeLine(c.rope);
}

}  // namespace

absl::StatusOr<ModelReport> DescribeGguf(const std::string& path) {
  ModelReport report;
  report.path = path;
  {
    MOEPOOL_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
    report.file_bytes = file.identity().bytes;
    const auto read = [&file](uint64_t offset, uint64_t bytes, char* out) {
      return file.ReadAt(offset, bytes, out);
    };
    MOEPOOL_ASSIGN_OR_RETURN(GgufFile header, ReadGguf(report.file_bytes, read));
    report.gguf_version = header.version;
    report.alignment = header.alignment;
    for (const auto& [key, value] : header.metadata.values())
      report.metadata.emplace_back(key, Render(value));
    for (GgufTensor& tensor : header.tensors) report.tensors.push_back(std::move(tensor.info));
  }
  AddTotals(&report);
  const absl::StatusOr<std::unique_ptr<ModelSource>> source = OpenGguf(path);
  report.servable = source.status();
  if (source.ok()) AddServing(**source, &report);
  return report;
}

std::string ToString(const ModelReport& report, bool all_tensors) {
  std::string out = StrCat("file          ", report.path, " (", Size(report.file_bytes), ", GGUF version ",
                           report.gguf_version, ", alignment ", report.alignment, ")\n");
  if (report.servable.ok()) {
    out += StrCat("model         ", report.config.name, "\n", ConfigLines(report.config));
    out += StrCat("trunk         ", Size(report.trunk_bytes), "\nexpert        ", Size(report.expert_bytes),
                  " in all, ", Size(report.smallest_expert_bytes), " to ", Size(report.largest_expert_bytes),
                  " each\n");
  } else {
    out += StrCat("not servable  ", ToStd(report.servable.message()), "\n");
  }
  for (const std::string& warning : report.warnings) out += StrCat("warning       ", warning, "\n");
  out += "\nmetadata\n";
  for (const auto& [key, value] : report.metadata) out += absl::StrFormat("  %-44s %s\n", key, value);
  out += "\ntypes\n";
  for (const TypeTotal& total : report.types) {
    out += absl::StrFormat("  %-6s %6d tensors %12s\n", Info(total.dtype).name, total.tensors,
                           Size(total.bytes));
  }
  if (!all_tensors) return out;
  out += "\ntensors\n";
  for (const TensorInfo& tensor : report.tensors) {
    out += absl::StrFormat("  %-34s %-6s %-26s %12s\n", tensor.name, Info(tensor.dtype).name, Shape(tensor),
                           Size(tensor.bytes));
  }
  return out;
}

}  // namespace moepool
