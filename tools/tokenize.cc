// `moepool tokenize`: ids of a text under a model file's tokenizer, one JSON object a line of output.
#include <cstdio>
#include <iostream>
#include <iterator>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/model/gguf_source.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string model;
  std::string text;
  bool special = false;
  bool pieces = false;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto source, OpenGguf(flags.model));
  MOEPOOL_ASSIGN_OR_RETURN(const auto tokenizer, MakeTokenizer(source->Tokenizer()));
  std::string text = flags.text;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  MOEPOOL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text, flags.special));
  if (!flags.pieces) {
    std::puts(nlohmann::json(ids).dump().c_str());
    return absl::OkStatus();
  }
  for (const int32_t id : ids) {
    const nlohmann::json line = {{"id", id}, {"piece", tokenizer->Bytes(id, true)}};
    std::puts(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("tokenize", "ids of a text under a model's tokenizer");
  command->add_option("--model", flags->model, "GGUF file")->required();
  command->add_flag("--special", flags->special, "control tokens written out in the text become their ids");
  command->add_flag("--pieces", flags->pieces, "one line for each id, with its text");
  command->add_option("text", flags->text, "the text; - for standard input")->required();
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
