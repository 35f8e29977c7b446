// `moepool logits`: the logits of given tokens as a NumPy array, to compare with other implementations.
#include <cstdio>
#include <fstream>
#include <limits>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "nlohmann/json.hpp"
#include "tools/commands.h"
#include "tools/embedded.h"

namespace moepool {
namespace {

struct Flags {
  EmbeddedFlags engine;
  std::string tokens_file;
  std::string out;
  int first = 0;
};

// One sequence [id, …] or several [[id, …], …].
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadSequences(const std::string& path) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(StrCat("cannot read ", path));
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
  const auto ids = [](const nlohmann::json& array, std::vector<int32_t>* out) {
    if (!array.is_array()) return false;
    for (const nlohmann::json& id : array) {
      if (!id.is_number_integer()) return false;
      const int64_t value = id.get<int64_t>();
      if (value < 0 || value > std::numeric_limits<int32_t>::max()) return false;
      out->push_back(static_cast<int32_t>(value));
    }
    return true;
  };
  std::vector<std::vector<int32_t>> sequences;
  const bool nested = json.is_array() && !json.empty() && json[0].is_array();
  bool good = json.is_array();
  if (nested) {
    for (const nlohmann::json& sequence : json) good = good && ids(sequence, &sequences.emplace_back());
  } else if (good) {
    good = ids(json, &sequences.emplace_back());
  }
  if (!good)
    return absl::InvalidArgumentError(StrCat(path, " is not an array of token ids, or of such arrays"));
  return sequences;
}

// Version 1.0 of the format: magic, header padded to 64 bytes, rows in C order.
std::string NpyHeader(size_t rows, size_t cols) {
  std::string header =
      StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", cols, "), }");
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string magic("\x93NUMPY\x01\x00", 8);
  magic += static_cast<char>(header.size() & 0xff);
  magic += static_cast<char>(header.size() >> 8);
  return magic + header;
}

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto sequences, ReadSequences(flags.tokens_file));
  MOEPOOL_ASSIGN_OR_RETURN(const auto embedded, MakeEmbedded(flags.engine));
  size_t rows = 0;
  for (const auto& ids : sequences) {
    if (static_cast<int>(ids.size()) <= flags.first) {
      return absl::InvalidArgumentError(
          StrCat("a sequence has ", ids.size(), " tokens, logits are asked for from position ", flags.first));
    }
    rows += ids.size() - static_cast<size_t>(flags.first);
  }
  std::ofstream out(flags.out, std::ios::binary);
  if (!out) return absl::NotFoundError(StrCat("cannot write ", flags.out));
  out << NpyHeader(rows, static_cast<size_t>(embedded->source->Config().vocab_size));
  for (const auto& ids : sequences) {
    MOEPOOL_RETURN_IF_ERROR(ScoreTokens(embedded->engine.get(), ids, flags.first, [&](const LogitsRow& row) {
      out.write(reinterpret_cast<const char*>(row.logits.data()),
                static_cast<std::streamsize>(row.logits.size() * sizeof(float)));
    }));
  }
  out.close();
  if (!out) return absl::DataLossError(StrCat("cannot write ", flags.out));
  return absl::OkStatus();
}

}  // namespace

void AddLogitsCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app->add_subcommand("logits", "logits of given tokens as a .npy file, computed in this process");
  AddEmbeddedFlags(command, &flags->engine);
  command->add_option("--tokens-file", flags->tokens_file, "JSON: [id, …] or [[id, …], …]")->required();
  command->add_option("--first", flags->first, "first position of each sequence")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--out", flags->out, "f32 [positions, vocabulary]")->required();
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
