// See gguf_writer.h.
#include "common/model/gguf_writer.h"

#include <bit>

#include "common/model/gguf_reader.h"

namespace moepool {
namespace {

static_assert(std::endian::native == std::endian::little, "scalars are written as they lie in memory");

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(std::string* out, std::string_view value) {
  Put<uint64_t>(out, value.size());
  out->append(value);
}

}  // namespace

uint64_t GgufPadded(uint64_t bytes) {
  return (bytes + kGgufDefaultAlignment - 1) / kGgufDefaultAlignment * kGgufDefaultAlignment;
}

void GgufHeader::AddKey(std::string_view key, GgufType type) {
  PutString(&pairs_, key);
  Put(&pairs_, static_cast<uint32_t>(type));
  ++pair_count_;
}

void GgufHeader::AddU32(std::string_view key, uint32_t value) {
  AddKey(key, GgufType::kU32);
  Put(&pairs_, value);
}

void GgufHeader::AddF32(std::string_view key, float value) {
  AddKey(key, GgufType::kF32);
  Put(&pairs_, value);
}

void GgufHeader::AddBool(std::string_view key, bool value) {
  AddKey(key, GgufType::kBool);
  Put<uint8_t>(&pairs_, value ? 1 : 0);
}

void GgufHeader::AddString(std::string_view key, std::string_view value) {
  AddKey(key, GgufType::kString);
  PutString(&pairs_, value);
}

void GgufHeader::AddStrings(std::string_view key, std::span<const std::string> values) {
  AddKey(key, GgufType::kArray);
  Put(&pairs_, static_cast<uint32_t>(GgufType::kString));
  Put<uint64_t>(&pairs_, values.size());
  for (const std::string& value : values) PutString(&pairs_, value);
}

void GgufHeader::AddI32s(std::string_view key, std::span<const int32_t> values) {
  AddKey(key, GgufType::kArray);
  Put(&pairs_, static_cast<uint32_t>(GgufType::kI32));
  Put<uint64_t>(&pairs_, values.size());
  for (const int32_t value : values) Put(&pairs_, value);
}

void GgufHeader::AddTensor(const TensorInfo& info) {
  PutString(&tensors_, info.name);
  Put(&tensors_, static_cast<uint32_t>(info.n_dims));
  for (int i = 0; i < info.n_dims; ++i) Put(&tensors_, info.dims[i]);
  Put(&tensors_, Info(info.dtype).ggml_type);
  Put(&tensors_, data_bytes_);
  offsets_.push_back(data_bytes_);
  data_bytes_ += GgufPadded(info.bytes);
}

std::string GgufHeader::Serialize() const {
  std::string out = "GGUF";
  Put(&out, kGgufVersion);
  Put<uint64_t>(&out, offsets_.size());
  Put(&out, pair_count_);
  out += pairs_;
  out += tensors_;
  out.resize(GgufPadded(out.size()), '\0');
  return out;
}

}  // namespace moepool
