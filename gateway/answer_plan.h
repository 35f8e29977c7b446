// What a request asks of the router, and how the answer is to be read.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/trunk/trunk.h"
#include "gateway/answer/answer_parser.h"
#include "gateway/infer_request.h"
#include "gateway/served_model.h"

namespace moepool {

struct AnswerPlan {
  std::vector<int32_t> prompt;
  Constraint constraint;
  ReasoningLimit reasoning;
  bool parsed = false;  // the text goes through a parser, to which marker_ids of the model are text
  AnswerParserOptions parser;
};

// Encodes the prompt, the template applied (a plain prompt goes in as it is where the model has no template),
// BOS added. InvalidField: no tokens, ids out of the vocabulary, longer than the context, with both numbers;
// a schema or a grammar that is none.
absl::StatusOr<AnswerPlan> PlanAnswer(const ServedModel& model, const InferRequest& request, absl::Time now);

}  // namespace moepool
