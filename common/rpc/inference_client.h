// A client of a gateway's moepool.v1.Inference, for the command-line tool.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace moepool {

// One connection for all calls. Thread-safe. Unavailable where no gateway answers.
class InferenceClient {
 public:
  explicit InferenceClient(const std::string& address);
  ~InferenceClient();

  // Streams the answers to one request; blocks until their end. `on_message` gets each message as it comes;
  // where it returns false the call is cancelled. Returns the last message (usage, timings).
  absl::StatusOr<v1::GenerateResponse> Generate(
      const v1::GenerateRequest& request, absl::Time deadline,
      const std::function<bool(const v1::GenerateResponse&)>& on_message) const;
  absl::StatusOr<v1::GetModelResponse> GetModel(absl::Time deadline) const;

 private:
  struct Stub;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace moepool
