// See attention_attend.cuh.
#include "common/kernels/cuda/attention_attend.cuh"
#include "common/kernels/cuda/attention_launches.cuh"

namespace moepool::SIMT_TARGET {
namespace {

template <typename S>
void StartAttend(const AttendArgs& args, void* stream) {
  simt::Start(AttendKernel<S>,
              {.grid_x = static_cast<uint32_t>(args.unit_count),
               .grid_y = static_cast<uint32_t>(args.kv_heads),
               .threads = S::threads},
              stream, args);
}

template <KvType type>
void AttendTo(const AttendArgs& args, void* stream) {
  if (args.queries > kNarrowQueries) return StartAttend<WideShape<type>>(args, stream);
  if constexpr (type != KvType::kQ8_0) {
    if (args.head_dim % 8 != 0) return StartAttend<NarrowShape<type, 2, kNarrowQueries>>(args, stream);
  }
  if (args.queries > 4) return StartAttend<NarrowShape<type, 4, kNarrowQueries>>(args, stream);
  if (args.queries > 1) return StartAttend<NarrowShape<type, 4, 4>>(args, stream);
  StartAttend<NarrowShape<type, 4, 1>>(args, stream);
}

}  // namespace

void Attend(const AttendArgs& args, void* stream) {
  if (args.unit_count == 0) return;
  switch (args.kv.type) {
    case KvType::kF16:
      return AttendTo<KvType::kF16>(args, stream);
    case KvType::kBF16:
      return AttendTo<KvType::kBF16>(args, stream);
    case KvType::kF32:
      return AttendTo<KvType::kF32>(args, stream);
    case KvType::kQ8_0:
      return AttendTo<KvType::kQ8_0>(args, stream);
  }
}

}  // namespace moepool::SIMT_TARGET
