// Experts of the host's memory: copies aside of the stream, and exchanges with those of the device's.
#include "common/backend/cuda/expert_places.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/simt/device_of_kernels.h"
#include "tests/unit/backend/small_experts.h"

namespace moepool {
namespace {

constexpr std::array<uint64_t, 3> kSmall = {10, 10, 20};
constexpr std::array<uint64_t, 3> kLarge = {30, 30, 60};

std::optional<std::pair<uint64_t, uint64_t>> Chosen(const std::vector<ExpertUse>& experts) {
  const std::optional<ExpertExchange> chosen = ChooseExchange(experts);
  if (!chosen.has_value()) return std::nullopt;
  return std::pair(chosen->hot, chosen->cold);
}

using Pair = std::pair<uint64_t, uint64_t>;

TEST(ChooseExchangeTest, TakesTheHottestOfTheHostAndTheColdestOfTheDevice) {
  const std::vector<ExpertUse> experts = {{1, kSmall, 40, false, false}, {2, kSmall, 10, false, false},
                                          {3, kSmall, 20, false, false}, {4, kSmall, 50, true, true},
                                          {5, kSmall, 90, true, true},   {6, kSmall, 70, true, true}};
  EXPECT_EQ(Chosen(experts), Pair(5, 2));
}

TEST(ChooseExchangeTest, WhatIsNotClearlyHotterStays) {
  std::vector<ExpertUse> experts = {{1, kSmall, 10, false, false}, {2, kSmall, 27, true, true}};
  EXPECT_EQ(Chosen(experts), std::nullopt);
  experts[1].uses = 28;
  EXPECT_EQ(Chosen(experts), Pair(2, 1));
  std::swap(experts[0].uses, experts[1].uses);  // the other way round
  EXPECT_EQ(Chosen(experts), std::nullopt);
}

TEST(ChooseExchangeTest, OnlyThoseOfTheSameBytesAndWithACopy) {
  std::vector<ExpertUse> experts = {{1, kSmall, 0, false, false},
                                    {2, kLarge, 0, true, true},
                                    {3, kLarge, 50, false, false},
                                    {4, kSmall, 100, true, false}};
  experts[1].uses = 100;
  EXPECT_EQ(Chosen(experts), std::nullopt);
  experts[3].copied = true;
  EXPECT_EQ(Chosen(experts), Pair(4, 1));
  experts[2].uses = 1;
  experts[3].uses = 99;  // the pairs lie 99 apart both
  experts[0].uses = 1;   // and now 98
  EXPECT_EQ(Chosen(experts), Pair(2, 3));
}

TEST(EmulatedDeviceTest, CopiesAsideAreAsLateAndAsEarlyAsTheirOrderAllows) {
  for (const CopiesAside when : {CopiesAside::kLate, CopiesAside::kEarly}) {
    EmulatedDevice device({.aside = when});
    std::byte* const a = device.AllocateHost(3).value();
    const auto set = [&](int i, int value) { a[i] = static_cast<std::byte>(value); };
    const auto get = [&](int i) { return static_cast<int>(a[i]); };
    for (int i = 0; i < 3; ++i) set(i, i + 1);
    device.CopyAside(a + 1, a, 1);
    device.Synchronize();
    EXPECT_EQ(get(1), when == CopiesAside::kEarly ? 1 : 2);
    device.StreamAfterAside();
    EXPECT_EQ(get(1), when == CopiesAside::kEarly ? 1 : 2);
    device.Synchronize();
    EXPECT_EQ(get(1), 1);

    device.Copy(a, a + 2, 1);  // 3
    device.AsideAfterStream();
    device.CopyAside(a + 1, a, 1);
    device.Copy(a, a + 1, 1);  // 1, or 3 where the copy comes early
    EXPECT_EQ(get(1), 1);      // the stream has done nothing yet
    device.Synchronize();
    EXPECT_EQ(get(0), when == CopiesAside::kEarly ? 3 : 1);
    device.FreeHost(a);  // waits for what is aside
  }
}

// Forgets how stream and copies wait for each other, where told to.
class ForgetfulDevice final : public DeviceOfKernels {
 public:
  explicit ForgetfulDevice(CopiesAside aside) : DeviceOfKernels(emulated::Kernels(), {.aside = aside}) {}
  void AsideAfterStream() override {
    if (!forget_aside) DeviceOfKernels::AsideAfterStream();
  }
  void StreamAfterAside() override {
    launches_before_wait = launches;
    if (!forget_stream) DeviceOfKernels::StreamAfterAside();
  }
  void* Stream() override {
    ++launches;
    return DeviceOfKernels::Stream();
  }
  bool forget_aside = false;
  bool forget_stream = false;
  int launches = 0;
  int launches_before_wait = -1;
};

// Room for three experts and copies of two more.
struct Tight {
  explicit Tight(CopiesAside aside) {
    auto own = std::make_unique<ForgetfulDevice>(aside);
    device = own.get();
    backend = BackendOf(8 * kExpertBytes, 100 * kExpertBytes, std::move(own));
    const auto filler = backend->Allocate(3 * kExpertBytes - 1000).value();
    layer = std::make_unique<Layer>(backend.get());
  }
  bool Pinned(size_t expert) const {
    const ExpertWeights& weights = layer->expert(expert);
    return static_cast<const CudaMatrix&>(*weights.gate).pinned() &&
           static_cast<const CudaMatrix&>(*weights.up).pinned() &&
           static_cast<const CudaMatrix&>(*weights.down).pinned();
  }
  ForgetfulDevice* device;
  std::unique_ptr<CudaBackend> backend;
  std::unique_ptr<Layer> layer;
};

// What a device with room for all gives.
class Expected {
 public:
  const std::vector<float>& operator()(const std::vector<int32_t>& experts) {
    const auto [found, added] = results_.try_emplace(experts);
    if (added) found->second = layer_.Run(experts);
    return found->second;
  }

