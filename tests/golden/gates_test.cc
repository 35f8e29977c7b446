// The gate rules on given logits against transformers' routers (make_gates.py), ties and edges included, and
// that each clause of a rule, changed, shows.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/golden/gate_mutants.h"

namespace moepool {
namespace {

struct GateCase {
  std::string rule;
  ModelConfig config;
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<SelectedExpert>> selected;
};

std::vector<GateCase> ReadCases() {
  std::vector<GateCase> cases;
  std::ifstream in("tests/golden/gates.json");
  for (const nlohmann::json& json : nlohmann::json::parse(in)) {
    GateCase& c = cases.emplace_back();
    c.rule = json["rule"];
    c.config.experts = json["experts"];
    c.config.experts_per_token = json["k"];
    c.config.gate.kind = c.rule == "sparsemixer" ? GateKind::kSparseMixer : GateKind::kSoftmax;
    c.config.gate.renormalize = c.rule == "softmax_renormalized";
    c.config.gate.jitter_eps = 0.01f;
    for (size_t row = 0; row < json["logits64"].size(); ++row) {
      for (auto& logit : c.logits.emplace_back(json["logits64"][row].get<std::vector<float>>())) logit /= 64;
      auto& selected = c.selected.emplace_back();
      for (size_t i = 0; i < json["chosen"][row].size(); ++i) {
        selected.push_back({json["chosen"][row][i].get<int32_t>(), json["weights"][row][i].get<float>()});
      }
    }
  }
  return cases;
}

// Rows in which `gate` chooses other experts or weighs them otherwise.
int Differences(const GateCase& c, const GatePolicy& gate) {
  int differences = 0;
  for (size_t row = 0; row < c.logits.size(); ++row) {
    std::vector<SelectedExpert> ours(static_cast<size_t>(c.config.experts_per_token));
    bool equal = gate.Select(c.logits[row], ours);
    for (size_t i = 0; i < ours.size(); ++i) {
      const SelectedExpert& theirs = c.selected[row][i];
      equal = equal && ours[i].expert == theirs.expert &&
              std::fabs(ours[i].weight - theirs.weight) <= 1e-5f * theirs.weight;
    }
    differences += !equal;
  }
  return differences;
}

int Differences(const std::vector<GateCase>& cases, const std::string& rule, const GatePolicy& gate) {
  int differences = 0;
  for (const GateCase& c : cases) differences += c.rule == rule ? Differences(c, gate) : 0;
  return differences;
}

TEST(Gates, ChooseAndWeighAsTransformers) {
  const std::vector<GateCase> cases = ReadCases();
  ASSERT_EQ(cases.size(), 6u);
  for (const GateCase& c : cases) {
    EXPECT_EQ(Differences(c, **MakeGatePolicy(c.config)), 0) << c.rule << " of " << c.config.experts;
  }
}

TEST(Gates, SoftmaxMutantsDiffer) {
  const std::vector<GateCase> cases = ReadCases();
  for (const bool renormalize : {false, true}) {
    const std::string rule = renormalize ? "softmax_renormalized" : "softmax";
    SoftmaxGateRule gate;
    gate.renormalize = renormalize;
    EXPECT_EQ(Differences(cases, rule, gate), 0);
    gate.renormalize = !renormalize;
    EXPECT_GT(Differences(cases, rule, gate), 0);
    gate.renormalize = renormalize;
    gate.sigmoid = true;
    EXPECT_GT(Differences(cases, rule, gate), 0);
    gate.sigmoid = false;
    gate.skip = 1;
    EXPECT_GT(Differences(cases, rule, gate), 0);
  }
}

TEST(Gates, SparseMixerMutantsDiffer) {
  const std::vector<GateCase> cases = ReadCases();
  const auto differences = [&](const std::function<void(SparseMixerGateRule*)>& mutate) {
    SparseMixerGateRule gate;
    mutate(&gate);
    return Differences(cases, "sparsemixer", gate);
  };
  EXPECT_EQ(differences([](SparseMixerGateRule*) {}), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->eps = 0.1; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->eps = 0.005; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->first_mask = false; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->second_mask = false; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->by_size = false; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->take_first = false; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->higher_ties = true; }), 0);
  EXPECT_GT(differences([](SparseMixerGateRule* gate) { gate->renormalize = true; }), 0);
  SoftmaxGateRule softmax;
  softmax.renormalize = true;  // llama.cpp's
  EXPECT_GT(Differences(cases, "sparsemixer", softmax), 0);
}

}  // namespace
}  // namespace moepool
