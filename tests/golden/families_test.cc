// Whole tiny models against transformers in F32 (make_families.py): every row of logits within 1e-3 of the
// row's largest value, prefilled at once and token by token.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <tuple>

#include "common/model/synthetic.h"
#include "nlohmann/json.hpp"
#include "router/engine.h"
#include "router/local_pool.h"
#include "tests/support/run_sequence.h"

namespace moepool {
namespace {

constexpr char kFolder[] = "tests/golden/families";

struct Golden {
  SynthSpec spec;
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<float> logits;  // [positions, vocab]
};

SynthSpec SpecFromJson(const nlohmann::json& json) {
  SynthSpec spec;
  spec.dtype = DType::kF32;
  for (const auto& [key, value] : json.items()) {
    if (key == "family")
      spec.family = value;
    else if (key == "name")
      spec.name = value;
    else if (key == "hidden")
      spec.hidden = value;
    else if (key == "layers")
      spec.layers = value;
    else if (key == "heads")
      spec.heads = value;
    else if (key == "kv_heads")
      spec.kv_heads = value;
    else if (key == "head_dim")
      spec.head_dim = value;
    else if (key == "experts")
      spec.experts = value;
    else if (key == "experts_per_token")
      spec.experts_per_token = value;
    else if (key == "ffn")
      spec.ffn = value;
    else if (key == "vocab")
      spec.vocab = value;
    else if (key == "context")
      spec.context = value;
    else if (key == "rope_base")
      spec.rope_base = value;
    else if (key == "rope_linear_factor")
      spec.rope_linear_factor = value;
    else if (key == "rope_freqs")
      spec.rope_freqs = value;
    else if (key == "qkv_bias")
      spec.qkv_bias = value;
    else if (key == "tied_embeddings")
      spec.tied_embeddings = value;
    else if (key == "seed")
      spec.seed = value;
    else if (key == "dtype")
      EXPECT_EQ(value, "F32");
    else
      ADD_FAILURE() << "unknown field of a golden file: " << key;
  }
  return spec;
}

Golden ReadGolden(const std::string& path) {
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
  golden.logits.resize(golden.positions.size() * json["vocab"].get<size_t>());
  EXPECT_EQ(bytes.size(), 12 + length + golden.logits.size() * sizeof(float)) << path;
  std::memcpy(golden.logits.data(), bytes.data() + 12 + length, golden.logits.size() * sizeof(float));
  return golden;
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

class FamiliesTest : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(FamiliesTest, LogitsAreThoseOfTransformers) {
  const auto& [name, step_tokens] = GetParam();
  const Golden golden = ReadGolden(std::string(kFolder) + "/" + name + ".bin");
  std::shared_ptr<const ModelSource> source = MakeSyntheticSource(golden.spec).value();
  const std::unique_ptr<Backend> backend = MakeBackend({"cpu", "auto", 2}).value();
  const auto pool = LocalPool::Create(source, backend.get(), 3).value();
  EngineOptions options;
  options.limits.token_budget = step_tokens;
  options.kv_type = KvType::kF32;
  options.kv_bytes = 16 << 20;
  auto engine = Engine::Create(backend.get(), source, pool.get(), options).value();
  SequenceRequest request;
  request.prompt = golden.ids;
  request.first_logits = 0;
  const SequenceResult result = RunSequence(engine.get(), request);
  ASSERT_TRUE(result.status.ok()) << result.status;
  const size_t vocab = static_cast<size_t>(golden.spec.vocab);
  double worst = 0;
  for (size_t i = 0; i < golden.positions.size(); ++i) {
    ASSERT_LT(static_cast<size_t>(golden.positions[i]), result.logits.size());
    const std::vector<float>& ours = result.logits[static_cast<size_t>(golden.positions[i])].logits;
    ASSERT_EQ(ours.size(), vocab);
    double largest = 0;
    double difference = 0;
    for (size_t v = 0; v < vocab; ++v) {
      const float theirs = golden.logits[i * vocab + v];
      largest = std::max<double>(largest, std::fabs(theirs));
      difference = std::max<double>(difference, std::fabs(ours[v] - theirs));
    }
    EXPECT_LE(difference, 1e-3 * largest) << "position " << golden.positions[i];
    worst = std::max(worst, difference / largest);
  }
  std::printf("largest difference: %.2e of the row's largest logit\n", worst);
}

// A whole prompt a step, chunks that straddle the cache's blocks, and one token a step as in decode.
INSTANTIATE_TEST_SUITE_P(All, FamiliesTest,
                         ::testing::Combine(::testing::ValuesIn(Names()), ::testing::Values(512, 23, 1)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace moepool
