#include "common/transport/grpc_frame.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/str.h"
#include "common/transport/reply_inbox.h"

namespace moepool {
namespace {

constexpr uint8_t kFieldTag = (1 << 3) | 2;  // field 1, length-delimited
constexpr size_t kMaxPrefixBytes = 1 + 10;

size_t EncodePrefix(uint64_t length, uint8_t* out) {
  size_t n = 0;
  out[n++] = kFieldTag;
  while (length >= 0x80) {
    out[n++] = static_cast<uint8_t>(length | 0x80);
    length >>= 7;
  }
  out[n++] = static_cast<uint8_t>(length);
  return n;
}

// Bytes of tag and length; 0 where they are malformed.
size_t DecodePrefix(std::span<const uint8_t> in, uint64_t* length) {
  if (in.empty() || in[0] != kFieldTag) return 0;
  *length = 0;
  for (size_t n = 1; n < in.size() && n < kMaxPrefixBytes; ++n) {
    const int shift = static_cast<int>(7 * (n - 1));
    if (shift == 63 && (in[n] & 0x7e) != 0) return 0;
    *length |= static_cast<uint64_t>(in[n] & 0x7f) << shift;
    if ((in[n] & 0x80) == 0) return n + 1;
  }
  return 0;
}

}  // namespace

grpc::ByteBuffer EncodeFrameMessage(const FramePieces& frame) {
  uint8_t prefix[kMaxPrefixBytes];
  const size_t prefix_bytes = EncodePrefix(frame.bytes(), prefix);
  const grpc::Slice slices[] = {grpc::Slice(prefix, prefix_bytes),
                                grpc::Slice(frame.head.data(), frame.head.size()),
                                grpc::Slice(frame.tail.data(), frame.tail.size())};
  return grpc::ByteBuffer(slices, frame.tail.empty() ? 2 : 3);
}

absl::StatusOr<FrameBytes> DecodeFrameMessage(const grpc::ByteBuffer& message, size_t max_frame_bytes) {
  auto slices = std::make_shared<std::vector<grpc::Slice>>();
  if (!message.Dump(slices.get()).ok()) return absl::InvalidArgumentError("frame message cannot be read");
  uint8_t head[kMaxPrefixBytes];
  size_t head_bytes = 0;
  for (const grpc::Slice& slice : *slices) {
    const size_t n = std::min(slice.size(), kMaxPrefixBytes - head_bytes);
    if (n != 0) std::memcpy(head + head_bytes, slice.begin(), n);
    head_bytes += n;
  }
  uint64_t length = 0;
  const size_t prefix_bytes = DecodePrefix({head, head_bytes}, &length);
  if (prefix_bytes == 0) return absl::InvalidArgumentError("frame message: malformed tag or length");
  if (length != message.Length() - prefix_bytes) {
    return absl::InvalidArgumentError(StrCat("frame message: field of ", length,
                                             " bytes in a message that has ", message.Length() - prefix_bytes,
                                             " left"));
  }
  if (length > max_frame_bytes) {
    return absl::InvalidArgumentError(StrCat("frame message: ", length, " bytes, limit ", max_frame_bytes));
  }
  size_t skip = prefix_bytes;
  for (const grpc::Slice& slice : *slices) {
    if (skip >= slice.size()) {
      skip -= slice.size();
      continue;
    }
    const uint8_t* begin = slice.begin() + skip;
    if (slice.size() - skip != length || reinterpret_cast<uintptr_t>(begin) % 8 != 0) break;
    return FrameBytes{{begin, length}, slices};
  }
  uint8_t* data;
  FrameBytes frame = NewFrame(length, &data);
  skip = prefix_bytes;
  for (const grpc::Slice& slice : *slices) {
    const size_t skipped = std::min(skip, slice.size());
    skip -= skipped;
    const size_t n = slice.size() - skipped;
    if (n != 0) std::memcpy(data, slice.begin() + skipped, n);
    data += n;
  }
  return frame;
}

}  // namespace moepool
