#include "gateway/openai/openai_fields.h"

#include <optional>
#include <string_view>
#include <vector>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

absl::Status ReadSeed(const std::string& field, const ordered_json& value, InferRequest* out) {
  if (!value.is_number_integer() || value.is_number_unsigned()) return ReadJson(field, value, &out->seed);
  const int64_t seed = value.get<int64_t>();
  out->seed = seed == -1 ? std::nullopt : std::optional(static_cast<uint64_t>(seed));
  return absl::OkStatus();
}

absl::Status ReadTopK(const std::string& field, const ordered_json& value, InferRequest* out) {
  int32_t& top_k = out->sampling.top_k;
  MOEPOOL_RETURN_IF_ERROR(ReadJson(field, value, &top_k));
  if (top_k == -1) top_k = 0;
  return absl::OkStatus();
}

JsonFields<InferRequest> MakeGenerationFields() {
  JsonFields<InferRequest> fields = GenerationFields();
  for (JsonField<InferRequest>& field : fields) {
    const std::string_view name = field.name;
    if (name == "seed") field.read = ReadSeed;
    if (name == "top_k") field.read = ReadTopK;
    if (name == "stop") {
      field.read = [read = field.read](const std::string& at, const ordered_json& value, InferRequest* out) {
        MOEPOOL_RETURN_IF_ERROR(read(at, value, out));
        std::erase(out->stop, "");
        return absl::OkStatus();
      };
    }
  }
  return fields;
}

}  // namespace

const JsonFields<InferRequest>& OpenAiGenerationFields() {
  static const auto* const fields = new JsonFields<InferRequest>(MakeGenerationFields());
  return *fields;
}

const JsonFields<OpenAiFields>& OpenAiFieldTable() {
  static const auto* const fields = new JsonFields<OpenAiFields>{
      FieldAt<OpenAiFields>("model", [](OpenAiFields& f) { return &f.model; }),
      {"stream_options",
       [](const std::string& field, const ordered_json& value, OpenAiFields* out) {
         static const auto* const options = new JsonFields<OpenAiFields>{
             FieldAt<OpenAiFields>("include_usage", [](OpenAiFields& f) { return &f.include_usage; })};
         return ReadObject(field, value, *options, UnknownFields::kIgnored, out);
       }},
  };
  return *fields;
}

}  // namespace moepool
