// Files for tests of the model folder: a private directory, GGUF bytes laid down one field at a time so that
// any rule can be broken, and the reader run over bytes in memory.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "common/model/checked_model.h"
#include "common/model/gguf_reader.h"

namespace moepool {

// A directory of its own, which the digest cache uses too. Removed at the end.
class TempDirectory {
 public:
  TempDirectory() : path_(::testing::TempDir() + "moepool-XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
    setenv("XDG_CACHE_HOME", path_.c_str(), 1);
  }
  ~TempDirectory() {
    unsetenv("XDG_CACHE_HOME");
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// Puts `bytes` over those of the file, which keeps its inode, a second later by its time of modification.
inline void Overwrite(const std::string& path, const std::string& bytes) {
  const auto modified = std::filesystem::last_write_time(path);
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  std::filesystem::last_write_time(path, modified + std::chrono::seconds(1));
}

// Bytes of a file, put down without any check.
class RawBytes {
 public:
  template <typename T>
  RawBytes& Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  RawBytes& U32(uint32_t value) { return Put(value); }
  RawBytes& U64(uint64_t value) { return Put(value); }
  RawBytes& Text(const std::string& text) {
    U64(text.size());
    bytes_ += text;
    return *this;
  }
  RawBytes& Header(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
    bytes_ += "GGUF";
    return U32(version).U64(tensors).U64(pairs);
  }
  // A tensor of one dimension of `size` F32.
  RawBytes& Tensor(const std::string& name, uint64_t size, uint64_t offset) {
    return Text(name).U32(1).U64(size).U32(0).U64(offset);
  }
  // Padding to a multiple of `alignment`, then `bytes` of data.
  RawBytes& Data(size_t bytes, size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + bytes, '\1');
    return *this;
  }
  const std::string& str() const { return bytes_; }

 private:
  std::string bytes_;
};

// Hands `use` a reader of `bytes` that fails the test where it is asked for anything outside them.
template <typename Use>
auto WithReader(const std::string& bytes, Use use) {
  return use([&bytes](uint64_t offset, uint64_t count, char* out) {
    EXPECT_LE(offset, bytes.size());
    EXPECT_LE(count, bytes.size() - offset);
    if (offset > bytes.size() || count > bytes.size() - offset)
      return absl::InternalError("outside the file");
    std::memcpy(out, bytes.data() + offset, count);
    return absl::OkStatus();
  });
}

inline absl::StatusOr<GgufFile> Parse(const std::string& bytes) {
  return WithReader(bytes, [&](auto read) { return ReadGguf(bytes.size(), read); });
}

inline absl::StatusOr<CheckedModel> ParseModel(const std::string& bytes) {
  return WithReader(bytes, [&](auto read) -> absl::StatusOr<CheckedModel> {
    absl::StatusOr<GgufFile> file = ReadGguf(bytes.size(), read);
    if (!file.ok()) return file.status();
    return CheckModel(*std::move(file), "test", read);
  });
}

}  // namespace moepool
