#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pre_tokenizer.h"

#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace moepool {
namespace {

// Enough for tens of MB of the worst text (one backtrack a character); far from hanging a request.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

// What Unicode 15 and 16 added to \p{L} and \p{N}: the references classify by Unicode 16, Debian 12's PCRE2
// by 14.
constexpr char kNewLetters[] =
    "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}"
    "\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}"
    "\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}"
    "\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}"
    "\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"
    "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}"
    "\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}";
constexpr char kNewNumbers[] =
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"
    "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}"
    "\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}";
// Unicode 17's: known to the code that cuts out SmolLM's digits, and not yet to the reference's expressions.
constexpr char kNewestDigits[] = "\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}";

struct Rule {
  std::string_view names[3];  // the first is the name proper
  std::string_view pattern;   // <S>, <L>, <N>, <D> stand for what Expand makes of them
  bool composes;
  bool takes_whole_words;
};

// smollm's reference cuts out every digit first and applies GPT-2's rule to what lies between. That is one
// expression: digits end a run of spaces as the end of the text does.
constexpr Rule kRules[] = {
    {{"smollm"},
     "[<D>]|'(?:[stmd]|re|ve|ll)| ?[<L>]+| ?[^<S><L><D>]+|[<S>]+(?![^<S><D>])|[<S>]+",
     false,
     false},
    {{"gpt-2", "gpt2"},
     "'(?:[stmd]|re|ve|ll)| ?[<L>]+| ?[<N>]+| ?[^<S><L><N>]+|[<S>]+(?![^<S>])|[<S>]+",
     false,
     false},
    {{"llama-bpe", "llama3", "llama-v3"},
     "(?i:'(?:[stmd]|re|ve|ll))|[^\\r\\n<L><N>]?[<L>]+|[<N>]{1,3}| ?[^<S><L><N>]+[\\r\\n]*|[<S>]*[\\r\\n]+"
     "|[<S>]+(?![^<S>])|[<S>]+",
     false,
     true},
    {{"qwen2"},
     "(?i:'(?:[stmd]|re|ve|ll))|[^\\r\\n<L><N>]?[<L>]+|[<N>]| ?[^<S><L><N>]+[\\r\\n]*|[<S>]*[\\r\\n]+"
     "|[<S>]+(?![^<S>])|[<S>]+",
     true,
     false},
};

// White space is spelled out: PCRE2's \s also takes U+180E, which has not been a space since Unicode 6.3.
std::string Expand(std::string_view pattern) {
  const std::string numbers = absl::StrCat("\\p{N}", kNewNumbers);
  return absl::StrReplaceAll(std::string(pattern), {{"<S>", "\\t-\\r\\x{85}\\p{Z}"},
                                                    {"<L>", absl::StrCat("\\p{L}", kNewLetters)},
                                                    {"<N>", numbers},
                                                    {"<D>", absl::StrCat(numbers, kNewestDigits)}});
}

std::string Message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

const Rule* FindRule(std::string_view name) {
  for (const Rule& rule : kRules) {
    for (const std::string_view known : rule.names) {
      if (!known.empty() && known == name) return &rule;
    }
  }
  return nullptr;
}

}  // namespace

struct PreTokenizer::Regex {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;

  ~Regex() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

PreTokenizer::PreTokenizer(std::unique_ptr<Regex> regex, bool composes, bool takes_whole_words)
    : regex_(std::move(regex)), composes_(composes), takes_whole_words_(takes_whole_words) {}

PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Make(std::string_view name) {
  const Rule* rule = FindRule(name);
  if (rule == nullptr) {
    std::string known;
    for (const Rule& r : kRules) absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(r.names[0]));
    return absl::InvalidArgumentError(
        absl::StrCat("pre-tokenizer \"", std::string(name), "\" is not known; known are: ", known));
  }
  const std::string pattern = Expand(rule->pattern);
  auto regex = std::make_unique<Regex>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  regex->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (regex->code == nullptr) {
    return absl::InternalError(
        absl::StrCat("pre-tokenizer \"", std::string(name), "\": ", Message(error), " at ", offset));
  }
  // Where the system allows no code made at run time, matching is interpreted.
  pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
  regex->context = pcre2_match_context_create(nullptr);
  if (regex->context == nullptr) return absl::ResourceExhaustedError("pre-tokenizer: out of memory");
  pcre2_set_match_limit(regex->context, kMatchLimit);
  pcre2_set_heap_limit(regex->context, kHeapLimitKib);
  return std::unique_ptr<PreTokenizer>(
      new PreTokenizer(std::move(regex), rule->composes, rule->takes_whole_words));
}

absl::Status PreTokenizer::Split(std::string_view text, std::vector<std::string_view>* pieces) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  if (match == nullptr) return absl::ResourceExhaustedError("pre-tokenizer: out of memory");
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
  // Each rule has an alternative for any character, so that a match begins where the last one ended.
  for (size_t pos = 0; pos < text.size();) {
    const int count = pcre2_match(regex_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                                  PCRE2_NO_UTF_CHECK, match.get(), regex_->context);
    if (count < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pre-tokenizer at byte ", pos, " of ", text.size(), ": ", Message(count)));
    }
    pieces->push_back(text.substr(pos, span[1] - pos));
    pos = span[1];
  }
  return absl::OkStatus();
}

}  // namespace moepool
