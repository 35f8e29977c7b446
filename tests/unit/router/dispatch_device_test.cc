// Exchanges whose rows go from device memory and whose parts stay there, which here are the host's.
#include <cstring>

#include "tests/unit/router/dispatch_testing.h"

namespace moepool {
namespace {

class DeviceTransport final : public ScriptedTransport, public DeviceSender {
 public:
  DeviceSender* device_sender() override { return this; }
  absl::StatusOr<DeviceBytes> TakeDevice(size_t, size_t bytes) override {
    if (!has_memory) return absl::ResourceExhaustedError("none left");
    auto memory = std::make_shared<std::vector<double>>(bytes / sizeof(double) + 1);
    return DeviceBytes{reinterpret_cast<uint8_t*>(memory->data()), bytes, memory};
  }
  size_t small_frame_bytes() const override { return small_bytes; }
  absl::Status SendRows(uint64_t dispatch_id, std::span<const uint8_t> head, DeviceBytes rows,
                        absl::Time deadline) override {
    ++from_device;
    Frame frame(head.begin(), head.end());
    frame.insert(frame.end(), rows.data, rows.data + rows.bytes);
    return Send(dispatch_id, frame, deadline);
  }
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    absl::StatusOr<FrameBytes> frame = ScriptedTransport::Receive(dispatch_id, deadline);
    if (!frame.ok() || !parts_stay) return frame;
    const size_t head = sizeof(FrameHeader) + (DecodeHeader(frame->bytes)->parts + 7) / 8 * 8;
    frame->device = frame->bytes.subspan(head);
    frame->bytes = frame->bytes.first(head);
    return frame;
  }

  bool has_memory = true;
  bool parts_stay = true;
  size_t small_bytes = 0;
  int from_device = 0;
};

class DispatchDeviceTest : public DispatchTest {
 protected:
  DispatchDeviceTest() {
    auto table = std::make_shared<RoutingTable>(*pool_.routes);
    for (size_t m = 0; m < 2; ++m) {
      devices_.push_back(std::make_shared<DeviceTransport>());
      transports_[m] = devices_.back();
      table->members[m].transport = devices_.back();
    }
    pool_.routes = std::move(table);
  }

  absl::Status BeginOnDevice(bool host_rows_too) {
    GatedRows rows;
    rows.layer = kLayer;
    rows.on_device.rows = kRows;
    rows.on_device.cols = kHidden;
    rows.x = rows.on_device;
    rows.on_device.f32 = x_.data();
    if (host_rows_too) rows.x.f32 = x_.data();
    rows.selected = selected_;
    rows.skip = skip_;
    rows.ops = &backend_->Trunk();
    return dispatcher_->Begin(rows, pool_.routes);
  }
  absl::Status Finish() { return dispatcher_->Finish(0, &backend_->Trunk(), nullptr, out_.data(), faults_); }
  void ExpectExchanged(bool host_rows_too) {
    out_ = residual_;
    faults_.assign(kRows, 0);
    ASSERT_EQ(BeginOnDevice(host_rows_too), absl::OkStatus());
    ASSERT_EQ(Finish(), absl::OkStatus());
    EXPECT_EQ(out_, Expected());
  }

  std::vector<std::shared_ptr<DeviceTransport>> devices_;  // the first of three workers
};

TEST_F(DispatchDeviceTest, RowsGoFromTheDeviceWhereTheyCanAndElseFromTheHost) {
  for (const bool host_rows_too : {false, true}) {
    for (const bool memory : {true, false}) {
      devices_[0]->from_device = devices_[1]->from_device = 0;
      devices_[1]->has_memory = memory;
      const DispatchTotals before = dispatcher_->totals();
      ExpectExchanged(host_rows_too);
      EXPECT_EQ(devices_[0]->from_device, 1);
      EXPECT_EQ(devices_[1]->from_device, memory ? 1 : 0);
      EXPECT_EQ(dispatcher_->totals().packed - before.packed, memory ? 2u : 1u);
      EXPECT_EQ(dispatcher_->totals().dispatches - before.dispatches, 3u);
    }
  }
  EXPECT_EQ(transports_[2]->sent.size(), 4u);
}

TEST_F(DispatchDeviceTest, SmallFramesGoFromTheHostWhereTheRowsAreThere) {
  devices_[0]->small_bytes = 1 << 20;
  ExpectExchanged(/*host_rows_too=*/true);
  EXPECT_EQ(devices_[0]->from_device, 0);
  EXPECT_EQ(devices_[1]->from_device, 1);
  ExpectExchanged(/*host_rows_too=*/false);
  EXPECT_EQ(devices_[0]->from_device, 1);
}

TEST_F(DispatchDeviceTest, FramesAreTheSameWhicheverWayTheyWent) {
  ExpectExchanged(/*host_rows_too=*/false);
  devices_[0]->small_bytes = 1 << 20;
  ExpectExchanged(/*host_rows_too=*/true);
  std::vector<Frame>& sent = devices_[0]->sent;
  ASSERT_EQ(sent.size(), 2u);
  // But for what no two dispatches share.
  for (Frame& frame : sent) {
    std::memset(frame.data() + offsetof(FrameHeader, dispatch_id), 0, sizeof(FrameHeader::dispatch_id));
    std::memset(frame.data() + offsetof(FrameHeader, budget_us), 0, sizeof(FrameHeader::budget_us));
  }
  EXPECT_EQ(sent[0], sent[1]);
}

// Operations that add them may not have begun when Finish() returns.
TEST_F(DispatchDeviceTest, PartsOfTheDeviceStayUntilTheNextExchange) {
  ExpectExchanged(/*host_rows_too=*/false);
  EXPECT_EQ(devices_[0]->kept(), 1u);
  EXPECT_EQ(transports_[2]->kept(), 0u) << "copied by then";
  devices_[0]->parts_stay = devices_[1]->parts_stay = false;
  ExpectExchanged(/*host_rows_too=*/false);
  EXPECT_EQ(devices_[0]->kept(), 0u);
}

TEST_F(DispatchDeviceTest, ALostWorkerLeavesNothingOpen) {
  devices_[1]->send_status = absl::UnavailableError("gone");
  out_ = residual_;
  ExpectLost(BeginOnDevice(/*host_rows_too=*/false), 101);
  ExpectRecovers();
}

TEST_F(DispatchDeviceTest, HostRowsAreWantedForWhoeverTakesNoOthersAndForSmallFrames) {
  RoutingTable table;
  const auto wants = [&](int rows) {
    return Dispatcher::WantsHostRows(table, WireDType::kF32, rows, kHidden);
  };
  EXPECT_FALSE(wants(1));
  table.members.push_back({WorkerId(1), devices_[0]});
  EXPECT_FALSE(wants(1));
  devices_[0]->small_bytes = 10 * kHidden * sizeof(float);
  EXPECT_TRUE(wants(40));
  EXPECT_FALSE(wants(41));
  table.members.push_back({WorkerId(2), transports_[2]});
  EXPECT_TRUE(wants(41));
}

}  // namespace
}  // namespace moepool
