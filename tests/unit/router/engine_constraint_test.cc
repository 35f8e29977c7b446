// Answers under a grammar and limits on thinking, through the engine: a model of random weights, which left
// alone says anything.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/str.h"
#include "common/constrain/json_schema.h"
#include "common/text/tokenizer.h"
#include "router/constraints.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

constexpr int32_t kEndOfTurn = 258;  // of the synthetic tokenizer, whose first ids are the bytes

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.Encode(text, /*parse_special=*/true).value();
}

class EngineConstraintTest : public EngineTest {
 protected:
  void StartModel(EngineOptions options = {}) {
    SynthSpec spec = MixtralSpec();
    Start(spec, options);
    auto tokenizer = MakeTokenizer(source_->Tokenizer());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  static SequenceRequest Hot(uint64_t seed, std::string grammar) {
    SequenceRequest request = Request(7, 200);
    request.sampling.temperature = 1;
    request.sampling.seed = seed;
    request.stop_ids = {kEndOfTurn};
    request.constraint.grammar = std::move(grammar);
    return request;
  }
  std::string Text(const std::vector<int32_t>& ids) const {
    std::string text;
    for (const int32_t id : ids) text += tokenizer_->Bytes(id, /*special=*/true);
    return text;
  }
  static std::string Schema() {
    return JsonSchemaToGrammar(nlohmann::ordered_json::parse(R"({
      "type": "object",
      "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["x", "é", "\"quoted\""]}, "maxItems": 2}
      },
      "required": ["name", "age"]
    })"))
        .value();
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(EngineConstraintTest, AnswersAreWhatTheSchemaSays) {
  StartModel();
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SequenceRequest request = Hot(seed, Schema());
    if (seed % 2 == 1) request.stop_ids.clear();  // as where the end of text is ignored
    if (seed % 3 == 2) request.sampling.min_tokens = 190;
    SequenceUpdate last;
    const std::string text = Text(Run(request, &last));
    ASSERT_TRUE(last.status.ok()) << last.status;
    EXPECT_EQ(last.reason, FinishReason::kStop) << text;
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object()) << text;
    EXPECT_TRUE(json["name"].is_string());
    EXPECT_TRUE(json["age"].is_number_integer() && json["age"] >= 0 && json["age"] <= 130) << text;
    EXPECT_LE(json.value("tags", nlohmann::json::array()).size(), 2u);
  }
  EXPECT_GT(engine_->Stats().constraint_mask_seconds, 0);
}

TEST_F(EngineConstraintTest, TokensAreTheSameInABatchThatIsPreempted) {
  const std::string grammar = "root ::= \"{\" [a-z0-9 ]{250,290} (\",\" [A-Z]+)* \"}\"";
  EngineOptions options;
  StartModel(options);
  std::vector<std::vector<int32_t>> alone;
  for (uint64_t seed = 0; seed < 6; ++seed) alone.push_back(Run(Hot(seed, grammar)));
  engine_.reset();
  options.kv_bytes = KvCache::BlockBytes(source_->Config(), options.kv_type) * 16;
  options.limits.token_budget = 9;
  StartModel(options);
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    collectors.push_back(std::make_unique<Collector>());
    SequenceRequest request = Hot(seed, grammar);
    auto call = engine_->Generate(request, collectors.back()->Callback());
    ASSERT_TRUE(call.ok()) << call.status();
    calls.push_back(*std::move(call));
  }
  for (size_t seed = 0; seed < 6; ++seed) {
    const SequenceUpdate last = collectors[seed]->WaitFinished();
    EXPECT_TRUE(last.status.ok()) << last.status;
    EXPECT_EQ(collectors[seed]->ids(), alone[seed]) << seed;
  }
  EXPECT_GT(engine_->Stats().preemptions, 0u);
}

TEST_F(EngineConstraintTest, StopIdsComeWhereTheGrammarMayEnd) {
  StartModel();
  SequenceRequest request = Hot(3, "root ::= (\"ab\" [cd])+");
  request.sampling.logit_bias = {{kEndOfTurn, 100}};
  SequenceUpdate last;
  EXPECT_EQ(Text(Run(request, &last)).size(), 3u);
  EXPECT_EQ(last.reason, FinishReason::kStop);
  request.sampling.min_tokens = 7;  // the end may come behind nine
  EXPECT_EQ(Text(Run(request, &last)).size(), 9u);
  EXPECT_EQ(last.reason, FinishReason::kStop);
  request.stop_ids.clear();
  request.max_tokens = 20;
  EXPECT_EQ(Run(request, &last).size(), 20u);
  EXPECT_EQ(last.reason, FinishReason::kLength);
}