 private:
  std::unique_ptr<CudaBackend> backend_ = BackendOf(100 * kExpertBytes, 0);
  Layer layer_{backend_.get()};
  std::map<std::vector<int32_t>, std::vector<float>> results_;
};

class ExpertPlacesTest : public ::testing::TestWithParam<CopiesAside> {
 protected:
  Expected expected_;
  Tight tight_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Aside, ExpertPlacesTest, ::testing::Values(CopiesAside::kLate, CopiesAside::kEarly),
                         [](const auto& info) {
                           return info.param == CopiesAside::kLate ? "Late" : "Early";
                         });

TEST_P(ExpertPlacesTest, WhatIsUsedMuchComesToLieOnTheDevice) {
  ASSERT_FALSE(tight_.Pinned(2));
  ASSERT_TRUE(tight_.Pinned(3));
  const std::vector<std::vector<int32_t>> calls = {{0, 6}, {6, 7}, {1, 3, 6}, {2}, {6}, {0, 4, 5, 6, 7}};
  for (uint64_t i = 0; i < 3 * kCallsALook + 5; ++i) {
    const std::vector<int32_t>& experts = calls[i % calls.size()];
    ASSERT_EQ(tight_.layer->Run(experts), expected_(experts)) << "call " << i;
  }
  EXPECT_GE(tight_.backend->ExpertCopies().exchanges, 1u);
  EXPECT_FALSE(tight_.Pinned(6));
  int pinned = 0;
  for (size_t e = 0; e < kExperts; ++e) pinned += tight_.Pinned(e) ? 1 : 0;
  EXPECT_EQ(pinned, kExperts - 3);
  for (int32_t e = 0; e < kExperts; ++e) EXPECT_EQ(tight_.layer->Run({e}), expected_({e})) << e;
}

TEST_P(ExpertPlacesTest, ThoseThatAreThereComputeBeforeTheStreamWaits) {
  EXPECT_EQ(tight_.layer->Run({0, 1}), expected_({0, 1}));
  EXPECT_EQ(tight_.device->launches_before_wait, -1);  // nothing to wait for
  tight_.device->launches = 0;
  EXPECT_EQ(tight_.layer->Run({0, 5}), expected_({0, 5}));
  EXPECT_EQ(tight_.device->launches_before_wait, 1);
  EXPECT_GT(tight_.device->launches, 1);
  tight_.device->launches_before_wait = -1;
  EXPECT_EQ(tight_.layer->Run({0, 5}), expected_({0, 5}));
  EXPECT_EQ(tight_.device->launches_before_wait, -1);  // it has a copy
}

// Calls up to the one at whose end an exchange is looked for, after which expert 6 is clearly the hottest.
void WarmUp(Tight* tight) {
  for (uint64_t i = 1; i < kCallsALook; ++i) tight->layer->Run({6});
}

// Each wait is needed: without it, the device that is late or early at that wait gives something else.
TEST(ExpertPlacesWaitsTest, TheStreamWaitsForCopies) {
  Expected expected;
  Tight tight(CopiesAside::kLate);
  tight.device->forget_stream = true;
  EXPECT_NE(tight.layer->Run({0, 5}), expected({0, 5}));
}

TEST(ExpertPlacesWaitsTest, TheStreamWaitsForExchanges) {
  Expected expected;
  for (const bool forget : {false, true}) {
    Tight tight(CopiesAside::kLate);
    WarmUp(&tight);
    EXPECT_EQ(tight.layer->Run({6}), expected({6}));
    ASSERT_EQ(tight.backend->ExpertCopies().exchanges, 1u);
    tight.device->forget_stream = forget;
    EXPECT_EQ(tight.layer->Run({6}) == expected({6}), !forget);
  }
}

TEST(ExpertPlacesWaitsTest, TheStreamWaitsForExchangesThatWereNotUsedBeforeTheNext) {
  Expected expected;
  for (const int32_t first : {6, 7}) {
    Tight tight(CopiesAside::kLate);
    for (uint64_t i = 1; i < kCallsALook; ++i) tight.layer->Run({6, 7});
    for (uint64_t i = 0; i <= kCallsALook; ++i) tight.layer->Run({0});
    ASSERT_EQ(tight.backend->ExpertCopies().exchanges, 2u);
    EXPECT_EQ(tight.layer->Run({first}), expected({first}));
  }
}

TEST(ExpertPlacesWaitsTest, CopiesWaitForThoseWhoReadWhatTheyOverwrite) {
  Expected expected;
  for (const bool forget : {false, true}) {
    Tight tight(CopiesAside::kEarly);
    Layer other(tight.backend.get());
    tight.layer->Run({5, 6});
    tight.device->forget_aside = forget;
    tight.layer->Queue({5, 6});
    other.Queue({3, 4});  // in the places of 5 and 6
    EXPECT_EQ(tight.layer->Fetch() == expected({5, 6}), !forget);
    EXPECT_EQ(other.Fetch() == expected({3, 4}), true);
  }
}

TEST(ExpertPlacesWaitsTest, ExchangesWaitForThoseWhoReadTheColdOne) {
  Expected expected;
  const std::vector<int32_t> experts = {0, 1, 2, 6};
  for (const bool forget : {false, true}) {
    Tight tight(CopiesAside::kEarly);
    WarmUp(&tight);
    tight.device->forget_aside = forget;
    EXPECT_EQ(tight.layer->Run(experts) == expected(experts), !forget);
    ASSERT_EQ(tight.backend->ExpertCopies().exchanges, 1u);
  }
}

TEST(ExpertPlacesUsesTest, OldUsesCountLess) {
  for (const uint64_t halvings : {0, 2}) {
    Tight tight(CopiesAside::kLate);
    const size_t cache_bytes = 2 * kExpertBytes;
    std::byte* const memory = tight.device->Allocate(cache_bytes).value();
    {
      ExpertCache cache(tight.device, memory, cache_bytes);
      ExpertPlaces places(tight.device, &cache);
      places.Begin({});
      for (size_t e = 0; e < 3; ++e) {
        for (int i = 0; i < 40; ++i) places.Use(tight.layer->expert(e));
      }
      for (uint64_t i = 1; i < halvings * kCallsHalved; ++i) places.Begin({});
      for (int i = 0; i < 30; ++i) places.Use(tight.layer->expert(6));
      for (uint64_t i = 0; i < kCallsALook; ++i) {
        places.Begin({});
        places.Exchange();
      }
      EXPECT_EQ(places.exchanges(), halvings / 2);  // 30 are clearly more than 10, and less than 40
    }
    tight.device->Free(memory);
  }
}

TEST(ExpertPlacesThreadsTest, ExpertsEndWhileOthersChangePlaces) {
  Expected expected;
  Tight tight(CopiesAside::kEarly);
  std::atomic<bool> stop = false;
  Mutex turns;  // the operations take one caller
  std::thread loader([&] {
    while (!stop) {
      Layer passing(tight.backend.get());  // ends without a turn
      MutexLock lock(&turns);
      passing.Run({0, 7});  // which are known from here on
    }
  });
  for (uint64_t i = 0; i < 2 * kCallsALook; ++i) {
    const std::vector<int32_t> experts = {i % 2 == 0 ? 6 : 7};
    MutexLock lock(&turns);
    EXPECT_EQ(tight.layer->Run(experts), expected(experts));
  }
  stop = true;
  loader.join();
}

}  // namespace
}  // namespace moepool
