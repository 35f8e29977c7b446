#include "tools/status_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/status_heat.h"

namespace moepool {
namespace {

using testing::HasSubstr;
using testing::Not;

PoolInfo TestPool(int layers, int experts) {
  PoolInfo pool;
  pool.model = "test-model";
  pool.ready = true;
  pool.epoch = 3;
  pool.running = 7;
  pool.waiting = 2;
  pool.kv_blocks = 100;
  pool.kv_blocks_free = 75;
  pool.layers = layers;
  pool.experts = experts;
  for (int i = 0; i < layers * experts; ++i)
    pool.expert_tokens_last_minute.push_back(static_cast<uint64_t>(i));
  PoolWorkerInfo worker;
  worker.id = 1;
  worker.name = "host:41";
  worker.state = "ready";
  worker.transport = "shm";
  worker.backend = "avx2";
  worker.memory_limit_bytes = uint64_t{24} << 30;
  worker.expert_bytes = uint64_t{6} << 30;
  worker.experts = "0-7";
  worker.busy_ratio = 0.5;
  worker.round_trip_us = 1580;
  pool.workers = {worker};
  return pool;
}

GpuReading TestGpu() {
  GpuReading gpu;
  gpu.name = "NVIDIA GeForce RTX 3090";
  gpu.memory_used_bytes = uint64_t{43} << 29;
  gpu.memory_total_bytes = uint64_t{24} << 30;
  gpu.utilization_ratio = 0.97;
  return gpu;
}

// Columns that a line takes, and nothing in it but text and colours.
int Width(const std::string& line) {
  std::string_view text = line;
  int columns = 0;
  while (!text.empty()) {
    if (text.starts_with("\x1b[")) {
      text.remove_prefix(text.find('m') + 1);
      continue;
    }
    const Utf8Step step = NextUtf8(text);
    EXPECT_EQ(step.kind, Utf8Kind::kCharacter) << line;
    EXPECT_GE(step.code_point, char32_t{0x20}) << line;
    text.remove_prefix(static_cast<size_t>(step.bytes));
    ++columns;
  }
  return columns;
}

std::string Joined(const std::vector<std::string>& lines) { return absl::StrJoin(lines, "\n"); }

StatusScreen Plain(int columns, int rows) { return {columns, rows, /*unicode=*/false, /*colours=*/false}; }

TEST(StatusViewTest, ShowsThePool) {
  const StatusSight sight{absl::Now(), TestPool(4, 8)};
  const std::string text = Joined(StatusLines(Plain(120, 40), "r:1", sight, StatusRates{1234.4, 5}, ""));
  EXPECT_THAT(text, HasSubstr("moepool  r:1  test-model  ready\n"));
  EXPECT_THAT(text,
              HasSubstr("running 7   waiting 2   tokens/s 1,234   prefill/s 5   KV cache ###....... 25%"));
  EXPECT_THAT(text,
              HasSubstr("host:41  ready  0-7      ####....  50%  6.0 / 24.0 GiB     1.58 ms  avx2, shm"));
  EXPECT_THAT(text, HasSubstr("EXPERTS BY LAYER, tokens in the last minute, 31 at most"));
}

TEST(StatusViewTest, FitsAnyTerminal) {
  PoolInfo pool = TestPool(61, 256);
  for (int i = 0; i < 30; ++i) pool.workers.push_back(pool.workers[0]);
  pool.workers[3].name = std::string(500, 'n');
  pool.workers[3].experts = "0-3,8,10-200";
  pool.workers[4].gpu = TestGpu();
  pool.workers[5].gpu = TestGpu();
  pool.workers[5].gpu->memory_used_bytes = ~uint64_t{0};
  pool.gpu = TestGpu();
  const StatusSight sight{absl::Now(), pool};
  for (const int columns : {1, 7, 40, 80, 99, 100, 300}) {
    for (const int rows : {1, 2, 5, 24, 37, 38, 39, 200}) {
      for (const bool rich : {false, true}) {
        const StatusScreen screen{columns, rows, rich, rich};
        const auto lines =
            StatusLines(screen, "127.0.0.1:50052", sight, std::nullopt, rows % 2 == 1 ? "gone" : "");
        EXPECT_LE(lines.size(), static_cast<size_t>(rows));
        for (const std::string& line : lines) EXPECT_LE(Width(line), columns) << rows << ": " << line;
      }
    }
  }
}

TEST(StatusViewTest, WithoutARouterSaysSoAndShowsWhatWasKnown) {
  const std::string never = Joined(StatusLines(Plain(80, 24), "r:1", std::nullopt, std::nullopt, "refused"));
  EXPECT_EQ(never, "moepool  r:1  unreachable\nrefused\ntrying again each second");
  const StatusSight sight{absl::Now(), TestPool(1, 2)};
  const std::string lost = Joined(StatusLines(Plain(80, 24), "r:1", sight, std::nullopt, "refused"));
  EXPECT_THAT(lost, HasSubstr("unreachable"));
  EXPECT_THAT(lost, HasSubstr("below is what was last known"));
  EXPECT_THAT(lost, HasSubstr("host:41"));
}

TEST(StatusTableTest, ShowsWhatIsKnownOfAWorker) {
  PoolInfo pool = TestPool(1, 8);
  EXPECT_THAT(StatusTable(pool),
              HasSubstr("0-7          50%     6144.0    24576.0            0      1.58 ms\n"));
  pool.workers[0].round_trip_us = 0;
  pool.workers[0].expert_bytes = 0;
  pool.workers[0].memory_limit_bytes = 0;
  EXPECT_THAT(StatusTable(pool),
              HasSubstr("0-7          50%          -          -            0            -\n"));
}

TEST(StatusViewTest, ShowsGpusWhereThereAreAny) {
  PoolInfo pool = TestPool(1, 8);
  const auto screen = [&] {
    return Joined(StatusLines(Plain(140, 40), "r:1", StatusSight{absl::Now(), pool}, std::nullopt, ""));
  };
  EXPECT_THAT(screen(), Not(HasSubstr("GPU")));
  EXPECT_THAT(StatusTable(pool), Not(HasSubstr("GPU")));
  pool.gpu = TestGpu();
  EXPECT_THAT(screen(), HasSubstr("\nrouter's GPU 21.5 / 24.0 GiB  97%   NVIDIA GeForce RTX 3090\n\nWORKER"));
  EXPECT_THAT(screen(), Not(HasSubstr("GPU  "))) << "no column where no worker has one";
  EXPECT_THAT(StatusTable(pool),
              HasSubstr("\nrouter's GPU: 21.5 / 24.0 GiB  97%   NVIDIA GeForce RTX 3090\nworker"));
  pool.gpu.reset();
  pool.workers.push_back(pool.workers[0]);
  pool.workers[1].gpu = TestGpu();
  EXPECT_THAT(screen(), HasSubstr("MEMORY          GPU                   ROUND TRIP  BACKEND, CARRIER\n"));
  EXPECT_THAT(screen(), HasSubstr("6.0 / 24.0 GiB  -                        1.58 ms  avx2, shm\n"));
  EXPECT_THAT(screen(), HasSubstr("6.0 / 24.0 GiB  21.5 / 24.0 GiB  97%     1.58 ms  avx2, shm\n"));
  EXPECT_THAT(StatusTable(pool), HasSubstr("  round trip  GPU\n"));
  EXPECT_THAT(StatusTable(pool), HasSubstr("     1.58 ms  -\n"));
  EXPECT_THAT(StatusTable(pool), HasSubstr("     1.58 ms  21.5 / 24.0 GiB  97%\n"));
  pool.workers[1].gpu->utilization_ratio.reset();
  EXPECT_THAT(StatusTable(pool), HasSubstr("     1.58 ms  21.5 / 24.0 GiB\n"));
  pool.workers[1].gpu->memory_total_bytes.reset();
  EXPECT_THAT(StatusTable(pool), HasSubstr("     1.58 ms  -\n"));
}

TEST(StatusViewTest, ANameCannotDriveTheTerminal) {
  PoolInfo pool = TestPool(0, 0);
  pool.workers[0].name = "evil\x1b[2J\n\xC2\x9B\xFF";
  pool.waiting_for = "a\x1b]0;title\x07";
  pool.gpu = GpuReading();
  pool.gpu->name = "card\x1b[2J";
  const StatusSight sight{absl::Now(), pool};
  for (const std::string& line : StatusLines(Plain(120, 24), "r:1", sight, std::nullopt, "")) Width(line);
  EXPECT_THAT(StatusTable(pool), Not(HasSubstr("\x1b")));
  EXPECT_THAT(StatusTable(pool), HasSubstr("evil?[2J???"));
}

TEST(StatusViewTest, RatesNeedTimeAndOneLifeOfTheRouter) {
  const absl::Time now = absl::Now();
  StatusSight earlier{now, TestPool(0, 0)};
  StatusSight later{now + absl::Seconds(2), TestPool(0, 0)};
  later.pool.totals.decode_rows = 10;
  later.pool.totals.prefill_rows = 4;
  ASSERT_TRUE(RatesBetween(earlier, later).has_value());
  EXPECT_EQ(RatesBetween(earlier, later)->decode, 5);
  EXPECT_EQ(RatesBetween(earlier, later)->prefill, 2);
  EXPECT_FALSE(RatesBetween(later, later).has_value());
  earlier.pool.totals.decode_rows = 11;
  EXPECT_FALSE(RatesBetween(earlier, later).has_value());
}

TEST(StatusHeatTest, ShadesFollowTokens) {
  PoolInfo pool = TestPool(2, 3);
  pool.expert_tokens_last_minute = {0, 9, 4, 0, 0, 0};
  EXPECT_THAT(HeatLines(Plain(16, 10), pool, 5),
              testing::ElementsAre("EXPERTS BY LAYER", "  0    @@@===", "  1          "));
  // In colours two layers share a line: upper and lower half of a block.
  const auto rich = HeatLines({60, 10, true, true}, pool, 5);
  ASSERT_EQ(rich.size(), 2u);
  EXPECT_THAT(rich[1], HasSubstr("\x1b[38;5;229m\x1b[48;5;234m▀▀"));
}

TEST(StatusHeatTest, NeighboursShareACellWhereThereIsNoRoom) {
  PoolInfo pool = TestPool(4, 4);
  pool.expert_tokens_last_minute = {8, 8, 0, 0, 8, 8, 0, 0, 0, 0, 4, 4, 0, 0, 4, 4};
  const auto lines = HeatLines(Plain(6, 10), pool, 3);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "  0 @ ");
  EXPECT_EQ(lines[2], "  2  +");
}

TEST(StatusHeatTest, NothingWithoutCounts) {
  PoolInfo pool = TestPool(2, 3);
  pool.expert_tokens_last_minute.pop_back();
  EXPECT_TRUE(HeatLines(Plain(80, 24), pool, 10).empty());
  EXPECT_TRUE(HeatLines(Plain(80, 24), TestPool(0, 0), 10).empty());
}

}  // namespace
}  // namespace moepool
