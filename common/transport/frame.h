// The exchange's wire format: one dispatch to one worker, and its answer in frames of whole parts. A fixed
// header of little-endian numbers, then packed arrays, each aligned to 8 bytes; no addresses, no names. What
// is large, a dispatch's rows and a reply's sums, comes last, so that it may lie elsewhere than its head.
// Everything that arrives is checked against the model's own shapes before any of it is used; of rows in
// device memory the size alone, for whatever they are the kernels stay within them, and a part that is not
// finite is said to be so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/model/canonical_sum.h"
#include "common/transport/expert_transport.h"

namespace moepool {

inline constexpr uint32_t kFrameMagic = 0x3158504D;  // "MPX1"
inline constexpr uint16_t kFrameVersion = 3;         // raise kPoolProtocolVersion with it
inline constexpr size_t kMaxReplyFrameBytes = 256 * 1024;
// Of sums that lie in device memory, of which nothing is gained by taking turns in a ring.
inline constexpr size_t kMaxDeviceReplyBytes = 4u << 20;
inline constexpr size_t kMaxDispatchFrameBytes = 256u << 20;

enum class FrameKind : uint16_t { kDispatch = 1, kReply = 2, kRefusal = 3 };
enum class WireDType : uint8_t { kF32 = 0, kInt8Block32 = 1 };

// FrameHeader::flags: this host's processes get in one another's way by staying awake while they wait, and
// the receiver is to sleep instead (common/base/awake_wait.h) until some time after the last such dispatch.
inline constexpr uint32_t kSleepAtOnce = 1;

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint16_t version = kFrameVersion;
  FrameKind kind = FrameKind::kDispatch;
  uint64_t length = 0;  // bytes of the whole frame
  uint64_t router_id = 0;
  uint64_t incarnation = 0;   // of the router process
  uint64_t dispatch_id = 0;   // never used twice by an incarnation
  uint64_t model_digest = 0;  // first 8 bytes of the digest
  uint64_t epoch = 0;         // of the placement
  uint32_t flags = 0;         // dispatch: kSleepAtOnce or 0.  others: 0
  uint16_t adapter_id = 0;    // reserved: 0
  uint8_t host_workers = 0;   // dispatch: all of this host, computing even shares of this layer; 0: not so
  uint8_t host_slot = 0;      // dispatch: which of them the receiver is, in every layer the same
  uint32_t layer = 0;
  uint32_t micro_batch = 0;
  uint32_t rows = 0;        // dispatch: rows of activations.  reply: 0
  uint32_t parts = 0;       // dispatch: parts wanted.  reply: parts in this frame
  uint32_t entries = 0;     // dispatch: (expert, weight) pairs of all parts
  uint32_t first_part = 0;  // reply: number of the first part in this frame
  uint32_t hidden = 0;
  // dispatch: time until its deadline when sent; 0: none.  reply: time it took to compute
  uint32_t budget_us = 0;
  WireDType in = WireDType::kF32;
  WireDType out = WireDType::kF32;
  uint16_t code = 0;        // refusal: absl::StatusCode
  uint32_t text_bytes = 0;  // refusal: length of its message, at most 512
};
static_assert(sizeof(FrameHeader) == 104);

// What a frame is checked against.
struct FrameLimits {
  int hidden = 0;
  int layers = 0;
  int experts = 0;
  uint64_t model_digest = 0;
};

// A wanted part on the wire: its node, and where its entries begin (they end where the next part's begin).
struct WirePart {
  uint32_t row;
  uint16_t level;
  uint16_t index;
  uint32_t begin;
};
static_assert(sizeof(WirePart) == 12);

// A validated view of a dispatch; spans and pointers lie in the frame's bytes, which must be aligned to 8.
struct DispatchView {
  FrameHeader header;
  bool on_device = false;  // x is
  Activations x;
  std::span<const WirePart> parts;
  std::span<const ExpertEntry> entries;
};

struct ReplyView {
  FrameHeader header;
  bool on_device = false;           // data is
  std::span<const uint8_t> faults;  // [parts] 1 where the part is not finite
  std::span<const float> data;      // [parts, hidden]
};

// What a router wants of one worker for one layer. x points at rows of the step; `rows` picks those to send.
// The head needs no more of x than its columns.
struct DispatchRequest {
  FrameHeader header;  // ids, epoch, layer, micro_batch, budget_us, in; the rest is filled by the encoder
  Activations x;
  std::span<const int32_t> rows;
  std::span<const WirePart> parts;  // row counts in `rows`
  std::span<const ExpertEntry> entries;
};

// Of a dispatch's rows: codes int8 [rows, hidden] and then scales f32 [rows, hidden / 32], or f32 [rows,
// hidden].
size_t WireRowBytes(WireDType in, size_t rows, size_t hidden);

// Of a dispatch's head.
size_t DispatchHeadBytes(size_t parts, size_t entries);

// Replaces the contents of `frame`.
void EncodeDispatch(const DispatchRequest& request, std::vector<uint8_t>* frame);
// The same up to where the rows begin, which are to follow.
void EncodeDispatchHead(const DispatchRequest& request, std::vector<uint8_t>* head);
// `dispatch` is the header that is answered, but for budget_us, which is the reply's.
void EncodeReply(const FrameHeader& dispatch, uint32_t first_part, std::span<const float> data,
                 std::span<const uint8_t> faults, std::vector<uint8_t>* frame);
// The same up to where `data` begins, which is to follow: faults.size() * hidden floats.
void EncodeReplyHead(const FrameHeader& dispatch, uint32_t first_part, std::span<const uint8_t> faults,
                     std::vector<uint8_t>* head);
void EncodeRefusal(const FrameHeader& dispatch, const absl::Status& status, std::vector<uint8_t>* frame);

// The header alone, with magic, version, kind and length checked: length is that of `frame` and of what lies
// `elsewhere` in bytes.
absl::StatusOr<FrameHeader> DecodeHeader(std::span<const uint8_t> frame, size_t elsewhere = 0);
// InvalidArgument names the field and both values.
absl::StatusOr<DispatchView> DecodeDispatch(const FrameBytes& frame, const FrameLimits& limits);
absl::StatusOr<DispatchView> DecodeDispatch(std::span<const uint8_t> frame, const FrameLimits& limits);
absl::StatusOr<ReplyView> DecodeReply(const FrameBytes& frame, const FrameLimits& limits);
absl::StatusOr<ReplyView> DecodeReply(std::span<const uint8_t> frame, const FrameLimits& limits);
// The status that a refusal carries (never OK).
absl::Status DecodeRefusal(std::span<const uint8_t> frame);

}  // namespace moepool
