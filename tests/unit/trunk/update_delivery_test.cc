#include "common/trunk/update_delivery.h"

#include <future>
#include <memory>
#include <thread>

#include "gtest/gtest.h"

namespace moepool {
namespace {

SequenceUpdate Last() {
  SequenceUpdate update;
  update.finished = true;
  return update;
}

TEST(UpdateDeliveryTest, EndsWithTheLastUpdateAndLetsGoOfTheCallback) {
  const auto held = std::make_shared<int>();
  int updates = 0;
  UpdateDelivery delivery([&updates, held](SequenceUpdate) { ++updates; });
  EXPECT_TRUE(delivery.Deliver({}));
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_TRUE(delivery.Deliver(Last()));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(delivery.Deliver({}));
  EXPECT_FALSE(delivery.Close());
  EXPECT_EQ(updates, 2);
}

TEST(UpdateDeliveryTest, ClosedWithinItsUpdate) {
  const auto held = std::make_shared<int>();
  int updates = 0;
  std::unique_ptr<UpdateDelivery> delivery;
  delivery = std::make_unique<UpdateDelivery>([&, held](SequenceUpdate) {
    ++updates;
    EXPECT_TRUE(delivery->Close());
    EXPECT_EQ(held.use_count(), 2) << "the callback is under way";
  });
  EXPECT_TRUE(delivery->Deliver({}));
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(delivery->Deliver({}));
  EXPECT_EQ(updates, 1);
}

TEST(UpdateDeliveryTest, ClosingWaitsForTheUpdateOfAnotherThread) {
  std::promise<void> begun;
  std::promise<void> go_on;
  bool over = false;
  UpdateDelivery delivery([&](SequenceUpdate) {
    begun.set_value();
    go_on.get_future().wait();
    over = true;
  });
  std::thread deliverer([&] { delivery.Deliver({}); });
  begun.get_future().wait();
  std::thread closer([&] {
    delivery.Close();
    EXPECT_TRUE(over);
  });
  go_on.set_value();
  closer.join();
  deliverer.join();
}

// As a call that owns the delivery and is itself held by the callback.
TEST(UpdateDeliveryTest, TheCallbackMayHoldWhatClosesIt) {
  struct Call {
    UpdateDelivery* delivery = nullptr;
    ~Call() { delivery->Close(); }
  };
  auto call = std::make_shared<Call>();
  UpdateDelivery owner([call](SequenceUpdate) {});
  call->delivery = &owner;
  call.reset();
  EXPECT_TRUE(owner.Deliver(Last()));  // would hang if the call were let go of under the mutex
}

}  // namespace
}  // namespace moepool
