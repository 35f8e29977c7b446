// AddSynthTokenizer (synthetic_plan.h): a byte-level BPE small enough to read, which every text encodes to
// and back.
#include "common/base/str.h"
#include "common/model/synthetic_plan.h"

namespace moepool {
namespace {

constexpr std::string_view kMerges[] = {"t h", "th e", "i n", "e r", "a n", "o n", "\u0120 t", "\u0120 a"};
constexpr std::string_view kControls[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
constexpr int kBytes = 256;
constexpr uint32_t kEndOfTextId = kBytes;
constexpr uint32_t kEndOfTurnId = kBytes + 2;
constexpr std::string_view kChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static_assert(kBytes + std::size(kControls) + std::size(kMerges) == kSynthMinVocab);

// The printable stand-in for a byte in GPT-2's alphabet, as UTF-8: itself where it prints, otherwise the next
// of the code points from 256 on.
std::vector<std::string> ByteAlphabet() {
  std::vector<std::string> alphabet;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < kBytes; ++byte) {
    const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const uint32_t code = prints ? byte : next++;
    std::string utf8;
    if (code < 128) {
      utf8 += static_cast<char>(code);
    } else {  // all are under 0x800
      utf8 += static_cast<char>(0xc0 | (code >> 6));
      utf8 += static_cast<char>(0x80 | (code & 63));
    }
    alphabet.push_back(std::move(utf8));
  }
  return alphabet;
}

}  // namespace

void AddSynthTokenizer(int vocab, GgufHeader* header) {
  constexpr auto kNormal = static_cast<int32_t>(TokenType::kNormal);
  std::vector<std::string> tokens = ByteAlphabet();
  std::vector<int32_t> types(tokens.size(), kNormal);
  std::vector<std::string> merges;
  for (const std::string_view control : kControls) {
    tokens.emplace_back(control);
    types.push_back(static_cast<int32_t>(TokenType::kControl));
  }
  for (const std::string_view merge : kMerges) {
    merges.emplace_back(merge);
    const size_t space = merge.find(' ');
    tokens.push_back(StrCat(merge.substr(0, space), merge.substr(space + 1)));
  }
  for (int i = 0; static_cast<int>(tokens.size()) < vocab; ++i) tokens.push_back(StrCat("\u0120word", i));
  types.resize(tokens.size(), kNormal);
  header->AddString("tokenizer.ggml.model", "gpt2");
  header->AddString("tokenizer.ggml.pre", "gpt-2");
  header->AddStrings("tokenizer.ggml.tokens", tokens);
  header->AddI32s("tokenizer.ggml.token_type", types);
  header->AddStrings("tokenizer.ggml.merges", merges);
  header->AddU32("tokenizer.ggml.bos_token_id", kEndOfTextId);
  header->AddU32("tokenizer.ggml.eos_token_id", kEndOfTurnId);
  header->AddU32("tokenizer.ggml.padding_token_id", kEndOfTextId);
  header->AddBool("tokenizer.ggml.add_bos_token", false);
  header->AddBool("tokenizer.ggml.add_space_prefix", false);
  header->AddString("tokenizer.chat_template", kChatTemplate);
}

}  // namespace moepool
