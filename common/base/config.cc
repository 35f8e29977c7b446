#include "common/base/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "yaml-cpp/yaml.h"

namespace moepool {
namespace {

using Values = std::vector<std::string>;

// `name` of --name, or empty for an option that has no long name (a positional).
std::string LongName(const CLI::Option& option) {
  return option.get_lnames().empty() ? std::string() : option.get_lnames().front();
}

std::string EnvironmentName(const std::string& name) {
  return absl::StrCat("MOEPOOL_", absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}})));
}

absl::StatusOr<std::map<std::string, Values>> ReadYaml(const std::string& path) {
  std::map<std::string, Values> values;
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (root.IsNull()) return values;
    if (!root.IsMap()) return absl::InvalidArgumentError(absl::StrCat(path, ": not a map of settings"));
    for (const auto& entry : root) {
      const std::string key = entry.first.as<std::string>();
      Values& list = values[absl::StrReplaceAll(key, {{"_", "-"}})];
      if (!list.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", key, " is set twice"));
      if (entry.second.IsScalar()) {
        list.push_back(entry.second.Scalar());
      } else if (entry.second.IsSequence()) {
        for (const auto& item : entry.second) list.push_back(item.as<std::string>());
      } else {
        return absl::InvalidArgumentError(absl::StrCat(path, ": ", key, " is neither a value nor a list"));
      }
    }
  } catch (const YAML::BadFile&) {
    return absl::InvalidArgumentError(absl::StrCat("--config: cannot read ", path));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ":", e.mark.line + 1, ": ", e.msg));
  }
  return values;
}

// Sets what no flag has set. `origin` goes into the error.
absl::Status SetOption(CLI::Option* option, const Values& values, const std::string& origin) {
  if (values.size() > 1 && option->get_items_expected_max() == 1) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": ", values.size(), " values for --",
                                                   LongName(*option), ", where one is expected"));
  }
  try {
    for (const std::string& value : values) option->add_result(value);
    option->run_callback();
  } catch (const CLI::Error&) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": bad value '", values.front(), "' for --", LongName(*option)));
  }
  return absl::OkStatus();
}

std::vector<CLI::Option*> AllOptions(CLI::App* app) {
  std::vector<CLI::Option*> options = app->get_options();
  for (CLI::App* sub : app->get_subcommands()) {
    for (CLI::Option* option : AllOptions(sub)) options.push_back(option);
  }
  return options;
}

// Options that the whole program knows, whether their subcommand was chosen or not.
bool IsKnown(const CLI::App& app, const std::string& name) {
  if (app.get_option_no_throw(absl::StrCat("--", name)) != nullptr) return true;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (IsKnown(*sub, name)) return true;
  }
  return false;
}

absl::Status FillFromEnvironmentAndFile(CLI::App* app, std::string config_path) {
  if (const char* path = std::getenv("MOEPOOL_CONFIG"); config_path.empty() && path != nullptr)
    config_path = path;
  std::map<std::string, Values> file;
  if (!config_path.empty()) {
    MOEPOOL_ASSIGN_OR_RETURN(file, ReadYaml(config_path));
    for (const auto& [name, values] : file) {
      if (name == "config" || name == "help" || name == "version" || !IsKnown(*app, name)) {
        return absl::InvalidArgumentError(absl::StrCat(config_path, ": unknown setting '", name, "'"));
      }
    }
  }
  for (CLI::Option* option : AllOptions(app)) {
    const std::string name = LongName(*option);
    if (name.empty() || name == "config" || name == "help" || name == "version" || option->count() > 0)
      continue;
    const std::string variable = EnvironmentName(name);
    const char* value = std::getenv(variable.c_str());
    if (value != nullptr && *value != '\0') {
      MOEPOOL_RETURN_IF_ERROR(SetOption(option, {value}, variable));
    } else if (const auto it = file.find(name); it != file.end() && !it->second.empty()) {
      MOEPOOL_RETURN_IF_ERROR(SetOption(option, it->second, config_path));
    }
  }
  return absl::OkStatus();
}

