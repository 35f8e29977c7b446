// A small model of random weights on the scalar CPU backend, and dispatches for it.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "common/backend/backend.h"
#include "common/model/synthetic.h"
#include "common/transport/frame.h"
#include "gtest/gtest.h"

namespace moepool {

struct WorkerFixture {
  explicit WorkerFixture(int experts = 8, DType dtype = DType::kQ8_0) {
    SynthSpec spec;
    spec.experts = experts;
    spec.experts_per_token = experts == 0 ? 0 : 2;
    spec.dtype = dtype;
    source = *MakeSyntheticSource(spec);
    BackendOptions options;
    options.backend = "cpu";
    options.isa = "scalar";
    options.threads = 1;
    backend = *MakeBackend(options);
    const ModelDigest digest = *source->Digest();
    limits = {source->Config().hidden, source->Config().layers, source->Config().experts, 0};
    std::memcpy(&limits.model_digest, digest.data(), sizeof(limits.model_digest));
  }

  std::unique_ptr<ModelSource> source;
  std::unique_ptr<Backend> backend;
  FrameLimits limits;
};

// Rows of int8 blocks and parts of one expert each: row r asks for experts[r % size] alone.
struct TestDispatch {
  TestDispatch(const FrameLimits& limits, int rows, const std::vector<int>& experts, int layer = 0) {
    q.resize(static_cast<size_t>(rows) * limits.hidden);
    scale.resize(q.size() / 32);
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int8_t>(static_cast<int>(i * 37 % 255) - 127);
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = 0.001f * static_cast<float>(1 + i % 7);
    request.header.dispatch_id = 7;
    request.header.model_digest = limits.model_digest;
    request.header.layer = static_cast<uint32_t>(layer);
    request.header.in = WireDType::kInt8Block32;
    request.x.rows = rows;
    request.x.cols = limits.hidden;
    request.x.q = q.data();
    request.x.scale = scale.data();
    for (int r = 0; r < rows; ++r) {
      const int expert = experts[static_cast<size_t>(r) % experts.size()];
      this->rows.push_back(r);
      parts.push_back({static_cast<uint32_t>(r), 0, static_cast<uint16_t>(expert), static_cast<uint32_t>(r)});
      entries.push_back({expert, 0.25f + 0.5f * static_cast<float>(r % 3)});
    }
  }
  std::vector<uint8_t> Encode() {
    request.rows = rows;
    request.parts = parts;
    request.entries = entries;
    std::vector<uint8_t> frame;
    EncodeDispatch(request, &frame);
    return frame;
  }

  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> rows;
  std::vector<WirePart> parts;
  std::vector<ExpertEntry> entries;
  DispatchRequest request;
};

}  // namespace moepool
