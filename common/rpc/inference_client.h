// A client of a gateway's moepool.v1.Inference, for the command-line tool.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "proto/inference.pb.h"

namespace moepool {

// Cancels one call from another thread, also one that has not begun.
class Cancellation {
 public:
  void Cancel();
  bool cancelled();

 private:
  friend class InferenceClient;
  // What cancels the call under way; empty once it is over.
  void Set(std::function<void()> cancel);

  Mutex mutex_;
  std::function<void()> cancel_ GUARDED_BY(mutex_);
  bool cancelled_ GUARDED_BY(mutex_) = false;
};

struct InferenceClientOptions {
  std::string api_key;  // empty: none is shown
};

// One connection for all calls. Thread-safe. Unavailable where no gateway answers.
class InferenceClient {
 public:
  explicit InferenceClient(const std::string& address, InferenceClientOptions options = {});
  ~InferenceClient();

  // Streams the answers to one request; blocks until their end. `on_message` gets each message as it comes;
  // where it returns false the call is cancelled, as it is by `cancellation`. Returns the last message
  // (usage, timings).
  absl::StatusOr<v1::GenerateResponse> Generate(
      const v1::GenerateRequest& request, absl::Time deadline,
      const std::function<bool(const v1::GenerateResponse&)>& on_message,
      Cancellation* cancellation = nullptr) const;
  absl::StatusOr<v1::GetModelResponse> GetModel(absl::Time deadline) const;

 private:
  struct Stub;
  const InferenceClientOptions options_;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace moepool
