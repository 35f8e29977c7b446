// See gguf_reader.h. Every count is compared with the bytes that remain before anything is sized by it, and
// every sum and product is checked.
#include "common/model/gguf_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr uint64_t kWindowBytes = 1 << 18;  // read at once
constexpr uint64_t kMinStringBytes = 8;     // an empty string is its length
constexpr uint64_t kMinPairBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
constexpr size_t kMaxKeyBytes = 65535;  // by the specification
constexpr int kMaxDims = 4;
constexpr uint32_t kMinAlignment = 8;
constexpr uint32_t kMaxAlignment = 1 << 20;

// Reads forward through the header, which ends at the latest where the file or the allowance for headers
// does.
class Cursor {
 public:
  Cursor(uint64_t file_bytes, GgufReadAt read)
      : file_bytes_(file_bytes), end_(std::min(file_bytes, kGgufMaxHeaderBytes)), read_(read) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return end_ - position_; }

  // DataLoss unless `count` items of at least `item_bytes` each can follow.
  absl::Status Require(uint64_t count, uint64_t item_bytes, std::string_view what) const {
    if (count <= remaining() / item_bytes) return absl::OkStatus();
    return absl::DataLossError(
        StrCat("offset ", position_, ": ", what, ": ", count, item_bytes == 1 ? " bytes" : " items",
               " of which ", remaining() / item_bytes, " fit into the ", remaining(), " bytes left of the ",
               end_ < file_bytes_ ? "largest header allowed" : "file"));
  }

  absl::Status Bytes(char* out, uint64_t bytes, std::string_view what) {
    MOEPOOL_RETURN_IF_ERROR(Require(bytes, 1, what));
    while (bytes > 0) {
      if (position_ == window_begin_ + window_.size()) MOEPOOL_RETURN_IF_ERROR(Refill());
      const uint64_t at = position_ - window_begin_;
      const uint64_t n = std::min(bytes, window_.size() - at);
      std::memcpy(out, window_.data() + at, n);
      out += n;
      bytes -= n;
      position_ += n;
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Scalar(std::string_view what) {
    char raw[sizeof(T)];
    MOEPOOL_RETURN_IF_ERROR(Bytes(raw, sizeof(T), what));
    T value;
    std::memcpy(&value, raw, sizeof(T));
    return value;
  }

  absl::StatusOr<std::string> String(std::string_view what) {
    MOEPOOL_ASSIGN_OR_RETURN(const uint64_t bytes, Scalar<uint64_t>(what));
    MOEPOOL_RETURN_IF_ERROR(Require(bytes, 1, what));
    std::string value(bytes, '\0');
    MOEPOOL_RETURN_IF_ERROR(Bytes(value.data(), bytes, what));
    return value;
  }

 private:
  absl::Status Refill() {
    window_begin_ = position_;
    window_.resize(std::min(kWindowBytes, end_ - position_));
    return read_(window_begin_, window_.size(), window_.data());
  }

  const uint64_t file_bytes_;
  const uint64_t end_;
  GgufReadAt read_;
  uint64_t position_ = 0;
  uint64_t window_begin_ = 0;
  std::string window_;
};

absl::StatusOr<GgufType> ReadType(Cursor& in, std::string_view what) {
  MOEPOOL_ASSIGN_OR_RETURN(const uint32_t type, in.Scalar<uint32_t>(what));
  if (type >= kGgufTypeCount) {
    return absl::DataLossError(StrCat(what, ": value type ", type, ", more than ", kGgufTypeCount - 1));
  }
  return static_cast<GgufType>(type);
}

absl::StatusOr<GgufArray> ReadArray(Cursor& in, std::string_view what) {
  GgufArray array;
  MOEPOOL_ASSIGN_OR_RETURN(array.element, ReadType(in, what));
  if (array.element == GgufType::kArray) {
    return absl::UnimplementedError(StrCat(what, ": arrays of arrays are not read"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(array.count, in.Scalar<uint64_t>(what));
  if (array.element != GgufType::kString) {
    const uint64_t element_bytes = ScalarBytes(array.element);
    MOEPOOL_RETURN_IF_ERROR(in.Require(array.count, element_bytes, what));
    array.raw.resize(array.count * element_bytes);
    MOEPOOL_RETURN_IF_ERROR(in.Bytes(array.raw.data(), array.raw.size(), what));
    return array;
  }
  MOEPOOL_RETURN_IF_ERROR(in.Require(array.count, kMinStringBytes, what));
  array.strings.reserve(array.count);
  for (uint64_t i = 0; i < array.count; ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(std::string s, in.String(what));
    array.strings.push_back(std::move(s));
  }
  return array;
}

template <typename Stored, typename InFile>
absl::Status ReadInto(Cursor& in, std::string_view what, GgufValue* value) {
  MOEPOOL_ASSIGN_OR_RETURN(const InFile scalar, in.Scalar<InFile>(what));
  value->value = static_cast<Stored>(scalar);
  return absl::OkStatus();
}

absl::Status ReadValue(Cursor& in, std::string_view what, GgufValue* value) {
  MOEPOOL_ASSIGN_OR_RETURN(value->type, ReadType(in, what));
  switch (value->type) {
    case GgufType::kU8:
      return ReadInto<uint64_t, uint8_t>(in, what, value);
    case GgufType::kU16:
      return ReadInto<uint64_t, uint16_t>(in, what, value);
    case GgufType::kU32:
      return ReadInto<uint64_t, uint32_t>(in, what, value);
    case GgufType::kU64:
      return ReadInto<uint64_t, uint64_t>(in, what, value);
    case GgufType::kI8:
      return ReadInto<int64_t, int8_t>(in, what, value);
    case GgufType::kI16:
      return ReadInto<int64_t, int16_t>(in, what, value);
    case GgufType::kI32:
      return ReadInto<int64_t, int32_t>(in, what, value);
    case GgufType::kI64:
      return ReadInto<int64_t, int64_t>(in, what, value);
    case GgufType::kF32:
      return ReadInto<double, float>(in, what, value);
    case GgufType::kF64:
      return ReadInto<double, double>(in, what, value);
    case GgufType::kBool: {
      MOEPOOL_ASSIGN_OR_RETURN(const uint8_t flag, in.Scalar<uint8_t>(what));
      if (flag > 1)
        return absl::DataLossError(StrCat(what, ": a bool of ", static_cast<int>(flag), ", neither 0 nor 1"));
      value->value = flag == 1;
      return absl::OkStatus();
    }
    case GgufType::kString: {
      MOEPOOL_ASSIGN_OR_RETURN(value->value, in.String(what));
      return absl::OkStatus();
    }
    case GgufType::kArray: {
      MOEPOOL_ASSIGN_OR_RETURN(value->value, ReadArray(in, what));
      return absl::OkStatus();
    }
  }
  return absl::DataLossError(StrCat(what, ": unknown value type"));
}

absl::Status ReadPair(Cursor& in, GgufMetadata* metadata) {
  MOEPOOL_ASSIGN_OR_RETURN(std::string key, in.String("metadata key"));
  if (key.empty() || key.size() > kMaxKeyBytes) {
    return absl::DataLossError(
        StrCat("metadata key of ", key.size(), " bytes, not within 1 to ", kMaxKeyBytes));
  }
  const std::string what = StrCat("key ", Quoted(key));
  GgufValue value;
  MOEPOOL_RETURN_IF_ERROR(ReadValue(in, what, &value));
  if (!metadata->Insert(std::move(key), std::move(value)))
    return absl::DataLossError(StrCat(what, " occurs twice"));
  return absl::OkStatus();
}

// Fills bytes from dims and dtype.
absl::Status SizeTensor(TensorInfo* info) {
  const DTypeInfo& dtype = Info(info->dtype);
  if (info->dims[0] % dtype.block_cols != 0) {
    return absl::DataLossError(StrCat("tensor ", Quoted(info->name), ": rows of ", info->dims[0],
                                      " columns are not whole blocks of ", dtype.block_cols, " (", dtype.name,
                                      ")"));
  }
  uint64_t bytes = static_cast<uint64_t>(info->dims[0] / dtype.block_cols);
  bool overflow = __builtin_mul_overflow(bytes, static_cast<uint64_t>(dtype.block_bytes), &bytes);
  int64_t elements = info->dims[0];
  for (int i = 1; i < kMaxDims; ++i) {
    overflow |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(info->dims[i]), &bytes);
    overflow |= __builtin_mul_overflow(elements, info->dims[i], &elements);
  }
  if (overflow) {
    return absl::DataLossError(StrCat("tensor ", Quoted(info->name), ": ", info->dims[0], " x ",
                                      info->dims[1], " x ", info->dims[2], " x ", info->dims[3],
                                      " elements exceed 2^63"));
  }
  info->bytes = bytes;
  return absl::OkStatus();
}

// Leaves in `offset` the distance from the start of the tensor data, as the file has it.
absl::Status ReadTensor(Cursor& in, GgufTensor* tensor) {
  TensorInfo& info = tensor->info;
  MOEPOOL_ASSIGN_OR_RETURN(info.name, in.String("tensor name"));
  if (info.name.empty() || info.name.size() > kGgufMaxNameBytes) {
    return absl::DataLossError(StrCat("tensor ", Quoted(info.name), ": a name of ", info.name.size(),
                                      " bytes, not within 1 to ", kGgufMaxNameBytes));
  }
  const std::string what = StrCat("tensor ", Quoted(info.name));
  MOEPOOL_ASSIGN_OR_RETURN(const uint32_t n_dims, in.Scalar<uint32_t>(what));
  if (n_dims < 1 || n_dims > kMaxDims) {
    return absl::DataLossError(StrCat(what, ": ", n_dims, " dimensions, not within 1 to ", kMaxDims));
  }
  info.n_dims = static_cast<int>(n_dims);
  for (int i = 0; i < info.n_dims; ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(info.dims[i], in.Scalar<int64_t>(what));
    if (info.dims[i] < 1) {
      return absl::DataLossError(StrCat(what, ": dimension ", i, " is ", static_cast<uint64_t>(info.dims[i]),
                                        ", not within 1 to ", std::numeric_limits<int64_t>::max()));
    }
  }
  MOEPOOL_ASSIGN_OR_RETURN(const uint32_t type, in.Scalar<uint32_t>(what));
  absl::StatusOr<DType> dtype = DTypeFromGgml(type);
  if (!dtype.ok()) return absl::UnimplementedError(StrCat(what, ": ", ToStd(dtype.status().message())));
  info.dtype = *dtype;
  MOEPOOL_RETURN_IF_ERROR(SizeTensor(&info));
  MOEPOOL_ASSIGN_OR_RETURN(tensor->offset, in.Scalar<uint64_t>(what));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> ReadVersion(Cursor& in) {
  char magic[4];
  MOEPOOL_RETURN_IF_ERROR(in.Bytes(magic, 4, "magic"));
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    return absl::DataLossError(StrCat("the file begins with ", Quoted({magic, 4}), ", expected 'GGUF'"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const uint32_t version, in.Scalar<uint32_t>("version"));
  if (version != 0 && (version & 0xffff) == 0) {
    return absl::UnimplementedError(StrCat("GGUF version ", __builtin_bswap32(version),
                                           " in big-endian order; only little-endian is read"));
  }
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(StrCat("GGUF version ", version, "; only 2 and 3 are read"));
  }
  return version;
}

absl::Status ReadAlignment(GgufFile* file) {
  const GgufValue* value = file->metadata.Find("general.alignment");
  if (value == nullptr) return absl::OkStatus();
  if (value->type != GgufType::kU32) {
    return absl::DataLossError(
        StrCat("key 'general.alignment' is of type ", Name(value->type), ", expected u32"));
  }
  const uint64_t alignment = std::get<uint64_t>(value->value);
  if (!std::has_single_bit(alignment) || alignment < kMinAlignment || alignment > kMaxAlignment) {
    return absl::DataLossError(StrCat("key 'general.alignment' is ", alignment,
                                      ", not a power of two within ", kMinAlignment, " to ", kMaxAlignment));
  }
  file->alignment = static_cast<uint32_t>(alignment);
  return absl::OkStatus();
}

// Turns offsets into those of the file and proves the extents: aligned, inside, disjoint.
absl::Status PlaceTensors(uint64_t header_bytes, uint64_t file_bytes, GgufFile* file) {
  const uint64_t mask = file->alignment - 1;
  const uint64_t data_begin = (header_bytes + mask) & ~mask;  // header_bytes <= kGgufMaxHeaderBytes
  for (GgufTensor& tensor : file->tensors) {
    const std::string what = StrCat("tensor ", Quoted(tensor.info.name));
    if ((tensor.offset & mask) != 0) {
      return absl::DataLossError(
          StrCat(what, ": offset ", tensor.offset, " is not a multiple of the alignment ", file->alignment));
    }
    uint64_t begin = 0;
    uint64_t end = 0;
    if (__builtin_add_overflow(data_begin, tensor.offset, &begin) ||
        __builtin_add_overflow(begin, tensor.info.bytes, &end) || end > file_bytes) {
      return absl::DataLossError(StrCat(what, ": ", tensor.info.bytes, " bytes at offset ", tensor.offset,
                                        " of the tensor data, which begins at ", data_begin,
                                        ", reach beyond the file of ", file_bytes, " bytes"));
    }
    tensor.offset = begin;
  }
  std::vector<const GgufTensor*> by_offset;
  for (const GgufTensor& tensor : file->tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const GgufTensor& before = *by_offset[i - 1];
    if (before.offset + before.info.bytes > by_offset[i]->offset) {
      return absl::DataLossError(StrCat("tensor ", Quoted(before.info.name), ": bytes ", before.offset,
                                        " to ", before.offset + before.info.bytes, " overlap tensor ",
                                        Quoted(by_offset[i]->info.name), ", which begins at ",
                                        by_offset[i]->offset));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufFile> ReadGguf(uint64_t file_bytes, GgufReadAt read) {
  GgufFile file;
  Cursor in(file_bytes, read);
  MOEPOOL_ASSIGN_OR_RETURN(file.version, ReadVersion(in));
  MOEPOOL_ASSIGN_OR_RETURN(const uint64_t tensors, in.Scalar<uint64_t>("tensor count"));
  MOEPOOL_ASSIGN_OR_RETURN(const uint64_t pairs, in.Scalar<uint64_t>("metadata count"));
  MOEPOOL_RETURN_IF_ERROR(in.Require(pairs, kMinPairBytes, "metadata count"));
  for (uint64_t i = 0; i < pairs; ++i) MOEPOOL_RETURN_IF_ERROR(ReadPair(in, &file.metadata));
  MOEPOOL_RETURN_IF_ERROR(ReadAlignment(&file));
  MOEPOOL_RETURN_IF_ERROR(in.Require(tensors, kMinTensorBytes, "tensor count"));
  file.tensors.resize(tensors);
  std::set<std::string_view> names;
  for (GgufTensor& tensor : file.tensors) {
    MOEPOOL_RETURN_IF_ERROR(ReadTensor(in, &tensor));
    if (!names.insert(tensor.info.name).second) {
      return absl::DataLossError(StrCat("tensor ", Quoted(tensor.info.name), " occurs twice"));
    }
  }
  MOEPOOL_RETURN_IF_ERROR(PlaceTensors(in.position(), file_bytes, &file));
  return file;
}

}  // namespace moepool
