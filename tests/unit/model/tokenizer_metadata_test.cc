#include "common/model/tokenizer_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kVocab = 5;

GgufValue Text(std::string_view text) { return {GgufType::kString, std::string(text)}; }
GgufValue Bool(bool value) { return {GgufType::kBool, value}; }
GgufValue U32(uint64_t value) { return {GgufType::kU32, value}; }
GgufValue Bytes(GgufType type, std::string bytes) {
  return {GgufType::kArray, GgufArray{type, bytes.size(), bytes, {}}};
}

GgufMetadata Metadata(std::string_view model, std::vector<std::pair<std::string, GgufValue>> more = {}) {
  GgufMetadata metadata;
  metadata.Insert("tokenizer.ggml.model", Text(model));
  metadata.Insert("tokenizer.ggml.tokens",
                  {GgufType::kArray, GgufArray{GgufType::kString, kVocab, "", {"a", "b", "c", "d", "e"}}});
  for (auto& [key, value] : more) metadata.Insert(key, std::move(value));
  return metadata;
}

TokenizerSpec Read(const GgufMetadata& metadata) { return ReadTokenizer(metadata, kVocab).value(); }

TEST(SentencePieceMetadata, WhatFilesLeaveOutIsAsLlamaCppHasIt) {
  const TokenizerSpec llama = Read(Metadata("llama"));
  EXPECT_EQ(llama.bos_id, 1);
  EXPECT_EQ(llama.eos_id, 2);
  EXPECT_EQ(llama.unk_id, 0);
  EXPECT_EQ(llama.pad_id, -1);
  EXPECT_TRUE(llama.add_bos && llama.add_space_prefix);
  EXPECT_FALSE(llama.add_eos || llama.remove_extra_whitespaces || llama.strip_after_special);
  const TokenizerSpec t5 = Read(Metadata("t5"));
  EXPECT_EQ(t5.bos_id, -1);
  EXPECT_EQ(t5.eos_id, 1);
  EXPECT_EQ(t5.unk_id, 2);
  EXPECT_EQ(t5.pad_id, 0);
  EXPECT_TRUE(t5.add_eos);
  EXPECT_FALSE(t5.add_bos || t5.add_space_prefix);
  const TokenizerSpec gpt2 = Read(Metadata("gpt2"));
  EXPECT_EQ(gpt2.bos_id, -1);
  EXPECT_FALSE(gpt2.add_bos);
  EXPECT_TRUE(Read(Metadata("gpt2", {{"tokenizer.ggml.pre", Text("tekken")}})).add_bos);
}

TEST(SentencePieceMetadata, WhatFilesSay) {
  const TokenizerSpec spec = Read(Metadata(
      "t5", {{"tokenizer.ggml.add_space_prefix", Bool(true)},
             {"tokenizer.ggml.remove_extra_whitespaces", Bool(true)},
             {"tokenizer.ggml.eos_token_id", U32(0xffffffff)},
             {"tokenizer.ggml.unknown_token_id", U32(4)},
             {"tokenizer.ggml.precompiled_charsmap", Bytes(GgufType::kI8, std::string("\0\x80\xFF", 3))}}));
  EXPECT_TRUE(spec.add_space_prefix && spec.remove_extra_whitespaces);
  EXPECT_EQ(spec.eos_id, -1);
  EXPECT_EQ(spec.unk_id, 4);
  EXPECT_EQ(spec.precompiled_charsmap, std::string("\0\x80\xFF", 3));
  EXPECT_EQ(Read(Metadata("t5", {{"tokenizer.ggml.precompiled_charsmap", Bytes(GgufType::kU8, "\xFE\x01")}}))
                .precompiled_charsmap,
            "\xFE\x01");
}

TEST(SentencePieceMetadata, Phi3StripsAfterSpecialTokens) {
  for (const char* architecture : {"phi3", "phimoe"}) {
    EXPECT_TRUE(Read(Metadata("llama", {{"general.architecture", Text(architecture)}})).strip_after_special);
    EXPECT_FALSE(Read(Metadata("gpt2", {{"general.architecture", Text(architecture)}})).strip_after_special);
  }
  EXPECT_FALSE(Read(Metadata("llama", {{"general.architecture", Text("llama")}})).strip_after_special);
}

TEST(SentencePieceMetadata, SaysWhatIsMalformed) {
  const auto error = [](std::string key, GgufValue value) {
    const absl::Status status = ReadTokenizer(Metadata("t5", {{key, std::move(value)}}), kVocab).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error("tokenizer.ggml.precompiled_charsmap",
                    {GgufType::kArray, GgufArray{GgufType::kU16, 1, "\x2c\x01", {}}}),
              HasSubstr("precompiled_charsmap"));
  EXPECT_THAT(error("tokenizer.ggml.precompiled_charsmap", Text("abc")), HasSubstr("string"));
  EXPECT_THAT(error("tokenizer.ggml.add_space_prefix", U32(1)), HasSubstr("u32"));
  EXPECT_THAT(error("tokenizer.ggml.unknown_token_id", U32(5)), AllOf(HasSubstr("is 5"), HasSubstr("5")));
  EXPECT_THAT(error("tokenizer.ggml.scores",
                    {GgufType::kArray, GgufArray{GgufType::kF32, 2, std::string(8, '\0'), {}}}),
              HasSubstr("2 elements, expected 5"));
}

}  // namespace
}  // namespace moepool
