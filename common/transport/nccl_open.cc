#include "common/transport/nccl_open.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {

absl::StatusOr<std::shared_ptr<NcclQueue>> OpenNcclQueue(std::string_view backend, int device) {
  if (backend != "cuda") {
    return absl::FailedPreconditionError(
        StrCat("NCCL is for the cuda backend, the backend here is ", std::string(backend)));
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<NcclDevice> gpu, MakeCudaNcclDevice(device));
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<NcclApi> api, OpenNccl());
  return NcclQueue::Create(std::move(api), std::shared_ptr<NcclDevice>(std::move(gpu)),
                           {.keeps_on_device = true});
}

}  // namespace moepool
