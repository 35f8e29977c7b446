#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pre_tokenizer.h"

#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

// Enough for tens of MB of the worst text (one backtrack a character); far from hanging a request.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

std::string Message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

class PreTokenizer::Regex {
 public:
  ~Regex() {
    pcre2_match_context_free(context_);
    pcre2_code_free(code_);
  }

  absl::Status Compile(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                          &error, &offset, nullptr);
    if (code_ == nullptr) return absl::InternalError(absl::StrCat(Message(error), " at ", offset));
    // Where the system allows no code made at run time, matching is interpreted.
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    context_ = pcre2_match_context_create(nullptr);
    if (context_ == nullptr) return absl::ResourceExhaustedError("out of memory");
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
    return absl::OkStatus();
  }

  // Appends what matches in `text` and what lies between. No pattern matches nothing at all.
  absl::Status Split(std::string_view text, pcre2_match_data* match,
                     std::vector<std::string_view>* pieces) const {
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match);
    for (size_t pos = 0; pos < text.size();) {
      const int count = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                                    PCRE2_NO_UTF_CHECK, match, context_);
      if (count == PCRE2_ERROR_NOMATCH) {
        pieces->push_back(text.substr(pos));
        break;
      }
      if (count < 0) {
        return absl::ResourceExhaustedError(
            absl::StrCat("pre-tokenizer at byte ", pos, " of ", text.size(), ": ", Message(count)));
      }
      if (span[0] > pos) pieces->push_back(text.substr(pos, span[0] - pos));
      pieces->push_back(text.substr(span[0], span[1] - span[0]));
      pos = span[1];
    }
    return absl::OkStatus();
  }

 private:
  pcre2_code* code_ = nullptr;
  pcre2_match_context* context_ = nullptr;
};

PreTokenizer::PreTokenizer(PreTokenizerRule rule) : rule_(std::move(rule)) {}

PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Make(std::string_view name) {
  PreTokenizerRule rule = FindPreTokenizerRule(name.empty() ? "default" : name);
  if (rule.patterns.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("pre-tokenizer \"", std::string(name),
                                                   "\" is not known; known are: ", KnownPreTokenizers()));
  }
  std::unique_ptr<PreTokenizer> pre_tokenizer(new PreTokenizer(std::move(rule)));
  for (const std::string& pattern : pre_tokenizer->rule_.patterns) {
    auto regex = std::make_unique<Regex>();
    if (const absl::Status status = regex->Compile(pattern); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("pre-tokenizer \"", std::string(name),
                                                      "\": ", std::string(status.message())));
    }
    pre_tokenizer->regexes_.push_back(std::move(regex));
  }
  return pre_tokenizer;
}

absl::Status PreTokenizer::Split(std::string_view text, std::vector<std::string_view>* pieces) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
      pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  if (match == nullptr) return absl::ResourceExhaustedError("pre-tokenizer: out of memory");
  std::vector<std::string_view> uncut = {text};
  std::vector<std::string_view> cut;
  for (size_t i = 0; i < regexes_.size(); ++i) {
    const bool is_last = i + 1 == regexes_.size();
    cut.clear();
    for (const std::string_view piece : uncut) {
      MOEPOOL_RETURN_IF_ERROR(regexes_[i]->Split(piece, match.get(), is_last ? pieces : &cut));
    }
    uncut.swap(cut);
  }
  return absl::OkStatus();
}

}  // namespace moepool
