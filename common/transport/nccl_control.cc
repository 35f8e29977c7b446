#include "common/transport/nccl_control.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/transport/nccl_api.h"

namespace moepool {

absl::StatusOr<NcclMessage> DecodeNcclMessage(FrameBytes message) {
  NcclMessageHeader header;
  if (message.bytes.size() < sizeof(header)) {
    return absl::InvalidArgumentError(absl::StrCat("NCCL control: a message of ", message.bytes.size(),
                                                   " bytes, at least ", sizeof(header), " are needed"));
  }
  std::memcpy(&header, message.bytes.data(), sizeof(header));
  const auto says = static_cast<uint32_t>(header.says);
  if (says < static_cast<uint32_t>(NcclSays::kId) || says > static_cast<uint32_t>(NcclSays::kTaken) ||
      header.zero != 0) {
    return absl::InvalidArgumentError(absl::StrCat("NCCL control: a message of kind ", says, " with ",
                                                   header.zero, " in the field of zero"));
  }
  const size_t payload = message.bytes.size() - sizeof(header);
  const bool with_head = header.says == NcclSays::kTransfer || header.says == NcclSays::kOffer;
  const bool right = header.says == NcclSays::kId      ? payload == sizeof(NcclId)
                     : header.says == NcclSays::kFrame ? payload > 0
                     : with_head                       ? payload <= kMaxNcclHeadBytes
                                                       : payload == 0;
  if (!right) {
    return absl::InvalidArgumentError(
        absl::StrCat("NCCL control: a message of kind ", says, " with a payload of ", payload, " bytes"));
  }
  return NcclMessage{
      header.says, header.value, {message.bytes.subspan(sizeof(header)), std::move(message.owner)}};
}

}  // namespace moepool
