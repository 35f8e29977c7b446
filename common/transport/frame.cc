// See frame.h.
#include "common/transport/frame.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr size_t kMaxRefusalText = 512;
constexpr uint32_t kMaxRows = 1u << 16;

constexpr uint64_t Align8(uint64_t bytes) { return (bytes + 7) & ~uint64_t{7}; }

// Byte offsets of a dispatch's arrays. Counts are bounded by the caller, so that nothing overflows.
struct DispatchLayout {
  uint64_t parts = sizeof(FrameHeader);
  uint64_t entries = 0;
  uint64_t x = 0;      // where the head ends and the rows begin
  uint64_t scale = 0;  // kInt8Block32; whole blocks of codes leave it aligned to 32 from x
  uint64_t end = 0;

  explicit DispatchLayout(const FrameHeader& h) {
    const uint64_t elements = uint64_t{h.rows} * h.hidden;
    entries = parts + Align8(uint64_t{h.parts} * sizeof(WirePart));
    x = DispatchHeadBytes(h.parts, h.entries);
    scale = x + elements;
    end = x + WireRowBytes(h.in, h.rows, h.hidden);
  }
};

struct ReplyLayout {
  uint64_t faults = sizeof(FrameHeader);
  uint64_t data = 0;
  uint64_t end = 0;

  explicit ReplyLayout(const FrameHeader& h) {
    data = faults + Align8(h.parts);
    end = data + uint64_t{h.parts} * h.hidden * sizeof(float);
  }
};

absl::Status Bad(std::string_view field, uint64_t got, std::string_view relation, uint64_t want) {
  return absl::InvalidArgumentError(StrCat("frame: ", field, " is ", got, ", ", relation, " ", want));
}

absl::Status CheckHeader(const FrameHeader& h, const FrameLimits& limits, FrameKind kind) {
  if (h.kind != kind) {
    return Bad("kind", static_cast<uint64_t>(h.kind), "expected", static_cast<uint64_t>(kind));
  }
  const uint32_t flags = kind == FrameKind::kDispatch ? kSleepAtOnce : 0;
  if ((h.flags & ~flags) != 0) return Bad("flags", h.flags, "known are", flags);
  if (h.adapter_id != 0) return Bad("adapter id", h.adapter_id, "expected", 0);
  if (h.model_digest != limits.model_digest) {
    return absl::FailedPreconditionError(StrCat("frame: model digest is ", absl::Hex(h.model_digest),
                                                ", this process serves ", absl::Hex(limits.model_digest)));
  }
  if (h.hidden != static_cast<uint32_t>(limits.hidden))
    return Bad("hidden", h.hidden, "expected", limits.hidden);
  if (h.layer >= static_cast<uint32_t>(limits.layers))
    return Bad("layer", h.layer, "the model has", limits.layers);
  if (h.code != 0) return Bad("code", h.code, "expected", 0);
  if (h.text_bytes != 0) return Bad("text bytes", h.text_bytes, "expected", 0);
  return absl::OkStatus();
}

absl::Status CheckParts(const DispatchView& view, const FrameLimits& limits) {
  const uint32_t levels = TreeLevels(limits.experts);
  const size_t entries = view.entries.size();
  for (size_t p = 0; p < view.parts.size(); ++p) {
    const WirePart& part = view.parts[p];
    const size_t end = p + 1 < view.parts.size() ? view.parts[p + 1].begin : entries;
    if (part.row >= view.header.rows) return Bad("row of a part", part.row, "rows are", view.header.rows);
    if (part.level > levels) return Bad("level of a part", part.level, "the tree has", levels);
    if (p == 0 && part.begin != 0) return Bad("begin of the first part", part.begin, "expected", 0);
    if (end > entries) return Bad("end of a part", end, "entries are", entries);
    if (part.begin >= end) return Bad("begin of a part", part.begin, "its end is", end);
    for (size_t i = part.begin; i < end; ++i) {
      const ExpertEntry& entry = view.entries[i];
      if (entry.expert < 0 || entry.expert >= limits.experts) {
        return absl::InvalidArgumentError(
            StrCat("frame: expert is ", entry.expert, ", the model has ", limits.experts));
      }
      const uint32_t node = static_cast<uint32_t>(entry.expert) >> part.level;
      if (node != part.index) return Bad("node of an expert", node, "its part is", part.index);
      if (i > part.begin && entry.expert <= view.entries[i - 1].expert) {
        return Bad("expert", entry.expert, "must be above", view.entries[i - 1].expert);
      }
      if (!std::isfinite(entry.weight)) {
        return absl::InvalidArgumentError(
            StrCat("frame: weight of expert ", entry.expert, " is ", entry.weight));
      }
    }
  }
  return absl::OkStatus();
}