// CLI11 checks required options before the environment and the file have had their say, so they are checked
// here.
std::vector<CLI::Option*> TakeRequired(CLI::App* app) {
  std::vector<CLI::Option*> required;
  for (CLI::Option* option : app->get_options()) {
    if (!option->get_required() || option->get_lnames().empty()) continue;
    option->required(false);
    required.push_back(option);
  }
  for (CLI::App* sub : app->get_subcommands([](CLI::App*) { return true; })) {
    for (CLI::Option* option : TakeRequired(sub)) required.push_back(option);
  }
  return required;
}

bool ParseIpv4(const std::string& host, uint8_t out[4]) { return inet_pton(AF_INET, host.c_str(), out) == 1; }

}  // namespace

std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv, std::ostream& out,
                              std::ostream& err) {
  const std::string program = app->get_name().empty() && argc > 0 ? argv[0] : app->get_name();
  std::string config_path;
  app->add_option("--config", config_path, "YAML file of settings; keys are flag names");
  app->set_version_flag("--version", absl::StrCat(program, " ", kVersion));
  const std::vector<CLI::Option*> required = TakeRequired(app);
  const auto fail = [&](const std::string& message) {
    err << program << ": " << absl::StrReplaceAll(message, {{"\n", " "}}) << std::endl;
    return 2;
  };
  try {
    app->parse(argc, argv);
  } catch (const CLI::Success& e) {
    app->exit(e, out, err);
    return 0;
  } catch (const CLI::Error& e) {
    return fail(e.what());
  }
  if (const absl::Status status = FillFromEnvironmentAndFile(app, config_path); !status.ok()) {
    return fail(std::string(status.message()));
  }
  for (CLI::Option* option : AllOptions(app)) {
    if (option->count() == 0 && std::find(required.begin(), required.end(), option) != required.end()) {
      return fail(absl::StrCat("--", LongName(*option), " is required"));
    }
  }
  return std::nullopt;
}

std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv) {
  return ParseFlags(app, argc, argv, std::cout, std::cerr);
}

// Not by CLI11's "!--name", for which "true" in a file is the value that the flag stands for.
void AddOffFlag(CLI::App* app, const std::string& name, bool* on, const std::string& help) {
  app->add_flag_function(
      name, [on](int64_t count) { *on = count <= 0; }, help);
}

std::string HostPort::ToString() const {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool HostPort::IsLoopback() const {
  if (host == "localhost") return true;
  uint8_t v4[4];
  if (ParseIpv4(host, v4)) return v4[0] == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<HostPort> ParseAddress(std::string_view text) {
  const auto bad = [&](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat("address '", std::string(text), "': ", why));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("no port; expected host:port");
  HostPort address;
  std::string_view host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    address.host = host.substr(1, host.size() - 2);
    in6_addr v6;
    if (inet_pton(AF_INET6, address.host.c_str(), &v6) != 1)
      return bad("no IPv6 address between the brackets");
  } else {
    if (host.empty()) return bad("no host; expected host:port");
    for (const char c : host) {
      if (c == ':') return bad("an IPv6 address goes in brackets");
      if (!absl::ascii_isalnum(c) && c != '.' && c != '-' && c != '_')
        return bad("bad character in the host");
    }
    address.host = host;
  }
  const std::string_view port = text.substr(colon + 1);
  uint32_t number = 0;
  const bool digits = !port.empty() && port.find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits || !absl::SimpleAtoi(absl::string_view(port.data(), port.size()), &number) || number > 65535) {
    return bad("the port is not in 0 to 65535");
  }
  address.port = static_cast<uint16_t>(number);
  return address;
}

absl::StatusOr<HostPort> ParseListenAddress(std::string_view flag, std::string_view text, bool insecure) {
  absl::StatusOr<HostPort> address = ParseAddress(text);
  if (!address.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", std::string(flag), ": ", address.status().message()));
  }
  if (!insecure && !address->IsLoopback()) {
    return absl::InvalidArgumentError(absl::StrCat("--", std::string(flag), ": ", address->ToString(),
                                                   " is not a loopback address; --insecure allows it, "
                                                   "without authentication or encryption"));
  }
  return address;
}

}  // namespace moepool
