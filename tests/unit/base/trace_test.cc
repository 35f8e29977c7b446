#include "common/base/trace.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class TraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "trace_test-" + std::to_string(getpid()) + ".json";
    unlink(path_.c_str());
  }
  void TearDown() override { unlink(path_.c_str()); }

  std::unique_ptr<TraceSession> Start(uint32_t ring_events = 1024, const std::string& process = "test") {
    auto session = TraceSession::Start({.path = path_,
                                        .process = process,
                                        .flush_interval = absl::InfiniteDuration(),
                                        .ring_events = ring_events});
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  // The file as viewers read it, the closing bracket put there. Its events of one phase ('X': spans).
  std::vector<json> Events(const std::string& phase = "X") const {
    std::stringstream text;
    text << std::ifstream(path_).rdbuf();
    std::string whole = text.str();
    const size_t comma = whole.rfind(',');
    EXPECT_EQ(whole.substr(0, 2), "[\n");
    EXPECT_EQ(whole.substr(comma), ",\n");
    whole.resize(comma);
    const json parsed = json::parse(whole + "]", nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << whole;
    std::vector<json> events;
    for (const json& event : parsed) {
      if (event["ph"] == phase) events.push_back(event);
    }
    return events;
  }

  std::string path_;
};

TEST_F(TraceTest, WithoutASessionNothingIsRecorded) {
  EXPECT_FALSE(TraceEnabled());
  EXPECT_EQ(*TraceSession::Start({}), nullptr);
  TraceSpan span("before");
  TraceFlowBegin("before", 1);
  NameTraceThread("before");
  auto session = Start();
  EXPECT_TRUE(TraceEnabled());
  span.End();  // begun before
  session.reset();
  EXPECT_FALSE(TraceEnabled());
  { TraceSpan after("after"); }
  session = Start();
  session.reset();
  EXPECT_TRUE(Events().empty());
  EXPECT_TRUE(Events("s").empty());
  EXPECT_EQ(Events("M").size(), 2u);  // the process's name, of each session
}

TEST_F(TraceTest, SpansNestAndCarryNumbers) {
  auto session = Start();
  const int64_t before_ns = TraceNowNs();
  {
    TraceSpan outer("outer", {"layer", 3}, {"rows", -7});
    TraceSpan first("first");
    first.End();
    first.End();  // once is enough
    const TraceSpan second("second");
  }
  const int64_t after_ns = TraceNowNs();
  session.reset();
  const std::vector<json> events = Events();
  ASSERT_EQ(events.size(), 3u);  // in order of their ends
  EXPECT_EQ(events[0]["name"], "first");
  EXPECT_EQ(events[1]["name"], "second");
  EXPECT_EQ(events[2]["name"], "outer");
  EXPECT_EQ(events[2]["args"].dump(), R"({"layer":3,"rows":-7})");
  const auto begin = [&](size_t i) { return events[i]["ts"].get<double>(); };
  const auto end = [&](size_t i) { return begin(i) + events[i]["dur"].get<double>(); };
  constexpr double kRounding = 0.01;  // of doubles this large
  EXPECT_LE(begin(2), begin(0));
  EXPECT_LE(end(0), begin(1) + kRounding);
  EXPECT_LE(end(1), end(2) + kRounding);
  EXPECT_GE(begin(2), before_ns / 1e3 - kRounding);
  EXPECT_LE(end(2), after_ns / 1e3 + kRounding);
  for (const json& event : events) {
    EXPECT_EQ(event["pid"], getpid());
    EXPECT_EQ(event["tid"], getpid());  // the main thread's
  }
}

TEST_F(TraceTest, FlowsAndAsynchronousSpansHaveIds) {
  auto session = Start();
  TraceFlowBegin("frame", 0xfedcba9876543210);
  TraceFlowEnd("frame", 0xfedcba9876543210);
  TraceAsyncBegin("request", 17, {"tokens", 5});
  TraceAsyncEnd("request", 17);
  session.reset();
  ASSERT_EQ(Events("s").size(), 1u);
  ASSERT_EQ(Events("f").size(), 1u);
  EXPECT_EQ(Events("s")[0]["id"], "0xfedcba9876543210");
  EXPECT_EQ(Events("f")[0]["id"], "0xfedcba9876543210");
  EXPECT_EQ(Events("f")[0]["bp"], "e");
  ASSERT_EQ(Events("b").size(), 1u);
  EXPECT_EQ(Events("b")[0]["id2"]["local"], "0x11");
  EXPECT_EQ(Events("b")[0]["args"]["tokens"], 5);
  EXPECT_EQ(Events("e").size(), 1u);
}

TEST_F(TraceTest, ThreadsWriteTheirOwnEventsInOrderWhileOthersFlush) {
  constexpr int kThreads = 4;
  constexpr int kEvents = 3000;
  auto session = Start(kEvents + 1);
  std::atomic<int> running = kThreads;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&running, t] {
      NameTraceThread("counts");
      for (int i = 0; i < kEvents; ++i) TraceSpan span("count", {"thread", t}, {"i", i});
      --running;
    });
  }
  while (running > 0) session->Flush();
  for (std::thread& thread : threads) thread.join();
  session.reset();
  std::map<int, int> next;
  std::map<int, std::set<int>> tids;
  for (const json& event : Events()) {
    const int thread = event["args"]["thread"];
    EXPECT_EQ(event["args"]["i"], next[thread]++);
    tids[thread].insert(event["tid"].get<int>());
  }
  ASSERT_EQ(next.size(), static_cast<size_t>(kThreads));
  std::set<int> all;
  for (const auto& [thread, count] : next) {
    EXPECT_EQ(count, kEvents);
    EXPECT_EQ(tids[thread].size(), 1u);
    all.insert(tids[thread].begin(), tids[thread].end());
  }
  EXPECT_EQ(all.size(), static_cast<size_t>(kThreads));
  EXPECT_EQ(Events("i").size(), 0u);
  size_t names = 0;
  for (const json& event : Events("M")) names += event["args"]["name"] == "counts";
  EXPECT_EQ(names, static_cast<size_t>(kThreads));
}