// Scales are finite and not negative, codes -127 to 127. A loop over one block of codes has a fixed length
// and no branch, so that it compiles to a few vector instructions.
absl::Status CheckBlocks(const Activations& x) {
  constexpr size_t kBlock = 32;  // divides the columns
  const size_t codes = static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols);
  for (const float scale : std::span(x.scale, codes / kBlock)) {
    if (!(scale >= 0) || !std::isfinite(scale)) {
      return absl::InvalidArgumentError(StrCat("frame: scale is ", scale, ", must be finite and at least 0"));
    }
  }
  for (size_t begin = 0; begin < codes; begin += kBlock) {
    const int8_t* const block = x.q + begin;
    uint8_t found = 0;
    for (size_t i = 0; i < kBlock; ++i) found |= static_cast<uint8_t>(block[i] == -128);
    if (found == 0) continue;
    const size_t at = static_cast<size_t>(std::find(block, block + kBlock, -128) - x.q);
    return absl::InvalidArgumentError(StrCat("frame: code of row ", at / static_cast<size_t>(x.cols),
                                             ", column ", at % static_cast<size_t>(x.cols),
                                             " is -128, must be at least -127"));
  }
  return absl::OkStatus();
}

template <typename T>
std::span<const T> SpanAt(std::span<const uint8_t> frame, uint64_t offset, size_t count) {
  return {reinterpret_cast<const T*>(frame.data() + offset), count};
}

// Sizes the frame, which has `length` bytes, of which `frame` will hold the first `here`, and writes the
// header.
void Begin(FrameHeader header, uint64_t length, uint64_t here, std::vector<uint8_t>* frame) {
  header.magic = kFrameMagic;
  header.version = kFrameVersion;
  header.length = length;
  frame->resize(here);
  std::memcpy(frame->data(), &header, sizeof(header));
}

void Put(std::vector<uint8_t>* frame, uint64_t offset, const void* data, size_t bytes) {
  if (bytes != 0) std::memcpy(frame->data() + offset, data, bytes);
}

// Zeroes the bytes between an array's end and the next one's start.
void Pad(std::vector<uint8_t>* frame, uint64_t from, uint64_t to) {
  if (from < to) std::memset(frame->data() + from, 0, to - from);
}

}  // namespace

size_t WireRowBytes(WireDType in, size_t rows, size_t hidden) {
  const size_t elements = rows * hidden;
  return in == WireDType::kInt8Block32 ? elements + elements / 32 * sizeof(float) : elements * sizeof(float);
}

size_t DispatchHeadBytes(size_t parts, size_t entries) {
  return sizeof(FrameHeader) + Align8(parts * sizeof(WirePart)) + entries * sizeof(ExpertEntry);
}

void EncodeDispatchHead(const DispatchRequest& request, std::vector<uint8_t>* head) {
  FrameHeader h = request.header;
  h.kind = FrameKind::kDispatch;
  h.rows = static_cast<uint32_t>(request.rows.size());
  h.parts = static_cast<uint32_t>(request.parts.size());
  h.entries = static_cast<uint32_t>(request.entries.size());
  h.first_part = 0;
  h.hidden = static_cast<uint32_t>(request.x.cols);
  const DispatchLayout layout(h);
  Begin(h, layout.end, layout.x, head);
  Put(head, layout.parts, request.parts.data(), request.parts.size_bytes());
  Pad(head, layout.parts + request.parts.size_bytes(), layout.entries);
  Put(head, layout.entries, request.entries.data(), request.entries.size_bytes());
}

void EncodeDispatch(const DispatchRequest& request, std::vector<uint8_t>* frame) {
  EncodeDispatchHead(request, frame);
  const size_t hidden = static_cast<size_t>(request.x.cols);
  const size_t rows = request.rows.size();
  const size_t x = frame->size();
  frame->resize(x + WireRowBytes(request.header.in, rows, hidden));
  const size_t blocks = hidden / 32;
  const size_t scale = x + rows * hidden;
  for (size_t i = 0; i < rows; ++i) {
    const size_t row = static_cast<size_t>(request.rows[i]);
    if (request.header.in == WireDType::kInt8Block32) {
      Put(frame, x + i * hidden, request.x.q + row * hidden, hidden);
      Put(frame, scale + i * blocks * sizeof(float), request.x.scale + row * blocks, blocks * sizeof(float));
    } else {
      Put(frame, x + i * hidden * sizeof(float), request.x.f32 + row * hidden, hidden * sizeof(float));
    }
  }
}

