// `moepool status`: a router's pool as it stands, or live on a terminal.
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/rpc/trunk_client.h"
#include "common/trunk/pool_json.h"
#include "tools/commands.h"
#include "tools/live_screen.h"
#include "tools/status_view.h"

namespace moepool {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(1);
constexpr absl::Duration kLook = absl::Milliseconds(50);  // between looks at whether the router has answered

struct Flags {
  std::string router = "127.0.0.1:50052";
  bool json = false;
  bool once = false;
};

bool HasColours() {
  const char* const term = std::getenv("TERM");
  const char* const colours = std::getenv("COLORTERM");
  if (std::getenv("NO_COLOR") != nullptr || term == nullptr) return false;
  return std::string_view(term).find("256color") != std::string_view::npos ||
         (colours != nullptr && *colours != '\0');
}

bool HasUnicode() {
  return std::setlocale(LC_CTYPE, "") != nullptr && std::string_view(nl_langinfo(CODESET)) == "UTF-8";
}

struct Answer {
  absl::Time asked;
  absl::StatusOr<PoolInfo> pool;
};

absl::Status Watch(const Flags& flags) {
  GrpcTrunk trunk(flags.router);
  StatusScreen picture{.unicode = HasUnicode(), .colours = HasColours()};
  std::optional<StatusSight> sight;
  std::optional<StatusRates> rates;
  std::string trouble;
  // Outlives the screen: where the router hangs, the terminal is given back before that is over.
  std::future<Answer> answer;
  LiveScreen screen;
  std::vector<std::string> drawn;
  bool resized = false;
  absl::Time next = absl::Now();
  while (true) {
    if (!answer.valid() && absl::Now() >= next) {
      next = absl::Now() + kInterval;
      answer = std::async(std::launch::async, [&trunk] { return Answer{absl::Now(), trunk.Pool()}; });
    }
    if (answer.valid() && answer.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
      Answer got = answer.get();
      trouble = got.pool.ok() ? "" : std::string(got.pool.status().message());
      if (got.pool.ok()) {
        StatusSight seen{got.asked, *std::move(got.pool)};
        rates = sight.has_value() ? RatesBetween(*sight, seen) : std::nullopt;
        sight = std::move(seen);
      }
    }
    picture.columns = screen.columns();
    picture.rows = screen.rows();
    std::vector<std::string> lines = StatusLines(picture, flags.router, sight, rates, trouble);
    if (lines != drawn || resized) screen.Draw(lines);
    drawn = std::move(lines);
    const LiveScreen::Event event = screen.Wait(answer.valid() ? absl::Now() + kLook : next);
    if (event == LiveScreen::Event::kQuit) return absl::OkStatus();
    resized = event == LiveScreen::Event::kResized;
  }
}

absl::Status Run(const Flags& flags) {
  const bool terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  if (terminal && !flags.json && !flags.once) return Watch(flags);
  GrpcTrunk trunk(flags.router);
  MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo pool, trunk.Pool());
  const std::string text =
      flags.json ? PoolJson(pool).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                 : StatusTable(pool);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app->add_subcommand("status", "show a router's pool: live on a terminal until q, otherwise once");
  command->add_option("--router", flags->router, "host:port of a router")->capture_default_str();
  command->add_flag("--once", flags->once, "once, on a terminal too");
  command->add_flag("--json", flags->json, "once, as JSON");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
