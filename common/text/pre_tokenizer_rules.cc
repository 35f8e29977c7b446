#include "common/text/pre_tokenizer_rules.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace moepool {
namespace {

// What Unicode 15 and 16 added to the categories: the references classify by Unicode 16, Debian 12's PCRE2
// by 14.
constexpr char kNewUpper[] = "\\x{1C89}\\x{A7CB}-\\x{A7CC}\\x{A7DA}\\x{A7DC}\\x{10D50}-\\x{10D65}";
constexpr char kNewLower[] = "\\x{1C8A}\\x{A7CD}\\x{A7DB}\\x{10D70}-\\x{10D85}\\x{1DF25}-\\x{1DF2A}";
constexpr char kNewCaseless[] =  // Lm and Lo
    "\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D4F}\\x{10D6F}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}"
    "\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}"
    "\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}"
    "\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}"
    "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}"
    "\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}";
constexpr char kNewMarks[] =
    "\\x{897}\\x{CF3}\\x{ECE}\\x{10D69}-\\x{10D6D}\\x{10EFC}-\\x{10EFF}\\x{11241}\\x{113B8}-\\x{113C0}\\x{"
    "113C2}"
    "\\x{113C5}\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}\\x{113E1}-\\x{113E2}\\x{11F00}-\\x{11F01}"
    "\\x{11F03}\\x{11F34}-\\x{11F3A}\\x{11F3E}-\\x{11F42}\\x{11F5A}\\x{13440}\\x{13447}-\\x{13455}"
    "\\x{1611E}-\\x{1612F}\\x{1E08F}\\x{1E4EC}-\\x{1E4EF}\\x{1E5EE}-\\x{1E5EF}";
constexpr char kNewPunctuation[] =
    "\\x{1B4E}-\\x{1B4F}\\x{1B7F}\\x{10D6E}\\x{113D4}-\\x{113D5}\\x{113D7}-\\x{113D8}\\x{11B00}-\\x{11B09}"
    "\\x{11BE1}\\x{11F43}-\\x{11F4F}\\x{16D6D}-\\x{16D6F}\\x{1E5FF}";
constexpr char kNewSymbols[] =
    "\\x{2427}-\\x{2429}\\x{2FFC}-\\x{2FFF}\\x{31E4}-\\x{31E5}\\x{31EF}\\x{10D8E}-\\x{10D8F}\\x{1CC00}-\\x{"
    "1CCEF}"
    "\\x{1CD00}-\\x{1CEB3}\\x{1F6DC}\\x{1F774}-\\x{1F776}\\x{1F77B}-\\x{1F77F}\\x{1F7D9}\\x{1F8B2}-\\x{1F8BB}"
    "\\x{1F8C0}-\\x{1F8C1}\\x{1FA75}-\\x{1FA77}\\x{1FA87}-\\x{1FA89}\\x{1FA8F}\\x{1FAAD}-\\x{1FAAF}"
    "\\x{1FABB}-\\x{1FABF}\\x{1FAC6}\\x{1FACE}-\\x{1FACF}\\x{1FADA}-\\x{1FADC}\\x{1FADF}\\x{1FAE8}-\\x{1FAE9}"
    "\\x{1FAF7}-\\x{1FAF8}\\x{1FBCB}-\\x{1FBEF}";
constexpr char kNewNumbers[] =
    "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"
    "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}"
    "\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}";
// Unicode 17's: known to the code that cuts out SmolLM's digits, and not yet to the reference's expressions.
constexpr char kNewestDigits[] = "\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}";

// Cased letters as some early version of Unicode had them, of which deepseek-llm makes words.
constexpr char kDeepSeekLetters[] =
    "\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}-\\x{377}\\x{37B}-\\x{37D}\\x{37F}"
    "\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}"
    "\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}"
    "\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}"
    "\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}"
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}"
    "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}"
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}-\\x{2184}\\x{2C00}-\\x{2C7B}"
    "\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}-\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}"
    "\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}"
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"
    "\\x{1E900}-\\x{1E943}";
constexpr std::string_view kDeepSeekCjk = "[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+";

constexpr std::string_view kGpt2 =
    "'(?:[stmd]|re|ve|ll)| ?[<L>]+| ?[<N>]+| ?[^<S><L><N>]+|[<S>]+(?![^<S>])|[<S>]+";
// smollm's reference cuts out every digit first and applies GPT-2's rule to what lies between. That is one
// expression: digits end a run of spaces as the end of the text does.
constexpr std::string_view kGpt2WithoutDigits =
    "[<D>]|'(?:[stmd]|re|ve|ll)| ?[<L>]+| ?[^<S><L><D>]+|[<S>]+(?![^<S><D>])|[<S>]+";
constexpr std::string_view kLlama3 =
    "(?i:'(?:[stmd]|re|ve|ll))|[^\\r\\n<L><N>]?[<L>]+|[<N>]{1,3}| ?[^<S><L><N>]+[\\r\\n]*|[<S>]*[\\r\\n]+"
    "|[<S>]+(?![^<S>])|[<S>]+";

struct Rule {
  std::string_view names[8];  // the first is the rule's own
  std::string_view patterns[6];
  bool composes = false;
  bool takes_whole_words = false;
};

