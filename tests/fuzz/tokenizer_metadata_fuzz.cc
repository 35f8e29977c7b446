// A vocabulary out of a hostile model file, through ReadTokenizer and MakeTokenizer, and a text through the
// tokenizer that comes of it. The input, in order:
//   model, pre-tokenizer   8 bits each, of the lists below
//   flags                  16 bits: which keys the file has, and the values of those that are true or false
//   ids                    6 x 16 bits, signed
//   charsmap               16 bits of length, then its bytes
//   tokens                 each: length (255 ends the list), type, score, 8 bits each; then its bytes
//   merges                 each: length (255 ends the list), 8 bits; then its bytes
//   text                   the rest
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/utf8.h"
#include "common/model/tokenizer_metadata.h"
#include "common/text/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

namespace moepool {
namespace {

constexpr std::string_view kModels[] = {"gpt2", "llama", "t5", "bert"};
constexpr std::string_view kPre[] = {
    "",       "default", "gpt-2",        "smollm",         "llama-bpe",   "dbrx",
    "qwen2",  "qwen35",  "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken",
    "gpt-4o", "olmo",    "unknown"};
constexpr uint8_t kEnd = 255;

class MetadataMaker {
 public:
  void String(std::string_view key, std::string_view value) {
    Insert(key, {GgufType::kString, std::string(value)});
  }
  void Int(std::string_view key, int64_t value) { Insert(key, {GgufType::kI32, value}); }
  void Bool(std::string_view key, bool value) { Insert(key, {GgufType::kBool, value}); }
  void Strings(std::string_view key, std::vector<std::string> values) {
    const uint64_t count = values.size();
    Insert(key, {GgufType::kArray, GgufArray{GgufType::kString, count, "", std::move(values)}});
  }
  template <typename T>
  void Numbers(std::string_view key, GgufType type, const std::vector<T>& values) {
    std::string raw(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    Insert(key, {GgufType::kArray, GgufArray{type, values.size(), std::move(raw), {}}});
  }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  void Insert(std::string_view key, GgufValue value) {
    MOEPOOL_CHECK(metadata_.Insert(std::string(key), std::move(value)));
  }

  GgufMetadata metadata_;
};

void Check(const Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  const auto ids = tokenizer.Encode(text, parse_special);
  if (!ids.ok()) {
    MOEPOOL_CHECK(absl::IsResourceExhausted(ids.status()));
    return;
  }
  Detokenizer detokenizer(&tokenizer, /*special=*/true);
  for (const int32_t id : *ids) {
    MOEPOOL_CHECK(id >= 0 && id < tokenizer.VocabSize());
    MOEPOOL_CHECK(IsUtf8(detokenizer.Push(id)));
    tokenizer.EndsGeneration(id);
  }
  MOEPOOL_CHECK(IsUtf8(detokenizer.Finish()));
  const auto again = tokenizer.Encode(text, parse_special);
  MOEPOOL_CHECK(again.ok() && *again == *ids);
}

}  // namespace
}  // namespace moepool

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moepool;
  FuzzInput input(data, size);
  MetadataMaker maker;
  maker.String("tokenizer.ggml.model", kModels[input.Take<uint8_t>() % std::size(kModels)]);
  maker.String("tokenizer.ggml.pre", kPre[input.Take<uint8_t>() % std::size(kPre)]);
  const uint16_t flags = input.Take<uint16_t>();
  const auto flag = [flags](int bit) { return (flags >> bit & 1) != 0; };
  int bit = 0;
  for (const char* key : {"add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"}) {
    if (flag(bit)) maker.Bool(std::string("tokenizer.ggml.") + key, flag(bit + 1));
    bit += 2;
  }
  for (const char* key : {"bos", "eos", "eot", "unknown", "padding", "separator"}) {
    const int16_t id = input.Take<int16_t>();
    if (flag(bit)) maker.Int(std::string("tokenizer.ggml.") + key + "_token_id", id);
  }
  ++bit;
  const std::string_view charsmap = input.TakeBytes(input.Take<uint16_t>());
  if (!charsmap.empty()) {
    maker.Numbers("tokenizer.ggml.precompiled_charsmap", GgufType::kU8,
                  std::vector<char>(charsmap.begin(), charsmap.end()));
  }
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
  while (!input.empty()) {
    const uint8_t bytes = input.Take<uint8_t>();
    if (bytes == kEnd) break;
    types.push_back(input.Take<uint8_t>());
    scores.push_back(static_cast<float>(input.Take<int8_t>()));
    tokens.emplace_back(input.TakeBytes(bytes));
  }
  // The 256 byte tokens of SentencePiece stand together or not at all.
  for (int byte = 0; flag(bit) && byte < 256; ++byte) {
    types.push_back(static_cast<int32_t>(TokenType::kByte));
    scores.push_back(0);
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
  }
  ++bit;
  std::vector<std::string> merges;
  while (!input.empty()) {
    const uint8_t bytes = input.Take<uint8_t>();
    if (bytes == kEnd) break;
    merges.emplace_back(input.TakeBytes(bytes));
  }
  const std::string_view text = input.TakeRest();
  const int vocab_size = static_cast<int>(tokens.size());
  maker.Strings("tokenizer.ggml.tokens", std::move(tokens));
  if (!flag(bit++)) maker.Numbers("tokenizer.ggml.token_type", GgufType::kI32, types);
  if (!flag(bit++)) maker.Numbers("tokenizer.ggml.scores", GgufType::kF32, scores);
  maker.Strings("tokenizer.ggml.merges", std::move(merges));

  auto spec = ReadTokenizer(maker.metadata(), vocab_size);
  if (!spec.ok()) return 0;
  const auto tokenizer = MakeTokenizer(*std::move(spec));
  if (!tokenizer.ok()) {
    MOEPOOL_CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  Check(**tokenizer, text, /*parse_special=*/true);
  Check(**tokenizer, text, /*parse_special=*/false);
  for (const int32_t id : {-1, 0, vocab_size - 1, vocab_size}) (*tokenizer)->Bytes(id, /*special=*/true);
  return 0;
}
