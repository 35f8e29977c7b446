// The table of element types, and the names of the ggml types that moepool does not read (for messages).
#include "common/tensor/dtype.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr std::array<DTypeInfo, kDTypeCount> kTable = {{
    {"F32", 0, 1, 4, false},
    {"F16", 1, 1, 2, false},
    {"BF16", 30, 1, 2, false},
    {"Q4_0", 2, 32, 18, true},
    {"Q4_1", 3, 32, 20, true},
    {"Q5_0", 6, 32, 22, true},
    {"Q5_1", 7, 32, 24, true},
    {"Q8_0", 8, 32, 34, true},
    {"Q2_K", 10, 256, 84, true},
    {"Q3_K", 11, 256, 110, true},
    {"Q4_K", 12, 256, 144, true},
    {"Q5_K", 13, 256, 176, true},
    {"Q6_K", 14, 256, 210, true},
    {"IQ4_NL", 20, 32, 18, true},
    {"MXFP4", 39, 32, 17, true},
}};

struct GgmlName {
  uint32_t ggml_type;
  std::string_view name;
};

constexpr GgmlName kUnsupported[] = {
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},
    {27, "I64"},   {28, "F64"},   {29, "IQ1_M"},   {34, "TQ1_0"},  {35, "TQ2_0"},   {40, "NVFP4"},
};

}  // namespace

const DTypeInfo& Info(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

std::string DTypeNames() {
  std::string names;
  for (const DTypeInfo& info : kTable)
    names += std::string(names.empty() ? "" : ", ") + std::string(info.name);
  return names;
}

absl::StatusOr<DType> DTypeFromGgml(uint32_t ggml_type) {
  for (int i = 0; i < kDTypeCount; ++i) {
    if (kTable[i].ggml_type == ggml_type) return static_cast<DType>(i);
  }
  std::string_view name = "unknown";
  for (const GgmlName& entry : kUnsupported) {
    if (entry.ggml_type == ggml_type) name = entry.name;
  }
  return absl::InvalidArgumentError(
      StrCat("ggml type ", ggml_type, " (", name, ") is not one of ", DTypeNames()));
}

absl::StatusOr<DType> DTypeFromName(std::string_view name) {
  for (int i = 0; i < kDTypeCount; ++i) {
    if (absl::EqualsIgnoreCase(ToAbsl(kTable[i].name), ToAbsl(name))) return static_cast<DType>(i);
  }
  return absl::InvalidArgumentError(StrCat("type '", name, "' is not one of ", DTypeNames()));
}

}  // namespace moepool
