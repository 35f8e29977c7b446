// NCCL as a library that is opened at run time.
#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/transport/nccl_api.h"

namespace moepool {
namespace {

// Of the GPU's multiprocessors, those that transfers of one pair may take from what computes.
constexpr int kMaxCtas = 2;

class NcclLibrary final : public NcclApi {
 public:
  explicit NcclLibrary(void* handle) : handle_(handle) {}
  // Never closed: its threads outlive communicators.
  NcclLibrary(const NcclLibrary&) = delete;
  NcclLibrary& operator=(const NcclLibrary&) = delete;

  absl::Status Resolve(const std::string& library) {
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGetVersion", &get_version_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", &get_unique_id_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", &comm_init_rank_config_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", &comm_get_async_error_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGroupStart", &group_start_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGroupEnd", &group_end_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclSend", &send_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclRecv", &recv_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclCommAbort", &comm_abort_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGetErrorString", &get_error_string_));
    MOEPOOL_RETURN_IF_ERROR(Find(library, "ncclGetLastError", &get_last_error_));
    if (const NcclResult result = get_version_(&version_); result != NcclResult::kSuccess) {
      return absl::NotFoundError(absl::StrCat(library, ": ncclGetVersion: ", get_error_string_(result)));
    }
    if (version_ < kNcclOldestVersion) {
      return absl::FailedPreconditionError(absl::StrCat(library, " is NCCL ", NcclVersionName(version_), ", ",
                                                        NcclVersionName(kNcclOldestVersion),
                                                        " or later is needed"));
    }
    return absl::OkStatus();
  }

  int Version() const override { return version_; }
  NcclResult GetUniqueId(NcclId* id) override { return get_unique_id_(id); }
  NcclResult CommInit(NcclComm** comm, const NcclId& id, int rank) override {
    NcclConfig config;
    config.blocking = 0;
    config.min_ctas = 1;
    config.max_ctas = kMaxCtas;
    return comm_init_rank_config_(comm, /*ranks=*/2, id, rank, &config);
  }
  NcclResult CommGetAsyncError(NcclComm* comm, NcclResult* state) override {
    return comm_get_async_error_(comm, state);
  }
  NcclResult GroupStart() override { return group_start_(); }
  NcclResult GroupEnd() override { return group_end_(); }
  NcclResult Send(const void* device, size_t bytes, int peer, NcclComm* comm, void* stream) override {
    return send_(device, bytes, kNcclInt8, peer, comm, stream);
  }
  NcclResult Recv(void* device, size_t bytes, int peer, NcclComm* comm, void* stream) override {
    return recv_(device, bytes, kNcclInt8, peer, comm, stream);
  }
  NcclResult CommAbort(NcclComm* comm) override { return comm_abort_(comm); }
  std::string Describe(NcclResult result) const override {
    const char* last = get_last_error_(nullptr);
    return last == nullptr || *last == 0 ? get_error_string_(result)
                                         : absl::StrCat(get_error_string_(result), ": ", last);
  }

 private:
  template <typename Function>
  absl::Status Find(const std::string& library, const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle_, name));
    return *function != nullptr ? absl::OkStatus()
                                : absl::NotFoundError(absl::StrCat(library, " has no ", name));
  }

  void* const handle_;
  int version_ = 0;
  // cudaStream_t is a pointer, ncclDataType_t an enumeration in an int.
  NcclResult (*get_version_)(int*) = nullptr;
  NcclResult (*get_unique_id_)(NcclId*) = nullptr;
  NcclResult (*comm_init_rank_config_)(NcclComm**, int, NcclId, int, NcclConfig*) = nullptr;
  NcclResult (*comm_get_async_error_)(NcclComm*, NcclResult*) = nullptr;
  NcclResult (*group_start_)() = nullptr;
  NcclResult (*group_end_)() = nullptr;
  NcclResult (*send_)(const void*, size_t, int, int, NcclComm*, void*) = nullptr;
  NcclResult (*recv_)(void*, size_t, int, int, NcclComm*, void*) = nullptr;
  NcclResult (*comm_abort_)(NcclComm*) = nullptr;
  const char* (*get_error_string_)(NcclResult) = nullptr;
  const char* (*get_last_error_)(NcclComm*) = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclApi>> OpenNccl(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return absl::NotFoundError(why == nullptr ? absl::StrCat(library, " cannot be opened") : why);
  }
  auto api = std::make_unique<NcclLibrary>(handle);
  if (absl::Status status = api->Resolve(library); !status.ok()) {
    dlclose(handle);
    return status;
  }
  return api;
}

std::string NcclVersionName(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace moepool
