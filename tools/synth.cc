// `moepool synth`: a model of random weights, for tests, sizing and benchmarks.
#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/model/families.h"
#include "common/model/synthetic.h"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  SynthSpec spec;
  std::string dtype = "Q8_0";
  std::string out;
};

absl::Status Run(Flags flags) {
  if (flags.dtype == "Q4_K_M") {
    flags.spec.dtype = DType::kQ4_K;
    flags.spec.more_dtype = DType::kQ6_K;
  } else {
    MOEPOOL_ASSIGN_OR_RETURN(flags.spec.dtype, DTypeFromName(flags.dtype));
  }
  return WriteSyntheticGguf(flags.spec, flags.out);
}

}  // namespace

void AddSynthCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  SynthSpec& spec = flags->spec;
  CLI::App* command =
      app->add_subcommand("synth", "write a model of random weights, reproducible from its seed");
  command->add_option("--family", spec.family, FamilyNames());
  command->add_option("--name", spec.name, "general.name");
  command->add_option("--hidden", spec.hidden);
  command->add_option("--layers", spec.layers);
  command->add_option("--heads", spec.heads);
  command->add_option("--kv-heads", spec.kv_heads);
  command->add_option("--head-dim", spec.head_dim);
  command->add_option("--experts", spec.experts, "a layer; 0: dense");
  command->add_option("--experts-per-token", spec.experts_per_token);
  command->add_option("--ffn", spec.ffn, "of one expert; of the whole FFN where dense");
  command->add_option("--vocab", spec.vocab);
  command->add_option("--context", spec.context);
  command->add_option("--rope-base", spec.rope_base);
  command->add_option("--rope-linear-factor", spec.rope_linear_factor);
  command->add_flag("--rope-freqs", spec.rope_freqs, "with Llama 3's tensor of frequency divisors");
  command->add_option("--original-context", spec.original_context, "LongRoPE's, with its tensors of factors");
  command->add_option("--sliding-window", spec.sliding_window, "0: none");
  command->add_option("--shared-ffn", spec.shared_ffn, "of the expert that every token takes");
  command->add_flag("--split-experts", spec.split_experts, "one tensor an expert, as in old Mixtral files");
  command->add_flag("--qkv-bias", spec.qkv_bias);
  command->add_flag("--tied-embeddings", spec.tied_embeddings);
  command->add_option("--dtype", flags->dtype, DTypeNames() + ", or Q4_K_M, a mix");
  command->add_option("--seed", spec.seed);
  command->add_option("--out", flags->out, "GGUF file to write")->required();
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
