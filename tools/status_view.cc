#include "tools/status_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/utf8.h"
#include "tools/status_heat.h"

namespace moepool {
namespace {

// Text of a known width: colours take no columns.
class Line {
 public:
  explicit Line(const StatusScreen& screen) : screen_(screen) {}
  // Cut where the line is full.
  Line& Add(std::string_view text, const char* colour = nullptr) {
    std::string kept;
    while (!text.empty() && columns_ < screen_.columns) {
      const int bytes = NextUtf8(text).bytes;
      kept.append(text.substr(0, bytes));
      text.remove_prefix(bytes);
      ++columns_;
    }
    if (kept.empty()) return *this;
    if (colour != nullptr && screen_.colours) {
      absl::StrAppend(&text_, "\x1b[", colour, "m", kept, "\x1b[0m");
    } else {
      text_ += kept;
    }
    return *this;
  }
  Line& To(int column) { return Add(std::string(static_cast<size_t>(std::max(column - columns_, 0)), ' ')); }
  std::string Take() { return std::move(text_); }

 private:
  const StatusScreen& screen_;
  std::string text_;
  int columns_ = 0;
};

constexpr const char* kBold = "1";
constexpr const char* kDim = "2";
constexpr const char* kGreen = "32";
constexpr const char* kYellow = "33";
constexpr const char* kRed = "31";

std::string Count(uint64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

std::string Rate(double value) { return Count(static_cast<uint64_t>(std::llround(std::max(value, 0.0)))); }

std::string Bar(const StatusScreen& screen, double share, int columns) {
  const int full = std::clamp(static_cast<int>(std::lround(share * columns)), 0, columns);
  std::string bar;
  for (int i = 0; i < columns; ++i) {
    absl::StrAppend(&bar, i < full ? (screen.unicode ? "█" : "#") : (screen.unicode ? "░" : "."));
  }
  return bar;
}

// "9.3 GiB", or "9.3 / 24.0 GiB" of a limit.
std::string Memory(uint64_t used, uint64_t limit) {
  const double unit = std::max(used, limit) >= (uint64_t{1} << 30) ? 1 << 30 : 1 << 20;
  const char* const name = unit == 1 << 20 ? "MiB" : "GiB";
  if (limit == 0) return absl::StrFormat("%.1f %s", static_cast<double>(used) / unit, name);
  return absl::StrFormat("%.1f / %.1f %s", static_cast<double>(used) / unit,
                         static_cast<double>(limit) / unit, name);
}

std::string Duration(double us) {
  if (us <= 0) return "-";
  return us < 1000 ? absl::StrFormat("%.0f us", us) : absl::StrFormat("%.2f ms", us / 1000);
}

// "21.3 / 24.0 GiB  97%"; "-" of what the driver does not tell.
std::string Gpu(const std::optional<GpuReading>& gpu) {
  if (!gpu.has_value()) return "-";
  const std::string memory = gpu->memory_used_bytes.has_value() && gpu->memory_total_bytes.has_value()
                                 ? Memory(*gpu->memory_used_bytes, *gpu->memory_total_bytes)
                                 : "-";
  if (!gpu->utilization_ratio.has_value()) return memory;
  return absl::StrFormat("%s %3.0f%%", memory, *gpu->utilization_ratio * 100);
}

bool HasGpu(const PoolWorkerInfo& worker) { return worker.gpu.has_value(); }

double KvShare(const PoolInfo& pool) {
  return pool.kv_blocks > 0 ? 1 - static_cast<double>(pool.kv_blocks_free) / pool.kv_blocks : 0;
}

// Widths that the workers' own words take, of a terminal with so many columns.
struct Columns {
  int name = 6;
  int state = 5;
  int experts = 7;
  int memory = 6;
  int gpu = 0;  // no such column
  explicit Columns(const PoolInfo& pool, int columns) {
    for (const PoolWorkerInfo& worker : pool.workers) {
      const auto fit = [](int* width, size_t size, int most) {
        *width = std::max(*width, std::min(static_cast<int>(size), most));
      };
      fit(&name, worker.name.size(), columns < 100 ? 16 : 28);
      fit(&state, worker.state.size(), 9);
      fit(&experts, worker.experts.size(), columns < 100 ? 9 : 20);
      fit(&memory, Memory(worker.expert_bytes, worker.memory_limit_bytes).size(), 22);
      if (HasGpu(worker)) fit(&gpu, Gpu(worker.gpu).size(), 28);
    }
  }
};

// Where the fields of a worker's line begin.
struct Tabs {
  int state, experts, load, memory, gpu, round_trip, backend;
  explicit Tabs(const Columns& columns)
      : state(columns.name + 2),
        experts(state + columns.state + 2),
        load(experts + columns.experts + 2),
        memory(load + 15),
        gpu(memory + columns.memory + 2),
        round_trip(gpu + (columns.gpu > 0 ? columns.gpu + 2 : 0)),
        backend(round_trip + 12) {}
};

std::string WorkerHead(const StatusScreen& screen, const Columns& columns) {
  const Tabs tabs(columns);
  Line line(screen);
  line.Add("WORKER", kDim).To(tabs.state).Add("STATE", kDim).To(tabs.experts).Add("EXPERTS", kDim);
  line.To(tabs.load).Add("LOAD", kDim).To(tabs.memory).Add("MEMORY", kDim);
  if (columns.gpu > 0) line.To(tabs.gpu).Add("GPU", kDim);
  return line.To(tabs.round_trip)
      .Add("ROUND TRIP", kDim)
      .To(tabs.backend)
      .Add("BACKEND, CARRIER", kDim)
      .Take();
}

std::string WorkerLine(const StatusScreen& screen, const Columns& columns, const PoolWorkerInfo& worker) {
  const Tabs tabs(columns);
  const char* const state_colour = worker.state == "ready" ? kGreen : worker.state == "lost" ? kRed : kYellow;
  Line line(screen);
  line.Add(PlainName(worker.name, static_cast<size_t>(columns.name)), kBold);
  line.To(tabs.state).Add(PlainName(worker.state, static_cast<size_t>(columns.state)), state_colour);
  line.To(tabs.experts).Add(PlainName(worker.experts, static_cast<size_t>(columns.experts)));
  line.To(tabs.load).Add(Bar(screen, worker.busy_ratio, 8), kGreen);
  line.Add(absl::StrFormat(" %3.0f%%", worker.busy_ratio * 100));
  line.To(tabs.memory).Add(Memory(worker.expert_bytes, worker.memory_limit_bytes));
  if (columns.gpu > 0) line.To(tabs.gpu).Add(Gpu(worker.gpu));
  line.To(tabs.round_trip).Add(absl::StrFormat("%10s", Duration(worker.round_trip_us)));
  line.To(tabs.backend)
      .Add(absl::StrCat(PlainName(worker.backend, 12), ", ", PlainName(worker.transport, 10)), kDim);
  return line.Take();
}

}  // namespace

std::string PlainName(std::string_view text, size_t columns) {
  std::string plain;
  for (size_t used = 0; !text.empty() && used < columns; ++used) {
    const Utf8Step step = NextUtf8(text);
    const bool control = step.code_point < 0x20 || (step.code_point >= 0x7F && step.code_point < 0xA0);
    if (step.kind == Utf8Kind::kCharacter && !control) {
      plain.append(text.substr(0, static_cast<size_t>(step.bytes)));
    } else {
      plain += '?';
    }
    text.remove_prefix(static_cast<size_t>(step.bytes));
  }
  return plain;
}

std::optional<StatusRates> RatesBetween(const StatusSight& earlier, const StatusSight& later) {
  const double seconds = absl::ToDoubleSeconds(later.time - earlier.time);
  const EngineTotals& before = earlier.pool.totals;
  const EngineTotals& now = later.pool.totals;
  if (seconds <= 0 || now.decode_rows < before.decode_rows || now.prefill_rows < before.prefill_rows) {
    return std::nullopt;
  }
  return StatusRates{static_cast<double>(now.decode_rows - before.decode_rows) / seconds,
                     static_cast<double>(now.prefill_rows - before.prefill_rows) / seconds};
}

std::vector<std::string> StatusLines(const StatusScreen& screen, const std::string& router,
                                     const std::optional<StatusSight>& sight,
                                     const std::optional<StatusRates>& rates, const std::string& trouble) {
  std::vector<std::string> lines;
  Line title(screen);
  title.Add("moepool", kBold).Add("  ").Add(router, kDim);
  if (sight.has_value()) title.Add("  ").Add(PlainName(sight->pool.model, 60));
  if (!trouble.empty()) {
    title.Add("  ").Add("unreachable", kRed);
  } else if (sight.has_value()) {
    title.Add("  ").Add(sight->pool.ready ? "ready" : "not ready", sight->pool.ready ? kGreen : kYellow);
  }
  lines.push_back(title.Take());
  if (!trouble.empty()) {
    lines.push_back(Line(screen).Add(PlainName(trouble, 400), kYellow).Take());
    lines.push_back(Line(screen)
                        .Add(sight.has_value() ? "trying again each second; below is what was last known"
                                               : "trying again each second",
                             kDim)
                        .Take());
  }
  if (sight.has_value()) {
    const PoolInfo& pool = sight->pool;
    if (trouble.empty() && !pool.waiting_for.empty()) {
      lines.push_back(
          Line(screen).Add("waiting for: ", kYellow).Add(PlainName(pool.waiting_for, 400)).Take());
    }
    lines.push_back(Line(screen)
                        .Add("running ", kDim)
                        .Add(absl::StrCat(pool.running), kBold)
                        .Add("   waiting ", kDim)
                        .Add(absl::StrCat(pool.waiting), kBold)
                        .Add("   tokens/s ", kDim)
                        .Add(rates.has_value() ? Rate(rates->decode) : "-", kBold)
                        .Add("   prefill/s ", kDim)
                        .Add(rates.has_value() ? Rate(rates->prefill) : "-", kBold)
                        .Add("   KV cache ", kDim)
                        .Add(Bar(screen, KvShare(pool), 10), kGreen)
                        .Add(absl::StrFormat(" %.0f%%", KvShare(pool) * 100), kBold)
                        .Add(absl::StrCat("   epoch ", pool.epoch), kDim)
                        .Take());
    if (pool.gpu.has_value()) {
      lines.push_back(Line(screen)
                          .Add("router's GPU ", kDim)
                          .Add(Gpu(pool.gpu), kBold)
                          .Add(absl::StrCat("   ", PlainName(pool.gpu->name, 60)), kDim)
                          .Take());
    }
    lines.push_back("");
    const Columns columns(pool, screen.columns);
    lines.push_back(WorkerHead(screen, columns));
    for (const PoolWorkerInfo& worker : pool.workers) lines.push_back(WorkerLine(screen, columns, worker));
    if (pool.workers.empty()) lines.push_back(Line(screen).Add("none yet", kDim).Take());
    // The heat map takes what is left, and needs a line between, two of its own and one of cells.
    const int left = screen.rows - static_cast<int>(lines.size());
    if (left >= 4) {
      const std::vector<std::string> heat = HeatLines(screen, pool, left - 1);
      if (!heat.empty()) lines.push_back("");
      lines.insert(lines.end(), heat.begin(), heat.end());
    }
  }
  if (static_cast<int>(lines.size()) > screen.rows)
    lines.resize(static_cast<size_t>(std::max(screen.rows, 0)));
  return lines;
}

std::string StatusTable(const PoolInfo& pool) {
  std::string text =
      absl::StrFormat("model %s   %s   epoch %d   running %d   waiting %d   KV blocks %d of %d free\n",
                      PlainName(pool.model, 200), pool.ready ? "ready" : "not ready", pool.epoch,
                      pool.running, pool.waiting, pool.kv_blocks_free, pool.kv_blocks);
  if (!pool.waiting_for.empty())
    absl::StrAppend(&text, "waiting for: ", PlainName(pool.waiting_for, 1000), "\n");
  if (pool.gpu.has_value()) {
    absl::StrAppend(&text, "router's GPU: ", Gpu(pool.gpu), "   ", PlainName(pool.gpu->name, 96), "\n");
  }
  absl::StrAppendFormat(&text, "%-6s %-24s %-9s %-11s %-8s %-10s %5s %10s %10s %12s %12s", "worker", "name",
                        "state", "transport", "backend", "experts", "load", "MiB", "limit", "dispatches",
                        "round trip");
  const bool gpus = std::any_of(pool.workers.begin(), pool.workers.end(), HasGpu);
  text += gpus ? "  GPU\n" : "\n";
  // What is not known yet is 0: the first figures come with a heartbeat, and with a dispatch.
  const auto mib = [](uint64_t bytes) {
    return bytes == 0 ? "-" : absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 20));
  };
  for (const PoolWorkerInfo& w : pool.workers) {
    absl::StrAppendFormat(&text, "%-6d %-24s %-9s %-11s %-8s %-10s %4.0f%% %10s %10s %12d %12s", w.id,
                          PlainName(w.name, 64), PlainName(w.state, 16), PlainName(w.transport, 16),
                          PlainName(w.backend, 16), PlainName(w.experts, 200), w.busy_ratio * 100,
                          mib(w.expert_bytes), mib(w.memory_limit_bytes), w.dispatches,
                          Duration(w.round_trip_us));
    text += gpus ? absl::StrCat("  ", Gpu(w.gpu), "\n") : "\n";
  }
  return text;
}

}  // namespace moepool