TEST_F(TraceTest, AFullRingLeavesOutTheNewestAndSaysHowMany) {
  auto session = Start(8);
  for (int round = 0; round < 3; ++round) {  // the ring wraps
    for (int i = 0; i < 13; ++i) TraceSpan span("count", {"i", i});
    session->Flush();
  }
  for (int i = 0; i < 8; ++i) TraceSpan span("count", {"i", i});
  session.reset();
  const std::vector<json> events = Events();
  ASSERT_EQ(events.size(), 4u * 8);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["args"]["i"], i % 8);
  ASSERT_EQ(Events("i").size(), 3u);
  for (const json& event : Events("i")) {
    EXPECT_EQ(event["name"], "events left out");
    EXPECT_EQ(event["args"]["events"], 5);
  }
}

TEST_F(TraceTest, LaterSessionsAndOtherProcessesAddToTheFile) {
  Start(1024, "first").reset();
  auto session = Start(1024, "second");
  { TraceSpan span("second"); }
  const auto third = TraceSession::Start({.path = path_, .process = "third"});
  EXPECT_EQ(third.status().code(), absl::StatusCode::kFailedPrecondition);
  session.reset();
  ASSERT_EQ(Events("M").size(), 2u);
  EXPECT_EQ(Events("M")[0]["args"]["name"], "first");
  EXPECT_EQ(Events("M")[1]["args"]["name"], "second");
  EXPECT_EQ(Events().size(), 1u);
}

TEST_F(TraceTest, AnEmptyFileIsBegunLikeANewOne) {
  std::ofstream{path_};
  Start().reset();
  EXPECT_EQ(Events("M").size(), 1u);
}

// Counts how often it was told of an end, and keeps the cause.
struct End {
  int told = 0;
  absl::Status cause;
};

TEST_F(TraceTest, AFileAtItsLimitEndsTheSession) {
  constexpr uint64_t kLimit = 5000;
  End end;
  const auto session = TraceSession::Start({.path = path_,
                                            .process = "test",
                                            .flush_interval = absl::InfiniteDuration(),
                                            .max_file_bytes = kLimit,
                                            .on_end = [&](const absl::Status& cause) {
                                              ++end.told;
                                              end.cause = cause;
                                            }});
  ASSERT_TRUE(session.ok()) << session.status();
  for (int i = 0; i < 1000; ++i) {
    { TraceSpan span("count", {"i", i}); }
    (*session)->Flush();
  }
  EXPECT_EQ(end.told, 1);
  EXPECT_EQ(end.cause.code(), absl::StatusCode::kResourceExhausted) << end.cause;
  EXPECT_THAT(std::string(end.cause.message()), AllOf(HasSubstr(path_), HasSubstr("limit 5000")));
  EXPECT_FALSE(TraceEnabled());
  const std::vector<json> events = Events();
  EXPECT_GT(events.size(), 10u);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["args"]["i"], i);
  EXPECT_LE(std::filesystem::file_size(path_), kLimit);
}

// As on a full disk, which takes the beginning of what is written.
TEST_F(TraceTest, AWriteThatFailsHalfwayEndsTheSessionAndLeavesWholeLines) {
  End end;
  auto session = TraceSession::Start({.path = path_,
                                      .process = "test",
                                      .flush_interval = absl::InfiniteDuration(),
                                      .on_end = [&](const absl::Status& cause) {
                                        ++end.told;
                                        end.cause = cause;
                                      }});
  ASSERT_TRUE(session.ok()) << session.status();
  { TraceSpan span("written"); }
  (*session)->Flush();
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small = {std::filesystem::file_size(path_) + 50, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  { TraceSpan span("torn"); }
  (*session)->Flush();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  signal(SIGXFSZ, handler);
  { TraceSpan span("late"); }
  (*session)->Flush();
  EXPECT_EQ(end.told, 1);
  EXPECT_EQ(end.cause.code(), absl::StatusCode::kUnavailable) << end.cause;
  EXPECT_THAT(std::string(end.cause.message()), HasSubstr("cannot be written"));
  session->reset();
  ASSERT_EQ(Events().size(), 1u);
  EXPECT_EQ(Events()[0]["name"], "written");
  Start().reset();  // whoever comes later adds to whole lines
  EXPECT_EQ(Events("M").size(), 2u);
}

TEST_F(TraceTest, TheWriterFlushesByItself) {
  const auto session =
      TraceSession::Start({.path = path_, .process = "test", .flush_interval = absl::Milliseconds(1)});
  ASSERT_TRUE(session.ok()) << session.status();
  { TraceSpan span("soon"); }
  while (Events().empty()) std::this_thread::yield();
}

TEST_F(TraceTest, AFileThatCannotBeMadeIsNamed) {
  const auto session = TraceSession::Start({.path = "/proc/no/such/trace.json", .process = "test"});
  EXPECT_EQ(session.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("/proc/no/such/trace.json"));
  EXPECT_FALSE(TraceEnabled());
}

}  // namespace
}  // namespace moepool