void EncodeReplyHead(const FrameHeader& dispatch, uint32_t first_part, std::span<const uint8_t> faults,
                     std::vector<uint8_t>* head) {
  FrameHeader h = dispatch;
  h.kind = FrameKind::kReply;
  h.flags = 0;
  h.rows = 0;
  h.entries = 0;
  h.parts = static_cast<uint32_t>(faults.size());
  h.first_part = first_part;
  const ReplyLayout layout(h);
  Begin(h, layout.end, layout.data, head);
  Put(head, layout.faults, faults.data(), faults.size());
  Pad(head, layout.faults + faults.size(), layout.data);
}

void EncodeReply(const FrameHeader& dispatch, uint32_t first_part, std::span<const float> data,
                 std::span<const uint8_t> faults, std::vector<uint8_t>* frame) {
  EncodeReplyHead(dispatch, first_part, faults, frame);
  const size_t at = frame->size();
  frame->resize(at + data.size_bytes());
  Put(frame, at, data.data(), data.size_bytes());
}

void EncodeRefusal(const FrameHeader& dispatch, const absl::Status& status, std::vector<uint8_t>* frame) {
  const std::string_view text = ToStd(status.message()).substr(0, kMaxRefusalText);
  FrameHeader h = dispatch;
  h.kind = FrameKind::kRefusal;
  h.flags = 0;
  h.rows = h.parts = h.entries = h.first_part = 0;
  h.code = static_cast<uint16_t>(status.code());
  h.text_bytes = static_cast<uint32_t>(text.size());
  const uint64_t length = sizeof(FrameHeader) + text.size();
  Begin(h, length, length, frame);
  Put(frame, sizeof(FrameHeader), text.data(), text.size());
}

absl::StatusOr<FrameHeader> DecodeHeader(std::span<const uint8_t> frame, size_t elsewhere) {
  if (frame.size() < sizeof(FrameHeader)) {
    return Bad("length", frame.size(), "a header takes", sizeof(FrameHeader));
  }
  FrameHeader h;
  std::memcpy(&h, frame.data(), sizeof(h));
  if (h.magic != kFrameMagic) return Bad("magic", h.magic, "expected", kFrameMagic);
  if (h.version != kFrameVersion) return Bad("version", h.version, "expected", kFrameVersion);
  if (h.length != frame.size() + elsewhere) {
    return Bad("length", h.length, "received", frame.size() + elsewhere);
  }
  switch (h.kind) {
    case FrameKind::kDispatch:
    case FrameKind::kReply:
    case FrameKind::kRefusal:
      return h;
  }
  return Bad("kind", static_cast<uint64_t>(h.kind), "known kinds end at", 3);
}

absl::StatusOr<DispatchView> DecodeDispatch(const FrameBytes& bytes, const FrameLimits& limits) {
  const std::span<const uint8_t> frame = bytes.bytes;
  MOEPOOL_ASSIGN_OR_RETURN(const FrameHeader h, DecodeHeader(frame, bytes.device.size()));
  MOEPOOL_CHECK(reinterpret_cast<uintptr_t>(frame.data()) % 8 == 0);
  MOEPOOL_RETURN_IF_ERROR(CheckHeader(h, limits, FrameKind::kDispatch));
  if (h.in != WireDType::kF32 && h.in != WireDType::kInt8Block32) {
    return Bad("dtype of activations", static_cast<uint64_t>(h.in), "known types end at", 1);
  }
  if (h.out != WireDType::kF32) return Bad("dtype of parts", static_cast<uint64_t>(h.out), "expected", 0);
  if (h.in == WireDType::kInt8Block32 && h.hidden % 32 != 0)
    return Bad("hidden", h.hidden, "must be a multiple of", 32);
  if (h.rows == 0 || h.rows > kMaxRows) return Bad("rows", h.rows, "must be 1 to", kMaxRows);
  const uint64_t most = uint64_t{h.rows} * static_cast<uint64_t>(limits.experts);
  if (h.entries > most) return Bad("entries", h.entries, "rows and experts allow", most);
  if (h.parts > h.entries) return Bad("parts", h.parts, "entries are", h.entries);
  if (h.parts == 0) return Bad("parts", 0, "must be at least", 1);
  if (h.first_part != 0) return Bad("first part", h.first_part, "expected", 0);
  const DispatchLayout layout(h);
  DispatchView view;
  const size_t length = frame.size() + bytes.device.size();
  if (layout.end != length) return Bad("length", length, "its counts make", layout.end);
  view.on_device = !bytes.device.empty();
  if (view.on_device && layout.x != frame.size()) {
    return Bad("bytes before the rows", frame.size(), "its counts make", layout.x);
  }

  view.header = h;
  view.x.rows = static_cast<int>(h.rows);
  view.x.cols = static_cast<int>(h.hidden);
  // The views are read only; Activations has mutable pointers because producers fill it.
  auto* const x = const_cast<uint8_t*>(view.on_device ? bytes.device.data() : frame.data() + layout.x);
  if (h.in == WireDType::kInt8Block32) {
    view.x.q = reinterpret_cast<int8_t*>(x);
    view.x.scale = reinterpret_cast<float*>(x + (layout.scale - layout.x));
    if (!view.on_device) MOEPOOL_RETURN_IF_ERROR(CheckBlocks(view.x));
  } else {
    view.x.f32 = reinterpret_cast<float*>(x);
  }
  view.parts = SpanAt<WirePart>(frame, layout.parts, h.parts);
  view.entries = SpanAt<ExpertEntry>(frame, layout.entries, h.entries);
  MOEPOOL_RETURN_IF_ERROR(CheckParts(view, limits));
  return view;
}

