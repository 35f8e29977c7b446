#include "common/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace moepool {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

// Of /proc/self/stat, counted as proc(5) does; the name, the second, is in parentheses and may hold spaces.
constexpr size_t kFirstAfterName = 3;
constexpr size_t kUserTicks = 14;
constexpr size_t kSystemTicks = 15;
constexpr size_t kThreads = 20;
constexpr size_t kStartTicks = 22;  // since the machine started
constexpr size_t kVirtualBytes = 23;
constexpr size_t kResidentPages = 24;

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::optional<double> Number(const std::vector<std::string>& fields, size_t field) {
  double value = 0;
  if (fields.size() <= field - kFirstAfterName) return std::nullopt;
  if (!absl::SimpleAtod(fields[field - kFirstAfterName], &value)) return std::nullopt;
  return value;
}

// When the machine started, in seconds since 1970.
std::optional<double> BootSeconds() {
  for (const absl::string_view line : absl::StrSplit(ReadAll("/proc/stat"), '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    double seconds = 0;
    if (words.size() == 2 && words[0] == "btime" && absl::SimpleAtod(words[1], &seconds)) return seconds;
  }
  return std::nullopt;
}

std::optional<double> OpenDescriptors() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator at("/proc/self/fd", error), end; !error && at != end;
       at.increment(error)) {
    ++count;
  }
  if (error) return std::nullopt;
  return count - 1;  // without the one that reads the folder
}

std::optional<double> MostDescriptors() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::nullopt;
  return static_cast<double>(limit.rlim_cur);
}

std::optional<double> Times(std::optional<double> value, double factor) {
  if (value.has_value()) *value *= factor;
  return value;
}

std::optional<double> Sum(std::optional<double> a, std::optional<double> b) {
  if (!a.has_value() || !b.has_value()) return std::nullopt;
  return *a + *b;
}

}  // namespace

std::vector<MetricFamily> ProcessMetrics::Collect() const {
  std::vector<MetricFamily> families;
  const auto add = [&families](const char* name, MetricType type, const char* help,
                               std::optional<double> value) {
    if (!value.has_value()) return;
    MetricFamily& family = families.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = *value;
  };
  const std::string stat = ReadAll("/proc/self/stat");
  const size_t name_end = stat.rfind(')');
  std::vector<std::string> fields;
  if (name_end != std::string::npos)
    fields = absl::StrSplit(stat.substr(name_end + 1), ' ', absl::SkipEmpty());
  const double tick_s = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  add("process_cpu_seconds_total", MetricType::Counter,
      "Time of processors, in user space and in the kernel.",
      Times(Sum(Number(fields, kUserTicks), Number(fields, kSystemTicks)), tick_s));
  add("process_start_time_seconds", MetricType::Gauge, "When the process started, since 1970.",
      Sum(BootSeconds(), Times(Number(fields, kStartTicks), tick_s)));
  add("process_resident_memory_bytes", MetricType::Gauge, "Memory that is in RAM.",
      Times(Number(fields, kResidentPages), page_bytes));
  add("process_virtual_memory_bytes", MetricType::Gauge, "Address space.", Number(fields, kVirtualBytes));
  add("process_open_fds", MetricType::Gauge, "File descriptors in use.", OpenDescriptors());
  add("process_max_fds", MetricType::Gauge, "Most file descriptors that may be.", MostDescriptors());
  add("process_threads", MetricType::Gauge, "Threads.", Number(fields, kThreads));
  return families;
}

}  // namespace moepool
