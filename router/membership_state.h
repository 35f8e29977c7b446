// The private parts of Membership, shared by its two source files.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "router/membership.h"

namespace moepool {

struct Membership::Member {
  WorkerId id;
  WorkerDescription description;
  std::shared_ptr<WorkerLink> link;
  std::shared_ptr<ExpertTransport> transport;
  absl::Time joined;
  absl::Time heard;
  std::vector<ExpertRef> assigned;
  std::vector<bool> may_hold;  // [layers * experts] assigned at some time and not released since
  uint64_t assigned_epoch = 0;
  uint64_t loaded_epoch = 0;
  bool squeezed = false;  // has been told to make room for the present plan
  bool leaving = false;
  std::string unfit;  // why it cannot hold what it was assigned; it is given nothing more
  WorkerLoad load;
};

struct Membership::Plan {
  uint64_t epoch = 0;
  std::vector<WorkerId> workers;
  std::vector<int32_t> owner;  // [layers * experts] index into workers
};

struct Membership::Cleanup {
  std::vector<std::pair<std::shared_ptr<ExpertTransport>, absl::Status>> transports;
  std::shared_ptr<const RoutingTable> table;
  struct Event {
    LogLevel level;
    std::string_view what;
    std::string subject;
    std::string detail;
  };
  std::vector<Event> events;

  void Note(LogLevel level, std::string_view what, std::string subject, std::string detail) {
    events.push_back({level, what, std::move(subject), std::move(detail)});
  }
  ~Cleanup() {
    for (const Event& event : events)
      Log(event.level, event.what, {{"subject", event.subject}, {"detail", event.detail}});
    for (auto& [transport, cause] : transports) transport->Close(cause);
  }
};

}  // namespace moepool
