// Kept weights: what is written is found again, damage of each kind is not believed, and disk is not used up.
#include "common/weights/weight_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <thread>

#include "common/weights/segment_name.h"
#include "gmock/gmock.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

class WeightCacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<WeightCache> Open(uint8_t model = 1) {
    auto cache = WeightCache::Open(temp_.Options(), KindOf(model));
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  // Whether the cache has the key's bytes, read and mapped alike.
  static bool Has(WeightCache* cache, const std::string& key, size_t bytes = kOddBytes) {
    const auto found = cache->Find(key, bytes);
    if (!found.has_value()) return false;
    const std::vector<std::byte> expected = BytesOfKey(key, bytes);
    std::vector<std::byte> read(bytes);
    const absl::Status status = found->segment->Read(found->entry, read.data());
    const auto mapped = found->segment->Map(found->entry);
    EXPECT_EQ(status.ok(), mapped.ok()) << status << mapped.status();
    if (!status.ok()) {
      cache->Discard(*found->segment, status);
      return false;
    }
    EXPECT_EQ(read, expected);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), mapped->get()));
    return true;
  }

  TempWeights temp_;
};

TEST_F(WeightCacheTest, FindsWhatWasWritten) {
  const auto writer = Open();
  EXPECT_FALSE(Has(writer.get(), "a"));
  ASSERT_TRUE(WriteKeys(writer.get(), {"a", "b"}).ok());
  ASSERT_TRUE(WriteKeys(writer.get(), {"large"}, 3'000'001).ok());
  EXPECT_TRUE(Has(writer.get(), "b")) << "in the same process";
  const auto reader = Open();
  EXPECT_TRUE(Has(reader.get(), "a"));
  EXPECT_TRUE(Has(reader.get(), "b"));
  EXPECT_TRUE(Has(reader.get(), "large", 3'000'001));
  EXPECT_FALSE(reader->Find("c", kOddBytes).has_value());
  EXPECT_FALSE(reader->Find("a", kOddBytes + 1).has_value()) << "of another size";
  EXPECT_FALSE(Open(/*model=*/2)->Find("a", kOddBytes).has_value()) << "of another model";
  SegmentKind other_layout = KindOf(1);
  ++other_layout.layout;
  EXPECT_FALSE((*WeightCache::Open(temp_.Options(), other_layout))->Find("a", kOddBytes).has_value());
}