constexpr Rule kRules[] = {
    {.names = {"smollm", "starcoder", "refact", "codeshell"}, .patterns = {kGpt2WithoutDigits}},
    {.names = {"gpt-2", "gpt2", "phi-2"}, .patterns = {kGpt2}},
    {.names = {"olmo", "mpt"}, .patterns = {kGpt2}, .composes = true},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "glm4"},
     .patterns = {kLlama3},
     .takes_whole_words = true},
    {.names = {"dbrx", "smaug-bpe"}, .patterns = {kLlama3}},
    {.names = {"qwen2", "deepseek-r1-qwen"},
     .patterns =
         {"(?i:'(?:[stmd]|re|ve|ll))|[^\\r\\n<L><N>]?[<L>]+|[<N>]| ?[^<S><L><N>]+[\\r\\n]*|[<S>]*[\\r\\n]+"
          "|[<S>]+(?![^<S>])|[<S>]+"},
     .composes = true},
    {.names = {"qwen35"},
     .patterns = {"(?i:'(?:[stmd]|re|ve|ll))|[^\\r\\n<L><N>]?[<L><M>]+|[<N>]| ?[^<S><L><M><N>]+[\\r\\n]*"
                  "|[<S>]*[\\r\\n]+|[<S>]+(?![^<S>])|[<S>]+"},
     .composes = true},
    // In the fourth the reference has \s+$; looking back keeps runs of spaces that something follows from
    // being walked once for each of them.
    {.names = {"deepseek-llm"},
     .patterns =
         {"[\\r\\n]", "[<S>]?[<deepseek>]+",
          "[<S>]?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+",
          "(?<![<S>])[<S>]++\\z", kDeepSeekCjk, "[<D>]"}},
    {.names = {"deepseek-coder"},
     .patterns = {"[\\r\\n]", "[<S>]?[<L>]+", "[<S>]?[<P>]+", kDeepSeekCjk, "[<D>]"}},
    {.names = {"deepseek-v3"},
     .patterns =
         {"[<N>]{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+",
          "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n<L><P><Y>]?[<L><M>]+| ?[<P><Y>]+[\\r\\n]*|[<S>]*[\\r\\n]+"
          "|[<S>]+(?![^<S>])|[<S>]+"}},
    {.names = {"tekken"},
     .patterns = {"[^\\r\\n<L><N>]?[<upper>]*[<lower>]+|[^\\r\\n<L><N>]?[<upper>]+[<lower>]*|[<N>]"
                  "| ?[^<S><L><N>]+[\\r\\n/]*|[<S>]*[\\r\\n]+|[<S>]+(?![^<S>])|[<S>]+"},
     .takes_whole_words = true},
    {.names = {"gpt-4o", "llama4"},
     .patterns = {"[^\\r\\n<L><N>]?[<upper>]*[<lower>]+(?i:'(?:[stmd]|re|ve|ll))?"
                  "|[^\\r\\n<L><N>]?[<upper>]+[<lower>]*(?i:'(?:[stmd]|re|ve|ll))?|[<N>]{1,3}"
                  "| ?[^<S><L><N>]+[\\r\\n/]*|[<S>]*[\\r\\n]+|[<S>]+(?![^<S>])|[<S>]+"},
     .takes_whole_words = true},
    // llama.cpp's, for files that name none.
    {.names = {"default"}, .patterns = {"[<P>$+<=>^~|]+", kGpt2, "[<N>]+", "[0-9]{3}"}},
};

// White space is spelled out: PCRE2's \s also takes U+180E, which has not been a space since Unicode 6.3.
std::string Expand(std::string_view pattern) {
  const std::string numbers = absl::StrCat("\\p{N}", kNewNumbers);
  const std::string marks = absl::StrCat("\\p{M}", kNewMarks);
  const std::string caseless = absl::StrCat("\\p{Lm}\\p{Lo}", kNewCaseless, marks);
  return absl::StrReplaceAll(std::string(pattern),
                             {{"<S>", "\\t-\\r\\x{85}\\p{Z}"},
                              {"<L>", absl::StrCat("\\p{L}", kNewUpper, kNewLower, kNewCaseless)},
                              {"<M>", marks},
                              {"<N>", numbers},
                              {"<D>", absl::StrCat(numbers, kNewestDigits)},
                              {"<P>", absl::StrCat("\\p{P}", kNewPunctuation)},
                              {"<Y>", absl::StrCat("\\p{S}", kNewSymbols)},
                              {"<upper>", absl::StrCat("\\p{Lu}\\p{Lt}", kNewUpper, caseless)},
                              {"<lower>", absl::StrCat("\\p{Ll}", kNewLower, caseless)},
                              {"<deepseek>", kDeepSeekLetters}});
}

}  // namespace

PreTokenizerRule FindPreTokenizerRule(std::string_view name) {
  PreTokenizerRule found{{}, false, false};
  for (const Rule& rule : kRules) {
    for (const std::string_view known : rule.names) {
      if (known.empty() || known != name) continue;
      for (const std::string_view pattern : rule.patterns) {
        if (!pattern.empty()) found.patterns.push_back(Expand(pattern));
      }
      found.composes = rule.composes;
      found.takes_whole_words = rule.takes_whole_words;
      return found;
    }
  }
  return found;
}

std::string KnownPreTokenizers() {
  std::string known;
  for (const Rule& rule : kRules) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(rule.names[0]));
  }
  return known;
}

}  // namespace moepool
