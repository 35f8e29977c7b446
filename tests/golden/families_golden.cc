#include "tests/golden/families_golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "nlohmann/json.hpp"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/support/run_sequence.h"

namespace moepool {
namespace {

constexpr char kFolder[] = "tests/golden/families";

SynthSpec SpecFromJson(const nlohmann::json& json) {
  SynthSpec spec;
  spec.dtype = DType::kF32;
  const auto get = [&](const std::string& key, const nlohmann::json& value, auto& field, const char* name) {
    if (key == name) field = value.get<std::decay_t<decltype(field)>>();
    return key == name;
  };
  for (const auto& [key, value] : json.items()) {
    if (key == "dtype") {
      EXPECT_EQ(value, "F32");
      continue;
    }
    const bool known =
        get(key, value, spec.family, "family") || get(key, value, spec.name, "name") ||
        get(key, value, spec.hidden, "hidden") || get(key, value, spec.layers, "layers") ||
        get(key, value, spec.heads, "heads") || get(key, value, spec.kv_heads, "kv_heads") ||
        get(key, value, spec.head_dim, "head_dim") || get(key, value, spec.experts, "experts") ||
        get(key, value, spec.experts_per_token, "experts_per_token") || get(key, value, spec.ffn, "ffn") ||
        get(key, value, spec.shared_ffn, "shared_ffn") || get(key, value, spec.vocab, "vocab") ||
        get(key, value, spec.context, "context") || get(key, value, spec.rope_base, "rope_base") ||
        get(key, value, spec.rope_linear_factor, "rope_linear_factor") ||
        get(key, value, spec.rope_freqs, "rope_freqs") ||
        get(key, value, spec.original_context, "original_context") ||
        get(key, value, spec.sliding_window, "sliding_window") ||
        get(key, value, spec.qkv_bias, "qkv_bias") ||
        get(key, value, spec.tied_embeddings, "tied_embeddings") ||
        get(key, value, spec.split_experts, "split_experts") || get(key, value, spec.seed, "seed");
    if (!known) ADD_FAILURE() << "unknown field of a golden file: " << key;
  }
  return spec;
}

}  // namespace

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

Golden ReadGolden(const std::string& name) {
  const std::string path = std::string(kFolder) + "/" + name + ".bin";
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  Golden golden;
  EXPECT_GE(bytes.size(), 12u) << path;
  EXPECT_EQ(bytes.substr(0, 8), "MPGOLD1\n") << path;
  uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 8, 4);
  const nlohmann::json json = nlohmann::json::parse(bytes.substr(12, length));
  golden.spec = SpecFromJson(json["spec"]);
  golden.ids = json["ids"].get<std::vector<int32_t>>();
  golden.positions = json["positions"].get<std::vector<int32_t>>();
  if (!json["experts"].is_null()) golden.experts = json["experts"].get<decltype(golden.experts)>();
  golden.logits.resize(golden.positions.size() * json["vocab"].get<size_t>());
  EXPECT_EQ(bytes.size(), 12 + length + golden.logits.size() * sizeof(float)) << path;
  std::memcpy(golden.logits.data(), bytes.data() + 12 + length, golden.logits.size() * sizeof(float));
  return golden;
}

GoldenDifference RunGolden(const Golden& golden, const std::shared_ptr<const ModelSource>& source,
                           int step_tokens, std::shared_ptr<const GatePolicy> gate) {
  GoldenDifference difference;
  const std::unique_ptr<Backend> backend = MakeBackend({"cpu", "auto", 2}).value();
  const auto pool = LocalPool::Create(source, backend.get(), 3).value();
  EngineOptions options;
  options.limits.token_budget = step_tokens;
  options.kv_type = KvType::kF32;
  options.kv_bytes = 16 << 20;
  options.decoder.gate = std::move(gate);
  const size_t k = static_cast<size_t>(source->Config().experts_per_token);
  options.decoder.on_gate = [&](int layer, std::span<const StepRow> rows,
                                std::span<const SelectedExpert> selected) {
    if (golden.experts.empty()) return;
    for (size_t t = 0; t < rows.size(); ++t) {
      const auto& expected =
          golden.experts[static_cast<size_t>(layer)][static_cast<size_t>(rows[t].position)];
      const bool equal = std::equal(expected.begin(), expected.end(), &selected[t * k], &selected[t * k] + k,
                                    [](int32_t e, const SelectedExpert& s) { return e == s.expert; });
      difference.choices += !equal;
      ++difference.choices_seen;
    }
  };
  SequenceResult result;
  {
    const auto engine = Engine::Create(backend.get(), source, pool.get(), options).value();
    SequenceRequest request;
    request.prompt = golden.ids;
    request.first_logits = 0;
    result = RunSequence(engine.get(), request);
  }
  EXPECT_TRUE(result.status.ok()) << result.status;
  const size_t vocab = static_cast<size_t>(golden.spec.vocab);
  for (size_t i = 0; i < golden.positions.size(); ++i) {
    const size_t position = static_cast<size_t>(golden.positions[i]);
    if (position >= result.logits.size() || result.logits[position].logits.size() != vocab) {
      difference.logits = std::numeric_limits<double>::infinity();
      break;
    }
    double largest = 0;
    double apart = 0;
    for (size_t v = 0; v < vocab; ++v) {
      const float theirs = golden.logits[i * vocab + v];
      largest = std::max<double>(largest, std::fabs(theirs));
      const double error = std::fabs(result.logits[position].logits[v] - theirs);
      apart = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(apart, error);
    }
    difference.logits = std::max(difference.logits, apart / largest);
  }
  return difference;
}

}  // namespace moepool
