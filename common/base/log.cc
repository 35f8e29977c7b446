#include "common/base/log.h"

#include <cstdio>
#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace moepool {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

const char* Name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

struct LogState {
  LogState() : logger("moepool", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger.set_pattern("%v");
    logger.flush_on(spdlog::level::debug);
  }
  Mutex mutex;
  std::string process GUARDED_BY(mutex);
  spdlog::logger logger;
};

// Never destroyed: threads may log while the process ends.
LogState& State() {
  static LogState* const state = new LogState;
  return *state;
}

}  // namespace

void InitLog(std::string_view process, LogLevel level) {
  LogState& state = State();
  MutexLock lock(&state.mutex);
  state.process = process;
  state.logger.set_level(ToSpdlog(level));
}

bool ParseLogLevel(std::string_view text, LogLevel* level) {
  for (const LogLevel candidate : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (text != Name(candidate)) continue;
    *level = candidate;
    return true;
  }
  return false;
}

std::string FormatLogLine(std::string_view time, LogLevel level, std::string_view process,
                          std::string_view message, std::initializer_list<LogField> fields) {
  nlohmann::ordered_json line;
  line["time"] = time;
  line["level"] = Name(level);
  line["process"] = process;
  line["message"] = message;
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { line[std::string(field.name())] = value; }, field.value());
  }
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  LogState& state = State();
  if (!state.logger.should_log(ToSpdlog(level))) return;
  std::string process;
  {
    MutexLock lock(&state.mutex);
    process = state.process;
  }
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  state.logger.log(ToSpdlog(level),
                   spdlog::string_view_t(FormatLogLine(time, level, process, message, fields)));
}

void PrintReady(const nlohmann::json& line) {
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace moepool
