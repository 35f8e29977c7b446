// The few calls of NCCL that the transport makes, for communicators of two ranks that never block. The types
// are declared here as NCCL documents them, and the library is opened at run time, so that neither its
// headers nor the library is needed to build or to start; nccl_abi_check.cu compares with the real header.
// Tests have a stand-in over host memory (tests/support/nccl).
#pragma once

#include <climits>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace moepool {

struct NcclComm;  // ncclComm, opaque

// ncclUniqueId: names a communicator to those who are to join it.
struct NcclId {
  char bytes[128];
};

// ncclResult_t.
enum class NcclResult : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

// ncclConfig_t as far as it went in NCCL 2.18. Later versions read `size` and `version` and take their own
// defaults for what they have added behind it.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21800;
  int blocking = INT_MIN;  // INT_MIN, null: NCCL's choice
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

inline constexpr int kNcclOldestVersion = 21800;  // 2.18.0: sound non-blocking communicators and aborts
inline constexpr int kNcclInt8 = 0;               // ncclInt8 of ncclDataType_t

// Thread-safe as NCCL is: calls for unlike communicators may be made by unlike threads at once, and a group
// is its thread's.
class NcclApi {
 public:
  virtual ~NcclApi() = default;
  virtual int Version() const = 0;  // 22809 is 2.28.9
  virtual NcclResult GetUniqueId(NcclId* id) = 0;
  // Begins to join as `rank` of two; GetAsyncError says when it is done. Never blocks.
  virtual NcclResult CommInit(NcclComm** comm, const NcclId& id, int rank) = 0;
  // `state` is kInProgress while what was begun last is not yet queued on its stream.
  virtual NcclResult CommGetAsyncError(NcclComm* comm, NcclResult* state) = 0;
  virtual NcclResult GroupStart() = 0;
  virtual NcclResult GroupEnd() = 0;
  // `device` is memory of the communicator's GPU, `stream` a cudaStream_t.
  virtual NcclResult Send(const void* device, size_t bytes, int peer, NcclComm* comm, void* stream) = 0;
  virtual NcclResult Recv(void* device, size_t bytes, int peer, NcclComm* comm, void* stream) = 0;
  // Ends what is under way, waits for nobody else, and frees the communicator. May be called while another
  // thread's transfer of it hangs.
  virtual NcclResult CommAbort(NcclComm* comm) = 0;
  // What NCCL calls `result`, and what it says of its latest error.
  virtual std::string Describe(NcclResult result) const = 0;
};

// Opens NCCL's library. NotFound: it is not installed, or lacks a function; FailedPrecondition: its version
// is below kNcclOldestVersion.
absl::StatusOr<std::unique_ptr<NcclApi>> OpenNccl(const std::string& library = "libnccl.so.2");

// "2.28.9"
std::string NcclVersionName(int version);

}  // namespace moepool
