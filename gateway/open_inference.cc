#include "gateway/open_inference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "gateway/json_fields.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

struct Tensor {
  const char* name;
  const char* datatype;
  inference::DataType type;
  bool optional;
};

constexpr Tensor kInputs[] = {{"text_input", "BYTES", inference::TYPE_STRING, false},
                              {"stream", "BOOL", inference::TYPE_BOOL, true},
                              {"sampling_parameters", "BYTES", inference::TYPE_STRING, true}};
constexpr Tensor kOutputs[] = {{"text_output", "BYTES", inference::TYPE_STRING, false},
                               {"finish_reason", "BYTES", inference::TYPE_STRING, false},
                               {"prompt_tokens", "INT32", inference::TYPE_INT32, false},
                               {"cached_tokens", "INT32", inference::TYPE_INT32, false},
                               {"completion_tokens", "INT32", inference::TYPE_INT32, false},
                               {"seed", "UINT64", inference::TYPE_UINT64, false}};
constexpr char kVersionServed[] = "1";
constexpr size_t kMaxFields = 1024;  // that a request gives values to
constexpr int kMaxDimensions = 8;    // of a tensor, of which there is one that is right
constexpr char kPlatform[] = "moepool";
constexpr char kFinalParameter[] = "triton_final_response";

std::string Shown(const std::string& text) { return text.substr(0, kMaxShownKeyBytes); }

template <size_t kCount>
const Tensor* Find(const Tensor (&tensors)[kCount], const std::string& name) {
  const auto* const it = std::find_if(std::begin(tensors), std::end(tensors),
                                      [&](const Tensor& tensor) { return name == tensor.name; });
  return it == std::end(tensors) ? nullptr : it;
}

template <size_t kCount>
std::string Names(const Tensor (&tensors)[kCount]) {
  return absl::StrJoin(tensors, ", ",
                       [](std::string* out, const Tensor& tensor) { out->append(tensor.name); });
}

// The one element of a tensor: bytes, or a bool's byte.
absl::StatusOr<std::string> Element(const inference::ModelInferRequest& proto, int index,
                                    const Tensor& tensor) {
  const inference::ModelInferRequest::InferInputTensor& input = proto.inputs(index);
  if (input.datatype() != tensor.datatype) {
    return InvalidField(input.name(),
                        absl::StrCat("is of ", Shown(input.datatype()), ", not of ", tensor.datatype));
  }
  const bool single =
      std::all_of(input.shape().begin(), input.shape().end(), [](int64_t extent) { return extent == 1; });
  if (input.shape_size() > kMaxDimensions) {
    return InvalidField(input.name(), absl::StrCat("has ", input.shape_size(), " dimensions, not 1"));
  }
  if (!single || input.shape_size() == 0) {
    return InvalidField(input.name(),
                        absl::StrCat("has the shape [", absl::StrJoin(input.shape(), ", "), "], not [1]"));
  }
  const bool is_bool = tensor.type == inference::TYPE_BOOL;
  if (proto.raw_input_contents_size() == 0) {
    const inference::InferTensorContents& contents = input.contents();
    const int count = is_bool ? contents.bool_contents_size() : contents.bytes_contents_size();
    if (count != 1) return InvalidField(input.name(), absl::StrCat("has ", count, " elements, not 1"));
    return is_bool ? std::string(1, contents.bool_contents(0) ? '\1' : '\0') : contents.bytes_contents(0);
  }
  const std::string& raw = proto.raw_input_contents(index);
  if (is_bool) {
    if (raw.size() != 1)
      return InvalidField(input.name(), absl::StrCat("has ", raw.size(), " raw bytes, not 1"));
    return raw;
  }
  uint32_t length = 0;
  for (size_t i = 0; i < sizeof(length) && i < raw.size(); ++i) {
    length |= static_cast<uint32_t>(static_cast<uint8_t>(raw[i])) << (8 * i);
  }
  if (raw.size() < sizeof(length) || length != raw.size() - sizeof(length)) {
    return InvalidField(input.name(),
                        absl::StrCat("has ", raw.size(), " raw bytes, which are not one element of ", length,
                                     " after its length"));
  }
  return raw.substr(sizeof(length));
}

absl::StatusOr<ordered_json> Value(const std::string& name, const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      return ordered_json(parameter.bool_param());
    case inference::InferParameter::kInt64Param:
      return ordered_json(parameter.int64_param());
    case inference::InferParameter::kStringParam:
      return ordered_json(parameter.string_param());
    case inference::InferParameter::kDoubleParam:
      if (!std::isfinite(parameter.double_param())) {
        return InvalidField(name, absl::StrCat("is ", parameter.double_param()));
      }
      return ordered_json(parameter.double_param());
    case inference::InferParameter::kUint64Param:
      return ordered_json(parameter.uint64_param());
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return InvalidField(name, "has no value");
}

