// One JSON object a line on stderr: time, level, process, message, then typed fields. Never prompts,
// generated text or ids of either.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "nlohmann/json_fwd.hpp"

namespace moepool {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

class LogField {
 public:
  template <typename T>
  LogField(std::string_view name, const T& value) : name_(name) {
    if constexpr (std::is_same_v<T, bool>) {
      value_ = value;
    } else if constexpr (std::is_floating_point_v<T>) {
      value_ = static_cast<double>(value);
    } else if constexpr (std::is_unsigned_v<T>) {
      value_ = static_cast<uint64_t>(value);
    } else if constexpr (std::is_integral_v<T>) {
      value_ = static_cast<int64_t>(value);
    } else {
      value_ = std::string_view(value);
    }
  }
  std::string_view name() const { return name_; }
  const auto& value() const { return value_; }

 private:
  std::string_view name_;
  std::variant<bool, int64_t, uint64_t, double, std::string_view> value_;
};

// Names the process in every line, and drops lines under `level`. Before it, lines carry no process name.
void InitLog(std::string_view process, LogLevel level = LogLevel::kInfo);
// "debug", "info", "warning", "error"; false for anything else.
bool ParseLogLevel(std::string_view text, LogLevel* level);

// Thread-safe. `fields` live until the call returns.
void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

// The line that Log writes, without its end.
std::string FormatLogLine(std::string_view time, LogLevel level, std::string_view process,
                          std::string_view message, std::initializer_list<LogField> fields);

// One line of JSON on stdout, flushed: how a process tells that it is ready, and on which addresses.
void PrintReady(const nlohmann::json& line);

}  // namespace moepool
