// What is read of a GPU, by a library that stands in for the driver's.
#include <dlfcn.h>

#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/str.h"
#include "common/metrics/gpu_metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/nvml/nvml_stand_in.h"

namespace moepool {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class GpuTest : public testing::Test {
 protected:
  void SetUp() override { Use(NVML_STAND_IN); }
  void TearDown() override {
    EXPECT_EQ(state_->initialised, 0) << "NVML was left initialised";
    dlclose(library_);
  }
  void Use(const char* path) {
    if (library_ != nullptr) dlclose(library_);
    library_ = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    path_ = path;
    state_ = reinterpret_cast<NvmlStandInFunction>(dlsym(library_, "moepool_nvml_stand_in"))();
    state_->Reset();
  }
  absl::StatusOr<std::unique_ptr<GpuReader>> Open(const std::string& device = NvmlStandIn::kBusId) {
    return GpuReader::Open(device, path_, [this] { return now_; });
  }
  std::string Message(const std::string& device = NvmlStandIn::kBusId) {
    return std::string(ToStd(Open(device).status().message()));
  }

  void* library_ = nullptr;
  std::string path_;
  NvmlStandIn* state_ = nullptr;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

TEST_F(GpuTest, ReadsWhatTheDriverTells) {
  for (const char* device : {NvmlStandIn::kBusId, NvmlStandIn::kUuid}) {
    const auto reader = Open(device);
    ASSERT_TRUE(reader.ok()) << reader.status();
    const GpuReading reading = (*reader)->Read();
    EXPECT_EQ(reading.name, "NVIDIA GeForce RTX 3090");
    EXPECT_EQ(reading.uuid, NvmlStandIn::kUuid);
    EXPECT_EQ(reading.memory_used_bytes, 20'000u);
    EXPECT_EQ(reading.memory_total_bytes, 24'000u);
    EXPECT_EQ(reading.utilization_ratio, 0.97);
    EXPECT_EQ(reading.temperature_celsius, 71);
    EXPECT_EQ(reading.power_watts, 347.5);
  }
}

TEST_F(GpuTest, LeavesOutWhatTheDriverDoesNotTell) {
  state_->utilization_result = NvmlStandIn::kNotSupported;
  state_->temperature_result = NvmlStandIn::kNotSupported;
  state_->power_result = NvmlStandIn::kNotSupported;
  const auto reader = Open();
  ASSERT_TRUE(reader.ok()) << reader.status();
  const GpuReading reading = (*reader)->Read();
  EXPECT_EQ(reading.memory_total_bytes, 24'000u);
  EXPECT_FALSE(reading.utilization_ratio.has_value());
  EXPECT_FALSE(reading.temperature_celsius.has_value());
  EXPECT_FALSE(reading.power_watts.has_value());
}

TEST_F(GpuTest, AsksTheDriverOnceASecondAtMost) {
  const auto reader = Open();
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Read().memory_used_bytes, 20'000u);
  state_->used_bytes = 23'000;
  now_ += absl::Milliseconds(999);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_EQ((*reader)->Read().memory_used_bytes, 20'000u); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(state_->memory_calls, 1);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ((*reader)->Read().memory_used_bytes, 23'000u);
  EXPECT_EQ(state_->memory_calls, 2);
}

TEST_F(GpuTest, AnUnknownGpuIsNamed) {
  EXPECT_EQ(Open("0000:02:00.0").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message("0000:02:00.0"),
              AllOf(HasSubstr(path_), HasSubstr("0000:02:00.0"), HasSubstr("Not Found")));
  // Ids of MIG slices are UUIDs too.
  EXPECT_EQ(Open("MIG-1").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GpuTest, ALibraryWithoutADriverSaysSo) {
  state_->init_result = NvmlStandIn::kDriverNotLoaded;
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(), HasSubstr("nvmlInit_v2: Driver Not Loaded"));
}

TEST_F(GpuTest, WithoutALibraryThereIsNothing) {
  path_ = "libmoepool-no-such.so.1";
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(), HasSubstr("libmoepool-no-such.so.1"));
  EXPECT_EQ(OpenGpuReader(""), nullptr);
}

TEST_F(GpuTest, AMissingFunctionIsNamed) {
  Use(NVML_STAND_IN_WITHOUT_MEMORY);
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(), AllOf(HasSubstr(path_), HasSubstr("nvmlDeviceGetMemoryInfo")));
}

TEST_F(GpuTest, AFunctionThatDriversMayLackIsDoneWithout) {
  Use(NVML_STAND_IN_WITHOUT_POWER);
  const auto reader = Open();
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_FALSE((*reader)->Read().power_watts.has_value());
  EXPECT_EQ((*reader)->Read().temperature_celsius, 71);
}

TEST_F(GpuTest, ANameWithoutAnEndIsCut) {
  state_->long_name = true;
  const auto reader = Open();
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Read().name, std::string(95, 'n'));
}

TEST_F(GpuTest, MetricsAreThoseOfTheDocumentation) {
  const auto reader = Open();
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::set<std::string> exported;
  for (const prometheus::MetricFamily& family : GpuFamilies((*reader)->Read())) {
    std::string labels;
    for (const auto& label : family.metric.at(0).label) {
      labels += StrCat(labels.empty() ? "" : ", ", "`", label.name, "`");
    }
    exported.insert(StrCat("| `", family.name, "` | gauge | ", labels, " |"));
    EXPECT_EQ(family.type, prometheus::MetricType::Gauge);
  }
  std::set<std::string> documented;
  std::ifstream page("docs/metrics.md");
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("| `moepool_gpu_")) continue;
    documented.insert(line.substr(0, line.find(" |", line.rfind("` |")) + 2));
  }
  EXPECT_EQ(exported, documented);
}

TEST_F(GpuTest, MetricsAreReadAtTheScrape) {
  Metrics metrics;
  EXPECT_EQ(AddGpuMetrics(nullptr, &metrics), nullptr);
  {
    auto reader = Open();
    ASSERT_TRUE(reader.ok()) << reader.status();
    const auto shown = AddGpuMetrics(*std::move(reader), &metrics);
    EXPECT_EQ(state_->memory_calls, 0);
    const std::string label = StrCat("{gpu=\"", NvmlStandIn::kUuid, "\"} ");
    const std::string text = metrics.Expose();
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_info{gpu=\"", NvmlStandIn::kUuid,
                                       "\",name=\"NVIDIA GeForce RTX 3090\"} 1")));
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_memory_used_bytes", label, "20000")));
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_memory_total_bytes", label, "24000")));
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_utilization_ratio", label, "0.97")));
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_temperature_celsius", label, "71")));
    EXPECT_THAT(text, HasSubstr(StrCat("moepool_gpu_power_watts", label, "347.5")));
    state_->power_result = NvmlStandIn::kNotSupported;
    now_ += absl::Seconds(1);
    EXPECT_THAT(metrics.Expose(), Not(HasSubstr("moepool_gpu_power_watts")));
  }
  EXPECT_THAT(metrics.Expose(), Not(HasSubstr("moepool_gpu")));
}

}  // namespace
}  // namespace moepool