TEST_F(WeightCacheTest, IsPrivate) {
  ASSERT_TRUE(WriteKeys(Open().get(), {"a"}).ok());
  struct stat info;
  ASSERT_EQ(stat(temp_.Options().directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const std::string file = temp_.Files().at(0);
  ASSERT_EQ(stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  ASSERT_EQ(chmod(file.c_str(), 0620), 0);
  EXPECT_FALSE(Has(Open().get(), "a")) << "others may write to the file";
  ASSERT_EQ(chmod(file.c_str(), 0600), 0);
  EXPECT_TRUE(Has(Open().get(), "a"));
  if (geteuid() == 0) {
    ASSERT_EQ(chown(file.c_str(), 12345, 0), 0);
    EXPECT_FALSE(Has(Open().get(), "a")) << "another user's";
    ASSERT_EQ(chown(file.c_str(), 0, 0), 0);
  }
  std::filesystem::rename(file, temp_.path() + "/elsewhere");
  std::filesystem::create_symlink(temp_.path() + "/elsewhere", file);
  EXPECT_FALSE(Has(Open().get(), "a")) << "a link";

  ASSERT_TRUE(WriteKeys(Open().get(), {"a"}).ok());
  EXPECT_TRUE(Has(Open().get(), "a")) << "the link has been replaced";
  ASSERT_EQ(lstat(file.c_str(), &info), 0);
  EXPECT_TRUE(S_ISREG(info.st_mode));

  ASSERT_EQ(chmod(temp_.Options().directory.c_str(), 0770), 0);
  const absl::Status status = WeightCache::Open(temp_.Options(), KindOf(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("0770"));
  WeightCacheOptions linked = temp_.Options();
  linked.directory = temp_.path() + "/link";
  std::filesystem::create_symlink(temp_.path(), linked.directory);
  EXPECT_FALSE(WeightCache::Open(linked, KindOf(1)).ok());
}

TEST_F(WeightCacheTest, DamageIsNotBelievedAndIsWrittenAnew) {
  ASSERT_TRUE(WriteKeys(Open().get(), {"a", "b"}).ok());
  const std::string file = temp_.Files().at(0);
  const std::string bytes = ReadFile(file);
  const auto check = [&](const std::string& damaged, const char* what) {
    WriteFile(file, damaged);
    const auto cache = Open();
    EXPECT_FALSE(Has(cache.get(), "a")) << what;
    EXPECT_FALSE(cache->Find("b", kOddBytes).has_value()) << what << ": the rest of the file";
    EXPECT_THAT(temp_.Files(), SizeIs(0)) << what;
    ASSERT_TRUE(WriteKeys(cache.get(), {"a", "b"}).ok());
    EXPECT_TRUE(Has(Open().get(), "a")) << what << ", written anew";
    EXPECT_EQ(ReadFile(file), bytes);
  };
  check("", "empty");
  check("short", "short");
  check(bytes.substr(0, bytes.size() - 1), "cut at the end");
  check(bytes.substr(1), "cut at the start");
  check(bytes + "x", "longer");
  const auto flipped = [&](size_t at) {
    std::string damaged = bytes;
    damaged[at] ^= 4;
    return damaged;
  };
  check(flipped(0), "the first byte of a");
  check(flipped(kOddBytes - 1), "the last byte of a");
  for (size_t i = bytes.size() - 80; i < bytes.size(); ++i) {
    if (i >= bytes.size() - 72 && i < bytes.size() - 68)
      continue;  // the version: of another program, and kept
    check(flipped(i), "the trailer");
  }
  const size_t index = bytes.find("a", bytes.size() - 80 - 2 * 33) - 32;
  for (size_t i = index; i < bytes.size() - 80; ++i) check(flipped(i), "the index");
}

TEST_F(WeightCacheTest, DamageOfAnotherMatrixIsSeenWhenItIsRead) {
  ASSERT_TRUE(WriteKeys(Open().get(), {"a", "b"}).ok());
  const std::string file = temp_.Files().at(0);
  std::string bytes = ReadFile(file);
  bytes[kOddBytes + 1000] ^= 1;
  WriteFile(file, bytes);
  const auto cache = Open();
  EXPECT_TRUE(Has(cache.get(), "a"));
  EXPECT_FALSE(Has(cache.get(), "b"));
  EXPECT_FALSE(Has(cache.get(), "a")) << "the file is given up";
  EXPECT_THAT(temp_.Files(), SizeIs(0));
}

TEST_F(WeightCacheTest, AFileThatCannotBeReadNowIsNotTakenForDamaged) {
  ASSERT_TRUE(WriteKeys(Open().get(), {"a"}).ok());
  const auto cache = Open();
  const auto found = cache->Find("a", kOddBytes);
  ASSERT_TRUE(found.has_value());
  void* const page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  const absl::Status status = found->segment->Read(found->entry, static_cast<std::byte*>(page));
  munmap(page, 4096);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.code(), absl::StatusCode::kDataLoss) << status;
  cache->Discard(*found->segment, status);
  EXPECT_FALSE(cache->Find("a", kOddBytes).has_value());
  EXPECT_THAT(temp_.Files(), SizeIs(1));
  EXPECT_TRUE(Has(Open().get(), "a"));
}

TEST_F(WeightCacheTest, WritersDoNotDisturbEachOther) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      const auto cache = Open();
      for (int i = 0; i < 8; ++i) {
        EXPECT_TRUE(WriteKeys(cache.get(), {"shared", std::to_string(i)}).ok());
        EXPECT_TRUE(WriteKeys(cache.get(), {"own" + std::to_string(t), std::to_string(i)}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(temp_.Files(), SizeIs(8 + 4 * 8)) << "the same entries make the same file";
  EXPECT_THAT(temp_.Files(".partial"), SizeIs(0));
  const auto cache = Open();
  EXPECT_TRUE(Has(cache.get(), "shared"));
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(Has(cache.get(), std::to_string(i)));
  for (int t = 0; t < 4; ++t) EXPECT_TRUE(Has(cache.get(), "own" + std::to_string(t)));
}

TEST_F(WeightCacheTest, AStoppedWriterLeavesNothing) {
  const auto cache = Open();
  FilledChunk filled({"a"});
  const auto entries = filled.chunk->Freeze();
  EXPECT_EQ(cache->Write(*filled.chunk, *entries, [] { return true; }).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_THAT(temp_.Files(""), SizeIs(0));
}

TEST_F(WeightCacheTest, WhatADeadWriterLeftIsRemoved) {
  ASSERT_TRUE(WriteKeys(Open().get(), {"a"}).ok());
  const std::string directory = temp_.Options().directory + "/";
  const std::string segment = SegmentName(KindOf(2), {});
  const std::string dead = directory + PartialName(segment, 1);
  const std::string alive = directory + PartialName(segment, 2);
  WriteFile(dead, "half");
  WriteFile(alive, "half");
  const UniqueFd writer(open(alive.c_str(), O_RDWR));
  ASSERT_EQ(flock(writer.get(), LOCK_EX), 0);
  Open();
  EXPECT_EQ(temp_.Files(".partial"), std::vector<std::string>{alive});
}

TEST_F(WeightCacheTest, FilesThatAreNotItsOwnStay) {
  WeightCacheOptions options = temp_.Options();
  options.limit_bytes = 3 * kOddBytes / 2;
  const auto open = [&](uint8_t model) { return *WeightCache::Open(options, KindOf(model)); };
  ASSERT_TRUE(WriteKeys(open(1).get(), {"a"}).ok());
  const std::string segment = SegmentName(KindOf(1), {});
  std::vector<std::string> others;
  for (const std::string& name :
       {std::string("llama.weights"), std::string("download.partial"), std::string(".dead.partial"),
        "x" + segment, segment + ".weights", segment.substr(1), "." + segment, "." + segment + ".partial"}) {
    others.push_back(options.directory + "/" + name);
    WriteFile(others.back(), std::string(2 * kOddBytes, 'x'));
  }
  ASSERT_TRUE(WriteKeys(open(2).get(), {"b"}).ok()) << "others' files do not count";
  EXPECT_TRUE(Has(open(2).get(), "b"));
  EXPECT_FALSE(Has(open(1).get(), "a")) << "its own made room";
  for (const std::string& other : others) EXPECT_TRUE(std::filesystem::exists(other)) << other;
}

TEST_F(WeightCacheTest, TheLeastRecentlyUsedMakeRoom) {
  WeightCacheOptions options = temp_.Options();
  options.limit_bytes = 3 * (kOddBytes + 4096 + 1000);
  const auto open = [&](uint8_t model) { return *WeightCache::Open(options, KindOf(model)); };
  std::vector<std::string> files;  // of models 1, 2, 3
  for (uint8_t model = 1; model <= 3; ++model) {
    ASSERT_TRUE(WriteKeys(open(model).get(), {"a"}).ok());
    for (const std::string& file : temp_.Files()) {
      if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(file);
    }
    const timespec times[2] = {{1000 + model, 0}, {1000 + model, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, files.back().c_str(), times, 0), 0);
  }
  ASSERT_THAT(files, SizeIs(3));
  EXPECT_TRUE(Has(open(1).get(), "a"));  // used now, so that model 2's is the oldest
  ASSERT_TRUE(WriteKeys(open(4).get(), {"a"}).ok());
  EXPECT_TRUE(Has(open(1).get(), "a"));
  EXPECT_FALSE(Has(open(2).get(), "a"));
  EXPECT_TRUE(Has(open(3).get(), "a"));
  EXPECT_TRUE(Has(open(4).get(), "a"));
}

TEST_F(WeightCacheTest, WhatIsInUseIsNotRemoved) {
  WeightCacheOptions options = temp_.Options();
  options.limit_bytes = 3 * kOddBytes / 2;
  const auto cache = *WeightCache::Open(options, KindOf(1));
  ASSERT_TRUE(WriteKeys(cache.get(), {"a"}).ok());
  const absl::Status status = WriteKeys(cache.get(), {"b"});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(options.limit_bytes)));
  EXPECT_TRUE(Has(cache.get(), "a"));
  EXPECT_EQ(WriteKeys(cache.get(), {"c"}, 2 * kOddBytes).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(WeightCacheTest, AWriteThatIsRefusedRemovesNothing) {
  WeightCacheOptions options = temp_.Options();
  options.limit_bytes = 5 * kOddBytes / 2;
  for (uint8_t model = 1; model <= 2; ++model) {
    ASSERT_TRUE(WriteKeys(WeightCache::Open(options, KindOf(model))->get(), {"a"}).ok());
  }
  const auto cache = *WeightCache::Open(options, KindOf(3));
  EXPECT_EQ(WriteKeys(cache.get(), {"larger than the limit"}, 3 * kOddBytes).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(temp_.Files(), SizeIs(2));
  WeightCacheOptions full = options;
  full.free_fraction = 1;
  EXPECT_EQ(WriteKeys(WeightCache::Open(full, KindOf(3))->get(), {"a"}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(temp_.Files(), SizeIs(2));
  EXPECT_TRUE(WriteKeys(cache.get(), {"a"}).ok());
  EXPECT_THAT(temp_.Files(), SizeIs(2));
}

TEST_F(WeightCacheTest, WhatAnotherProcessHasOpenOrMappedIsNotRemoved) {
  WeightCacheOptions options = temp_.Options();
  options.limit_bytes = 3 * kOddBytes / 2;
  const auto other = *WeightCache::Open(options, KindOf(1));
  ASSERT_TRUE(WriteKeys(other.get(), {"a"}).ok());
  const auto cache = *WeightCache::Open(options, KindOf(2));
  const auto refused = [&] {
    return WriteKeys(cache.get(), {"b"}).code() == absl::StatusCode::kResourceExhausted;
  };
  EXPECT_TRUE(refused()) << "open";
  std::shared_ptr<const std::byte> mapped;
  {
    const auto found = other->Find("a", kOddBytes);
    mapped = *found->segment->Map(found->entry);
  }
  other->Close();
  EXPECT_TRUE(refused()) << "mapped";
  EXPECT_TRUE(Has(other.get(), "a")) << "what was closed is found again";
  mapped.reset();
  other->Close();
  EXPECT_FALSE(refused());
  EXPECT_FALSE(Has(other.get(), "a"));
}

TEST_F(WeightCacheTest, LeavesDiskToOthers) {
  WeightCacheOptions options = temp_.Options();
  options.free_fraction = 1;
  const auto cache = *WeightCache::Open(options, KindOf(1));
  EXPECT_EQ(WriteKeys(cache.get(), {"a"}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(temp_.Files(""), SizeIs(0));
}

}  // namespace
}  // namespace moepool
