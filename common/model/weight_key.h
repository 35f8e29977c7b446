// What a matrix is, so that a backend can keep what it made of it and find that again.
#pragma once

#include <cstdint>
#include <string>

#include "common/model/model_source.h"

namespace moepool {

struct WeightKey {
  const ModelSource* source = nullptr;  // its digest tells the content; null: it is not to be kept
  std::string tensor;
  int64_t row_begin = 0;  // of the view, in rows of the tensor counted through all its matrices
};

}  // namespace moepool
