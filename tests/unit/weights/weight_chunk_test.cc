// Chunks: where places lie, what freezing keeps, and the file in the place of the memory.
#include "common/weights/weight_chunk.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "gmock/gmock.h"
#include "tests/unit/weights/weights_testing.h"

namespace moepool {
namespace {

bool Zero(const std::byte* data, size_t bytes) {
  return std::all_of(data, data + bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(WeightChunkTest, PlacesAreAlignedZeroAndApart) {
  WeightArena arena;
  std::vector<std::unique_ptr<WeightPlace>> places;
  for (const uint64_t bytes : {1, 64, 65, 0, 4096, 100'000, 7}) {
    places.push_back(*arena.Reserve(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(places.back()->data()) % WeightChunk::kAlignment, 0u);
    EXPECT_TRUE(Zero(places.back()->data(), bytes));
    std::memset(places.back()->data(), static_cast<int>(places.size()), bytes);
  }
  for (size_t i = 0; i < places.size(); ++i) {
    for (size_t b = 0; b < places[i]->bytes(); ++b) {
      ASSERT_EQ(places[i]->data()[b], static_cast<std::byte>(i + 1)) << "place " << i << " byte " << b;
    }
  }
  EXPECT_EQ(arena.Take().size(), 1u) << "small places share a chunk";
}

TEST(WeightChunkTest, OneLargerThanAChunkHasItsOwnAndLeavesRoomInTheOther) {
  WeightArena arena;
  const auto first = *arena.Reserve(100);
  const auto large = *arena.Reserve(uint64_t{300} << 20);  // address space: nothing is touched
  const auto second = *arena.Reserve(100);
  EXPECT_EQ(second->data() - first->data(), 128);
  EXPECT_EQ(arena.Take().size(), 2u);
  EXPECT_TRUE(arena.Take().empty());
}

TEST(WeightChunkTest, IsNotFrozenWhileAPlaceIsUnfilled) {
  const auto chunk = *WeightChunk::Create(1000);
  const auto named = chunk->Reserve(10);
  auto dropped = chunk->Reserve(10);
  named->Fill("a");
  EXPECT_FALSE(chunk->Freeze().has_value());
  dropped.reset();  // given up: it could not be packed
  const auto entries = chunk->Freeze();
  ASSERT_TRUE(entries.has_value());
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ(entries->front().key, "a");
  EXPECT_EQ(chunk->Reserve(10), nullptr) << "a frozen chunk is closed";
}

TEST(WeightChunkTest, WhatIsReleasedKeepsItsBytesUntilThaw) {
  FilledChunk filled({"a", "b", "c"});
  const std::byte* const b = filled.places[1]->data();
  const std::vector<std::byte> bytes(b, b + kOddBytes);
  filled.places[0].reset();  // before it is frozen: gone
  const auto entries = filled.chunk->Freeze();
  ASSERT_EQ(entries->size(), 2u);
  filled.places[1].reset();
  EXPECT_EQ(std::memcmp(b, bytes.data(), kOddBytes), 0);
  filled.chunk->Thaw();
  EXPECT_TRUE(Zero(b + 4096, kOddBytes - 3 * 4096)) << "the pages went back";
  const std::vector<std::byte> c = BytesOfKey("c", kOddBytes);
  EXPECT_EQ(std::memcmp(filled.places[2]->data(), c.data(), kOddBytes), 0) << "the neighbour's did not";
}

TEST(WeightChunkTest, AFileTakesThePlaceOfTheMemory) {
  FilledChunk filled({"a", "b"});
  ASSERT_TRUE(filled.chunk->Freeze().has_value());
  const UniqueFd fd(memfd_create("image", MFD_CLOEXEC));
  const uint64_t used = filled.chunk->used_bytes();
  ASSERT_EQ(write(fd.get(), filled.chunk->data(), used), static_cast<ssize_t>(used));
  const std::byte* const before = filled.places[1]->data();
  ASSERT_TRUE(filled.chunk->Remap(fd.get()).ok());
  filled.chunk->Thaw();
  EXPECT_EQ(filled.places[1]->data(), before);
  const std::vector<std::byte> b = BytesOfKey("b", kOddBytes);
  EXPECT_EQ(std::memcmp(before, b.data(), kOddBytes), 0);
  const std::byte changed{0x5a};  // it is the file that is read
  ASSERT_EQ(pwrite(fd.get(), &changed, 1, before - filled.chunk->data()), 1);
  EXPECT_EQ(*before, changed);
}

TEST(WeightChunkTest, WhereNoFileTakesItsPlaceTheMemoryStays) {
  FilledChunk filled({"a"});
  ASSERT_TRUE(filled.chunk->Freeze().has_value());
  int pair[2];  // of a type whose mapping the kernel refuses late, after it has made room for it
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd ends[] = {UniqueFd(pair[0]), UniqueFd(pair[1])};
  const absl::Status status = filled.chunk->Remap(pair[0]);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(std::string(status.message()).find("bytes of weights"), std::string::npos) << status;
  const std::vector<std::byte> a = BytesOfKey("a", kOddBytes);
  EXPECT_EQ(std::memcmp(filled.places[0]->data(), a.data(), kOddBytes), 0);
}

}  // namespace
}  // namespace moepool