TEST_F(EngineConstraintTest, TextIsFreeUpToTheMarker) {
  StartModel();
  SequenceRequest request = Hot(5, "root ::= \"yes\" | \"no\"");
  request.constraint.begin_after = "</t>";
  request.reasoning.max_tokens = 9;
  request.reasoning.end_ids = Ids(*tokenizer_, "</t>\n");
  SequenceUpdate last;
  const std::string text = Text(Run(request, &last));
  const size_t marker = text.find("</t>\n");
  ASSERT_NE(marker, std::string::npos) << text;
  const std::string rest = text.substr(marker + 5);  // behind at most one more blank
  EXPECT_TRUE(rest == "yes" || rest == "no" || rest.substr(1) == "yes" || rest.substr(1) == "no") << text;
  EXPECT_EQ(last.reason, FinishReason::kStop);
  EXPECT_GE(text.size(), 9 + std::string("</t>\nno").size());
  // The text may not end before.
  request.reasoning = {};
  request.max_tokens = 40;
  request.sampling.logit_bias = {{kEndOfTurn, 100}};
  EXPECT_EQ(Run(request, &last).size(), 40u);
  EXPECT_EQ(last.reason, FinishReason::kLength);
  request.constraint.may_end_free = true;
  EXPECT_EQ(Run(request, &last).size(), 0u);
  EXPECT_EQ(last.reason, FinishReason::kStop);
}

TEST_F(EngineConstraintTest, ThinkingEndsAtItsLimit) {
  StartModel();
  SequenceRequest request = Request(7, 30);
  request.sampling.temperature = 1;
  request.sampling.logprobs = true;
  const std::vector<int32_t> free = Run(request);
  request.reasoning.end_ids = {10, 11, 12};
  request.reasoning.max_tokens = 5;
  const std::vector<int32_t> limited = Run(request);
  ASSERT_EQ(limited.size(), 30u);
  EXPECT_TRUE(std::equal(free.begin(), free.begin() + 5, limited.begin()));
  EXPECT_EQ(std::vector<int32_t>(limited.begin() + 5, limited.begin() + 8), request.reasoning.end_ids);
  request.reasoning.start_ids = {free[0], free[1]};
  EXPECT_EQ(Run(request), limited);
  request.reasoning.start_ids = {free[0], (free[1] + 1) % 256};  // it does not think
  EXPECT_EQ(Run(request), free);
}

TEST_F(EngineConstraintTest, LogprobsAreTheModelsOwn) {
  StartModel();
  SequenceRequest request = Hot(1, "root ::= \"abc\"");
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 3;
  Collector collector;
  std::vector<TokenLogprobs> logprobs;
  auto call = engine_->Generate(request, [&, inner = collector.Callback()](SequenceUpdate update) {
    for (const TokenLogprobs& one : update.logprobs) logprobs.push_back(one);
    inner(std::move(update));
  });
  ASSERT_TRUE(call.ok());
  collector.WaitFinished();
  ASSERT_EQ(logprobs.size(), 3u);
  for (const TokenLogprobs& one : logprobs) {
    ASSERT_EQ(one.top.size(), 3u);
    EXPECT_LT(one.logprob, 0);
    EXPECT_GE(one.top[0].logprob, one.logprob);
  }
}

TEST_F(EngineConstraintTest, ManyAtOnceWithLogprobs) {
  StartModel();
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  std::vector<std::vector<TokenLogprobs>> logprobs(16);
  for (uint64_t seed = 0; seed < 16; ++seed) {
    SequenceRequest request = Hot(seed, Schema());
    request.sampling.logprobs = true;
    request.sampling.top_logprobs = 20;
    collectors.push_back(std::make_unique<Collector>());
    auto call = engine_->Generate(
        request, [own = &logprobs[seed], inner = collectors.back()->Callback()](SequenceUpdate update) {
          own->insert(own->end(), update.logprobs.begin(), update.logprobs.end());
          inner(std::move(update));
        });
    ASSERT_TRUE(call.ok()) << call.status();
    calls.push_back(*std::move(call));
  }
  for (size_t seed = 0; seed < 16; ++seed) {
    const SequenceUpdate last = collectors[seed]->WaitFinished();
    ASSERT_TRUE(last.status.ok()) << last.status;
    const std::vector<int32_t> ids = collectors[seed]->ids();
    EXPECT_TRUE(nlohmann::json::accept(Text(ids))) << Text(ids);
    ASSERT_EQ(logprobs[seed].size(), ids.size());
    for (const TokenLogprobs& one : logprobs[seed]) EXPECT_EQ(one.top.size(), 20u);
    EXPECT_EQ(ids, Run(Hot(seed, Schema()))) << "alone and without log-probabilities";
  }
}

