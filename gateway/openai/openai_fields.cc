#include "gateway/openai/openai_fields.h"

namespace moepool {

const JsonFields<OpenAiFields>& OpenAiFieldTable() {
  static const auto* const fields = new JsonFields<OpenAiFields>{
      FieldAt<OpenAiFields>("model", [](OpenAiFields& f) { return &f.model; }),
      {"stream_options",
       [](const std::string& field, const nlohmann::ordered_json& value, OpenAiFields* out) {
         static const auto* const options = new JsonFields<OpenAiFields>{
             FieldAt<OpenAiFields>("include_usage", [](OpenAiFields& f) { return &f.include_usage; })};
         return ReadObject(field, value, *options, UnknownFields::kIgnored, out);
       }},
  };
  return *fields;
}

}  // namespace moepool