// What Triton's clients may send that means nothing here.
bool IsIdle(const std::string& name) {
  return name == "priority" || name == "triton_enable_empty_final_response" ||
         absl::StartsWith(name, "sequence_") || absl::StartsWith(name, "binary_");
}

absl::Status ReadParameters(const inference::ModelInferRequest& proto, ordered_json* fields,
                            std::optional<absl::Duration>* timeout) {
  if (proto.parameters().size() > kMaxFields) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", proto.parameters().size(),
                                                   " parameters, and ", kMaxFields, " at most are read"));
  }
  for (const auto& [name, parameter] : proto.parameters()) {
    if (IsIdle(name)) continue;
    MOEPOOL_ASSIGN_OR_RETURN(ordered_json value, Value(name, parameter));
    if (name == "timeout") {
      if (!value.is_number_integer() || value.get<int64_t>() < 0) {
        return InvalidField(name, absl::StrCat("is ", value.dump(), ", not a number of microseconds"));
      }
      // Triton's clients send 0 for none.
      if (value.get<int64_t>() > 0) *timeout = absl::Microseconds(value.get<int64_t>());
      continue;
    }
    if (fields->contains(name)) return InvalidField(name, "is given twice");
    (*fields)[name] = std::move(value);
  }
  return absl::OkStatus();
}

absl::Status ReadInputs(const inference::ModelInferRequest& proto, ordered_json* fields) {
  if (proto.raw_input_contents_size() != 0 && proto.raw_input_contents_size() != proto.inputs_size()) {
    return absl::InvalidArgumentError(absl::StrCat("raw_input_contents has ", proto.raw_input_contents_size(),
                                                   " entries for ", proto.inputs_size(), " inputs"));
  }
  std::optional<std::string> text;
  std::optional<bool> stream;
  for (int i = 0; i < proto.inputs_size(); ++i) {
    const std::string& name = proto.inputs(i).name();
    const Tensor* const tensor = Find(kInputs, name);
    if (tensor == nullptr)
      return InvalidField(Shown(name), absl::StrCat("is no input; there are ", Names(kInputs)));
    MOEPOOL_ASSIGN_OR_RETURN(std::string element, Element(proto, i, *tensor));
    if (name == "stream") {
      if (stream.has_value()) return InvalidField(name, "is given twice");
      stream = element[0] != 0;
      continue;
    }
    if (!IsUtf8(element)) return InvalidField(name, "is not UTF-8");
    if (name == "text_input") {
      if (text.has_value()) return InvalidField(name, "is given twice");
      text = std::move(element);
      continue;
    }
    MOEPOOL_ASSIGN_OR_RETURN(const auto more, ParseJson(element));
    if (!more.is_object()) return InvalidField(name, "is not a JSON object");
    if (more.size() > kMaxFields) {
      return InvalidField(
          name, absl::StrCat("has ", more.size(), " members, and ", kMaxFields, " at most are read"));
    }
    for (const auto& [key, value] : more.items()) {
      if (fields->contains(key)) return InvalidField(key, "is given twice");
      (*fields)[key] = value;
    }
  }
  if (!text.has_value()) return InvalidField("text_input", "is missing");
  if (fields->contains("prompt")) return InvalidField("prompt", "is what text_input holds here");
  (*fields)["prompt"] = *std::move(text);
  if (stream.has_value()) {
    if (fields->contains("stream")) return InvalidField("stream", "is given twice");
    (*fields)["stream"] = *stream;
  }
  return absl::OkStatus();
}

void AppendLittleEndian(uint64_t value, size_t bytes, std::string* out) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

class OutputWriter {
 public:
  OutputWriter(const std::vector<std::string>& wanted, inference::ModelInferResponse* response)
      : wanted_(wanted), response_(response) {}
  void Bytes(const char* name, const std::string& value) {
    std::string* const raw = Add(name);
    if (raw == nullptr) return;
    AppendLittleEndian(value.size(), sizeof(uint32_t), raw);
    raw->append(value);
  }
  void Number(const char* name, uint64_t value, size_t bytes) {
    if (std::string* const raw = Add(name); raw != nullptr) AppendLittleEndian(value, bytes, raw);
  }

 private:
  std::string* Add(const char* name) {
    if (!wanted_.empty() && std::find(wanted_.begin(), wanted_.end(), name) == wanted_.end()) return nullptr;
    inference::ModelInferResponse::InferOutputTensor* const output = response_->add_outputs();
    output->set_name(name);
    output->set_datatype(Find(kOutputs, name)->datatype);
    output->add_shape(1);
    return response_->add_raw_output_contents();
  }

