// A private directory for kept weights, and chunks with known bytes.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/weights/weight_cache.h"
#include "common/weights/weight_chunk.h"

namespace moepool {

class TempWeights {
 public:
  TempWeights() : path_(::testing::TempDir() + "moepool-weights-XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
  }
  ~TempWeights() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  WeightCacheOptions Options() const {
    WeightCacheOptions options;
    options.directory = path_ + "/weights";
    options.free_fraction = 0;
    return options;
  }
  // Paths of the files whose names end so, in order.
  std::vector<std::string> Files(const std::string& suffix = ".weights") const {
    std::vector<std::string> files;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(path_ + "/weights", none)) {
      if (entry.path().string().ends_with(suffix)) files.push_back(entry.path().string());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

 private:
  std::string path_;
};

inline SegmentKind KindOf(uint8_t model) {
  SegmentKind kind;
  kind.model.fill(model);
  kind.layout = 3;
  return kind;
}

// Bytes that the key alone decides.
inline std::vector<std::byte> BytesOfKey(const std::string& key, size_t bytes) {
  std::mt19937 random(static_cast<uint32_t>(std::hash<std::string>()(key)));
  std::vector<std::byte> data(bytes);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random());
  return data;
}

inline constexpr size_t kOddBytes = 70'001;

// A chunk of `keys`, each with its bytes, and the places that hold it alive.
struct FilledChunk {
  explicit FilledChunk(const std::vector<std::string>& keys, size_t bytes = kOddBytes) {
    chunk = *WeightChunk::Create(keys.size() * (bytes + WeightChunk::kAlignment));
    for (const std::string& key : keys) {
      places.push_back(chunk->Reserve(bytes));
      const std::vector<std::byte> data = BytesOfKey(key, bytes);
      std::copy(data.begin(), data.end(), places.back()->data());
      places.back()->Fill(key);
    }
  }
  std::shared_ptr<WeightChunk> chunk;
  std::vector<std::unique_ptr<WeightPlace>> places;
};

inline absl::Status WriteKeys(WeightCache* cache, const std::vector<std::string>& keys,
                              size_t bytes = kOddBytes) {
  FilledChunk filled(keys, bytes);
  const std::vector<WeightEntry> entries = *filled.chunk->Freeze();
  return cache->Write(*filled.chunk, entries, [] { return false; }).status();
}

}  // namespace moepool
