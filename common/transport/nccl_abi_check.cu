// Compares what nccl_api.h declares of NCCL with NCCL's own header. Compiled in CUDA builds where the header
// is there; holds no code.
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "common/transport/nccl_api.h"

namespace moepool {
namespace {

constexpr bool Is(NcclResult ours, ncclResult_t theirs) {
  return static_cast<int>(ours) == static_cast<int>(theirs);
}

static_assert(Is(NcclResult::kSuccess, ncclSuccess));
static_assert(Is(NcclResult::kUnhandledCudaError, ncclUnhandledCudaError));
static_assert(Is(NcclResult::kSystemError, ncclSystemError));
static_assert(Is(NcclResult::kInternalError, ncclInternalError));
static_assert(Is(NcclResult::kInvalidArgument, ncclInvalidArgument));
static_assert(Is(NcclResult::kInvalidUsage, ncclInvalidUsage));
static_assert(Is(NcclResult::kRemoteError, ncclRemoteError));
static_assert(Is(NcclResult::kInProgress, ncclInProgress));
static_assert(sizeof(NcclResult) == sizeof(ncclResult_t));
static_assert(kNcclInt8 == ncclInt8 && sizeof(ncclDataType_t) == sizeof(int));

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId) && alignof(NcclId) == alignof(ncclUniqueId));
// Both are passed by value in the same way.
static_assert(std::is_trivially_copyable_v<NcclId> && std::is_standard_layout_v<NcclId>);
static_assert(sizeof(cudaStream_t) == sizeof(void*));

static_assert(offsetof(NcclConfig, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(NcclConfig, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(NcclConfig, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(NcclConfig, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(NcclConfig, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(NcclConfig, split_share) == offsetof(ncclConfig_t, splitShare));
static_assert(sizeof(NcclConfig) <= sizeof(ncclConfig_t));
static_assert(kNcclOldestVersion == NCCL_VERSION(2, 18, 0));

}  // namespace
}  // namespace moepool
