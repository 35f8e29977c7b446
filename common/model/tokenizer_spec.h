// A tokenizer's vocabulary and rules as data: read from the model file by the router, sent to gateways.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moepool {

enum class TokenType : int32_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct TokenizerSpec {
  // tokenizer.ggml.model: "gpt2" for byte-level BPE, "llama" for SentencePiece's BPE, "t5" for its unigram.
  std::string model;
  std::string pre;                  // tokenizer.ggml.pre: names the pre-tokenizer
  std::vector<std::string> tokens;  // by id, in the file's spelling (byte-level alphabet for "gpt2")
  std::vector<TokenType> types;     // by id
  std::vector<float> scores;        // by id, or empty
  std::vector<std::string> merges;  // "left right", by rank
  int32_t bos_id = -1;              // -1: none
  int32_t eos_id = -1;
  int32_t eot_id = -1;
  int32_t unk_id = -1;
  int32_t pad_id = -1;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;          // SentencePiece: a text is encoded as if a space stood before it
  bool remove_extra_whitespaces = false;  // SentencePiece: runs of spaces become one, those at the ends none
  bool strip_after_special = false;       // white space after a token matched in the text is dropped
  std::string precompiled_charsmap;       // SentencePiece's normalisation rules as it compiles them, or empty
  std::string chat_template;              // Jinja; empty: none
};

}  // namespace moepool