absl::StatusOr<DispatchView> DecodeDispatch(std::span<const uint8_t> frame, const FrameLimits& limits) {
  return DecodeDispatch(FrameBytes{frame}, limits);
}

absl::StatusOr<ReplyView> DecodeReply(const FrameBytes& bytes, const FrameLimits& limits) {
  const std::span<const uint8_t> frame = bytes.bytes;
  const size_t length = frame.size() + bytes.device.size();
  MOEPOOL_ASSIGN_OR_RETURN(const FrameHeader h, DecodeHeader(frame, bytes.device.size()));
  MOEPOOL_CHECK(reinterpret_cast<uintptr_t>(frame.data()) % 8 == 0);
  MOEPOOL_RETURN_IF_ERROR(CheckHeader(h, limits, FrameKind::kReply));
  if (h.out != WireDType::kF32) return Bad("dtype of parts", static_cast<uint64_t>(h.out), "expected", 0);
  if (h.rows != 0) return Bad("rows", h.rows, "expected", 0);
  if (h.entries != 0) return Bad("entries", h.entries, "expected", 0);
  if (h.parts == 0) return Bad("parts", 0, "must be at least", 1);
  const uint64_t most = (length - sizeof(FrameHeader)) / (uint64_t{h.hidden} * sizeof(float) + 1);
  if (h.parts > most) return Bad("parts", h.parts, "the frame has room for", most);
  const ReplyLayout layout(h);  // cannot overflow: the parts fit the frame
  if (layout.end != length) return Bad("length", length, "its counts make", layout.end);
  ReplyView view;
  view.on_device = !bytes.device.empty();
  if (view.on_device && layout.data != frame.size()) {
    return Bad("bytes before the parts", frame.size(), "its counts make", layout.data);
  }
  view.header = h;
  view.faults = SpanAt<uint8_t>(frame, layout.faults, h.parts);
  const size_t floats = size_t{h.parts} * h.hidden;
  view.data =
      view.on_device ? SpanAt<float>(bytes.device, 0, floats) : SpanAt<float>(frame, layout.data, floats);
  return view;
}

absl::StatusOr<ReplyView> DecodeReply(std::span<const uint8_t> frame, const FrameLimits& limits) {
  return DecodeReply(FrameBytes{frame}, limits);
}

absl::Status DecodeRefusal(std::span<const uint8_t> frame) {
  MOEPOOL_ASSIGN_OR_RETURN(const FrameHeader h, DecodeHeader(frame));
  if (h.kind != FrameKind::kRefusal) return Bad("kind", static_cast<uint64_t>(h.kind), "expected", 3);
  if (h.text_bytes > kMaxRefusalText || sizeof(FrameHeader) + h.text_bytes != frame.size()) {
    return Bad("text bytes", h.text_bytes, "the frame holds", frame.size() - sizeof(FrameHeader));
  }
  const std::string_view text(reinterpret_cast<const char*>(frame.data()) + sizeof(FrameHeader),
                              h.text_bytes);
  const auto code = static_cast<absl::StatusCode>(h.code);
  if (code == absl::StatusCode::kOk) return absl::InternalError("frame: a refusal with code OK");
  return absl::Status(code, StrCat("worker refused: ", text));
}

}  // namespace moepool