TEST_F(EngineConstraintTest, BiasChoosesAmongWhatIsAllowed) {
  StartModel();
  SequenceRequest request = Hot(4, "root ::= \"a\" [bc]{3}");
  request.sampling.logit_bias = {{'a', -100}, {'b', 100}, {'x', 100}};
  SequenceUpdate last;
  EXPECT_EQ(Text(Run(request, &last)), "abbb");
  EXPECT_EQ(last.reason, FinishReason::kStop);
}

TEST_F(EngineConstraintTest, FewCompiledOnesAreKept) {
  StartModel();
  const auto start = [](Constraints* constraints, int number) {
    const Constraint constraint = {StrCat("root ::= \"", number, "\" [a-z]*"), "", false, "", ""};
    EXPECT_TRUE(constraints->Start(constraint).ok());
  };
  Constraints few(source_, 3);
  for (int i = 0; i < 5; ++i) start(&few, i);
  EXPECT_EQ(few.kept(), 3u);
  start(&few, 4);
  EXPECT_EQ(few.kept(), 3u);
  Constraints small(source_, 3, 1);  // the last is kept, whatever it takes
  for (int i = 0; i < 5; ++i) start(&small, i);
  EXPECT_EQ(small.kept(), 1u);
}

TEST_F(EngineConstraintTest, OneThatIsTooAmbiguousEndsAlone) {
  StartModel();
  std::vector<std::vector<int32_t>> alone;
  for (uint64_t seed = 0; seed < 2; ++seed) alone.push_back(Run(Hot(seed, "root ::= [a-z]{150}")));
  std::vector<std::unique_ptr<Collector>> collectors;
  std::vector<std::unique_ptr<TrunkCall>> calls;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    collectors.push_back(std::make_unique<Collector>());
    SequenceRequest request = Hot(seed, "root ::= [a-z]{150}");
    if (seed == 2) {
      request.constraint.grammar = "root ::= s\ns ::= \"a\" s? s? s? \"b\"?";
      request.sampling.logit_bias = {{'a', 100}};
    }
    auto call = engine_->Generate(request, collectors.back()->Callback());
    ASSERT_TRUE(call.ok()) << call.status();
    calls.push_back(*std::move(call));
  }
  for (size_t seed = 0; seed < 2; ++seed) {
    const SequenceUpdate last = collectors[seed]->WaitFinished();
    EXPECT_TRUE(last.status.ok()) << last.status;
    EXPECT_EQ(collectors[seed]->ids(), alone[seed]) << seed;
  }
  const SequenceUpdate last = collectors[2]->WaitFinished();
  EXPECT_EQ(last.status.code(), absl::StatusCode::kInvalidArgument) << last.status;
  EXPECT_TRUE(absl::StrContains(last.status.message(), "tokens of the answer: the grammar is too ambiguous"))
      << last.status;
}

TEST_F(EngineConstraintTest, WhatCannotBeIsRefused) {
  StartModel();
  const auto refused = [&](const SequenceRequest& request) {
    const auto call = engine_->Generate(request, [](SequenceUpdate) {});
    EXPECT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument) << call.status();
    return std::string(call.status().message());
  };
  EXPECT_NE(refused(Hot(0, "root ::= oops")).find("line 1 column 10"), std::string::npos);
  EXPECT_NE(refused(Hot(0, "root ::= root \"a\" | \"b\"")).find("left-recursive"), std::string::npos);
  EXPECT_NE(refused(Hot(0, "root ::= \"\"")).find("empty"), std::string::npos);
  SequenceRequest request = Hot(0, "");
  request.constraint.begin_after = "x";
  EXPECT_NE(refused(request).find("no grammar"), std::string::npos);
  request = Hot(0, "");
  request.reasoning.max_tokens = 3;
  EXPECT_NE(refused(request).find("no ids"), std::string::npos);
  request.reasoning.end_ids = {300};
  EXPECT_NE(refused(request).find("300"), std::string::npos);
}

}  // namespace
}  // namespace moepool
