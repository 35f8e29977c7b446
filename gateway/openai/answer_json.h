// Pieces of OpenAI's answers that several endpoints share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gateway/inference.h"
#include "nlohmann/json.hpp"

namespace moepool {

// What every object of an answer says, chunks included.
struct AnswerIdentity {
  std::string id;
  std::string object;
  int64_t created_unix_s = 0;
  std::string model;
};

// "PREFIX-" and 96 random bits, now, and the rest as given.
AnswerIdentity MakeIdentity(const char* prefix, const char* object, const std::string& model);

nlohmann::ordered_json ToJson(const AnswerIdentity& identity);
nlohmann::ordered_json ToJson(const Usage& usage);
nlohmann::ordered_json ToJson(const Timings& timings);
const char* FinishReasonName(FinishReason reason);

// The text of a token, as OpenAI writes those that are no whole characters: bytes:\xe2\x80.
std::string TokenText(const std::string& bytes);
// JSON texts of the list elements of choices[].logprobs.content, separated by commas. Texts, because trees of
// them would take ten times the memory.
std::string WriteChatLogprobs(const std::vector<TokenLogprobEntries>& logprobs);

// No line breaks; U+FFFD where a string is no UTF-8.
std::string WriteJson(const nlohmann::ordered_json& value);
// `object`, which is not empty, with one more member, whose value is JSON text.
std::string WithMember(std::string object, const char* name, const std::string& value);

}  // namespace moepool
