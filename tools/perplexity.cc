// `moepool perplexity`: exp of the mean negative log-likelihood of a text, in chunks that do not see one
// another; in each the second half is scored. The measure that llama-perplexity prints, so that figures can
// be laid side by side.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/text/tokenizer.h"
#include "tools/commands.h"
#include "tools/embedded.h"

namespace moepool {
namespace {

struct Flags {
  EmbeddedFlags engine;
  std::string file;
  int chunk_tokens = 512;
  int chunks = 0;
};

// Negative log-likelihood of `id`, in f64.
double NegativeLogLikelihood(const std::vector<float>& logits, int32_t id) {
  double max = logits[0];
  for (const float l : logits) max = std::max<double>(max, l);
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - max);
  return max + std::log(sum) - logits[static_cast<size_t>(id)];
}

absl::Status Run(const Flags& flags) {
  std::ifstream in(flags.file, std::ios::binary);
  if (!in) return absl::NotFoundError(StrCat("cannot read ", flags.file));
  std::stringstream text;
  text << in.rdbuf();
  MOEPOOL_ASSIGN_OR_RETURN(const auto embedded, MakeEmbedded(flags.engine));
  MOEPOOL_ASSIGN_OR_RETURN(const auto tokenizer, MakeTokenizer(embedded->source->Tokenizer()));
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text.str(), false));
  const TokenizerSpec& spec = tokenizer->Spec();
  if (spec.add_bos && spec.bos_id >= 0) ids.insert(ids.begin(), spec.bos_id);
  const size_t chunk_tokens = static_cast<size_t>(flags.chunk_tokens);
  size_t chunks = ids.size() / chunk_tokens;
  if (flags.chunks > 0) chunks = std::min<size_t>(chunks, static_cast<size_t>(flags.chunks));
  if (chunks == 0) {
    return absl::InvalidArgumentError(
        StrCat(flags.file, " has ", ids.size(), " tokens, a chunk takes ", flags.chunk_tokens));
  }
  const int first = flags.chunk_tokens / 2;
  double sum = 0;
  double sum_squares = 0;
  int64_t count = 0;
  for (size_t c = 0; c < chunks; ++c) {
    std::vector<int32_t> chunk(ids.begin() + static_cast<int64_t>(c * chunk_tokens),
                               ids.begin() + static_cast<int64_t>((c + 1) * chunk_tokens));
    if (spec.add_bos && spec.bos_id >= 0) chunk[0] = spec.bos_id;
    MOEPOOL_RETURN_IF_ERROR(ScoreTokens(embedded->engine.get(), chunk, first, [&](const LogitsRow& row) {
      if (row.position + 1 >= flags.chunk_tokens) return;
      const double nll = NegativeLogLikelihood(row.logits, chunk[static_cast<size_t>(row.position) + 1]);
      sum += nll;
      sum_squares += nll * nll;
      ++count;
    }));
    std::fprintf(stderr, "\rchunk %zu of %zu: perplexity %.4f ", c + 1, chunks, std::exp(sum / count));
  }
  const double mean = sum / static_cast<double>(count);
  const double variance = std::max(0.0, sum_squares / static_cast<double>(count) - mean * mean);
  const double perplexity = std::exp(mean);
  std::fprintf(stderr, "\n");
  std::printf(
      "{\"perplexity\": %.6f, \"standard_error\": %.6f, \"tokens\": %zu, \"scored\": %lld, \"chunks\": "
      "%zu}\n",
      perplexity, perplexity * std::sqrt(variance / static_cast<double>(count)), chunks * chunk_tokens,
      static_cast<long long>(count), chunks);
  return absl::OkStatus();
}

}  // namespace

void AddPerplexityCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app->add_subcommand("perplexity", "perplexity of a text under a model, computed in this process");
  AddEmbeddedFlags(command, &flags->engine);
  command->add_option("--file", flags->file, "text, UTF-8")->required();
  command->add_option("--chunk-tokens", flags->chunk_tokens, "tokens of a chunk")
      ->check(CLI::Range(3, 1 << 20));
  command->add_option("--chunks", flags->chunks, "chunks at most; 0: all")->check(CLI::NonNegativeNumber);
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
