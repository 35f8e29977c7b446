// See rope_tables.h.
#include "router/rope_tables.h"

#include "common/base/math.h"

namespace moepool {

RopeTables::RopeTables(const RopeConfig& rope) {
  for (const RopeSet set : {RopeSet::kShort, RopeSet::kLong}) {
    const bool long_set = set == RopeSet::kLong && !rope.long_factors.empty();
    const std::vector<float>& factors = long_set ? rope.long_factors : rope.freq_factors;
    Set& out = sets_[static_cast<size_t>(set)];
    out.scale = long_set ? rope.long_mscale : rope.mscale;
    for (int i = 0; i < rope.dims / 2; ++i) {
      double frequency = Pow(rope.base, -2.0 * i / rope.dims) / rope.linear_factor;
      if (!factors.empty()) frequency /= static_cast<double>(factors[static_cast<size_t>(i)]);
      out.frequency.push_back(frequency);
    }
  }
}

void RopeTables::Fill(int32_t position, RopeSet set, float* cos, float* sin) const {
  const Set& from = sets_[static_cast<size_t>(set)];
  for (size_t i = 0; i < from.frequency.size(); ++i) {
    double sine = 0;
    double cosine = 0;
    SinCos(position * from.frequency[i], &sine, &cosine);
    cos[i] = static_cast<float>(cosine * from.scale);
    sin[i] = static_cast<float>(sine * from.scale);
  }
}

}  // namespace moepool