  const std::vector<std::string>& wanted_;
  inference::ModelInferResponse* const response_;
};

}  // namespace

absl::StatusOr<OpenInferRequest> ReadOpenInferRequest(const inference::ModelInferRequest& proto,
                                                      bool stream) {
  OpenInferRequest read;
  for (const auto& output : proto.outputs()) {
    if (Find(kOutputs, output.name()) == nullptr) {
      return InvalidField(Shown(output.name()), absl::StrCat("is no output; there are ", Names(kOutputs)));
    }
    read.outputs.push_back(output.name());
  }
  ordered_json fields = ordered_json::object();
  std::optional<absl::Duration> timeout;
  MOEPOOL_RETURN_IF_ERROR(ReadInputs(proto, &fields));
  MOEPOOL_RETURN_IF_ERROR(ReadParameters(proto, &fields, &timeout));
  if (!fields.contains("stream")) fields["stream"] = stream;
  MOEPOOL_ASSIGN_OR_RETURN(read.request, ParseInferRequest(fields.dump()));
  InferRequest& request = read.request;
  if (request.n != 1)
    return InvalidField("n", absl::StrCat("is ", request.n, ", and this protocol has one answer"));
  if (!request.tools.is_null()) return InvalidField("tools", "are not part of this protocol");
  if (request.sampling.logprobs) return InvalidField("logprobs", "are not part of this protocol");
  if (request.prompt_logprobs) return InvalidField("prompt_logprobs", "are not part of this protocol");
  // There is one text, so what the model thinks is in it.
  if (!fields.contains("split_reasoning")) request.split_reasoning = false;
  if (timeout.has_value()) request.deadline = absl::Now() + *timeout;
  return read;
}

absl::Status CheckModelName(const ServedModel& model, const std::string& name, const std::string& version) {
  MOEPOOL_RETURN_IF_ERROR(CheckServedName(model, name));
  if (!version.empty() && version != kVersionServed) {
    return absl::NotFoundError(absl::StrCat("version '", Shown(version), "' of ", name,
                                            " is not served, but '", kVersionServed, "'"));
  }
  return absl::OkStatus();
}

void FillOpenInferResponse(const InferEvent& event, const std::vector<std::string>& outputs, bool in_pieces,
                           inference::ModelInferResponse* response) {
  OutputWriter writer(outputs, response);
  writer.Bytes("text_output", event.text);
  if (in_pieces) (*response->mutable_parameters())[kFinalParameter].set_bool_param(event.finished);
  if (!event.finished) return;
  response->set_model_name(event.model);
  response->set_model_version(kVersionServed);
  writer.Bytes("finish_reason", event.reason == FinishReason::kStop ? "stop" : "length");
  writer.Number("prompt_tokens", static_cast<uint64_t>(event.usage.prompt_tokens), sizeof(int32_t));
  writer.Number("cached_tokens", static_cast<uint64_t>(event.usage.cached_tokens), sizeof(int32_t));
  writer.Number("completion_tokens", static_cast<uint64_t>(event.usage.completion_tokens), sizeof(int32_t));
  writer.Number("seed", event.seed, sizeof(uint64_t));
}

void FillModelMetadata(const ModelInfo& info, inference::ModelMetadataResponse* response) {
  response->set_name(info.name);
  response->add_versions(std::string(kVersionServed));
  response->set_platform(kPlatform);
  const auto add = [](const Tensor& tensor, inference::ModelMetadataResponse::TensorMetadata* metadata) {
    metadata->set_name(tensor.name);
    metadata->set_datatype(tensor.datatype);
    metadata->add_shape(1);
  };
  for (const Tensor& tensor : kInputs) add(tensor, response->add_inputs());
  for (const Tensor& tensor : kOutputs) add(tensor, response->add_outputs());
}

void FillModelConfig(const ModelInfo& info, inference::ModelConfig* config) {
  config->set_name(info.name);
  config->set_platform(kPlatform);
  config->set_backend(kPlatform);
  for (const Tensor& tensor : kInputs) {
    inference::ModelInput* const input = config->add_input();
    input->set_name(tensor.name);
    input->set_data_type(tensor.type);
    input->add_dims(1);
    input->set_optional(tensor.optional);
  }
  for (const Tensor& tensor : kOutputs) {
    inference::ModelOutput* const output = config->add_output();
    output->set_name(tensor.name);
    output->set_data_type(tensor.type);
    output->add_dims(1);
  }
  config->mutable_model_transaction_policy()->set_decoupled(true);
}

}  // namespace moepool
