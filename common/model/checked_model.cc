// See checked_model.h.
#include "common/model/checked_model.h"

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/descriptor.h"
#include "common/model/tokenizer_metadata.h"

namespace moepool {
namespace {

absl::Status ReadRopeFactors(std::string_view name, GgufReadAt read, CheckedModel* model) {
  const TensorInfo* tensor = model->tensors.Find(name);
  if (tensor == nullptr) return absl::OkStatus();
  if (tensor->dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        StrCat("tensor ", Quoted(tensor->name), " is of type ", Info(tensor->dtype).name, ", expected F32"));
  }
  std::vector<float> factors(tensor->bytes / sizeof(float));  // CheckTensors has bounded it
  MOEPOOL_RETURN_IF_ERROR(read(model->offsets[model->tensors.IndexOf(*tensor)], tensor->bytes,
                               reinterpret_cast<char*>(factors.data())));
  return SetRopeFactors(name, factors, &model->config);
}

}  // namespace

absl::StatusOr<CheckedModel> CheckModel(GgufFile file, std::string_view fallback_name, GgufReadAt read) {
  std::vector<TensorInfo> infos;
  std::vector<uint64_t> offsets;
  for (GgufTensor& tensor : file.tensors) {
    infos.push_back(std::move(tensor.info));
    offsets.push_back(tensor.offset);
  }
  CheckedModel model{{}, {}, TensorTable(std::move(infos)), std::move(offsets)};
  MOEPOOL_ASSIGN_OR_RETURN(model.config, DescribeModel(file.metadata, model.tensors, fallback_name));
  MOEPOOL_RETURN_IF_ERROR(CheckTensors(model.config, model.tensors));
  MOEPOOL_ASSIGN_OR_RETURN(model.tokenizer, ReadTokenizer(file.metadata, model.config.vocab_size));
  for (const std::string_view name : {kRopeFreqsTensor, kRopeShortTensor, kRopeLongTensor}) {
    MOEPOOL_RETURN_IF_ERROR(ReadRopeFactors(name, read, &model));
  }
  return model;
}

}  // namespace moepool
