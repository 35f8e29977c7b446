// See weight_chunk.h.
#include "common/weights/weight_chunk.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/huge_pages.h"
#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

// Large enough that the half of a huge page which a chunk leaves empty at its end does not count, small
// enough that a model is kept in pieces between which the writer looks up.
constexpr uint64_t kChunkBytes = uint64_t{256} << 20;

uint64_t PageBytes() {
  static const uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

WeightPlace::~WeightPlace() { chunk_->Release(offset_, bytes_, filled_); }

std::byte* WeightPlace::data() const { return chunk_->data() + offset_; }

void WeightPlace::Fill(std::string key) {
  chunk_->Fill(offset_, bytes_, std::move(key));
  filled_ = true;
}

absl::StatusOr<std::shared_ptr<WeightChunk>> WeightChunk::Create(uint64_t capacity, Released released) {
  if (capacity > uint64_t{1} << 46) {
    return absl::ResourceExhaustedError(StrCat("weights: ", capacity, " bytes asked for"));
  }
  capacity = RoundUp(std::max<uint64_t>(capacity, 1), kHugePageBytes);
  std::byte* const memory = MapHugePages(capacity, MAP_NORESERVE);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(StrCat("weights: no memory for ", capacity, " bytes"));
  }
  return std::shared_ptr<WeightChunk>(new WeightChunk(memory, capacity, released));
}

WeightChunk::~WeightChunk() { munmap(data_, capacity_); }

std::unique_ptr<WeightPlace> WeightChunk::Reserve(uint64_t bytes) {
  MutexLock lock(&mutex_);
  if (closed_ || bytes > capacity_ - used_) return nullptr;
  const uint64_t offset = used_;
  used_ = std::min(capacity_, RoundUp(used_ + bytes, kAlignment));
  ++unfilled_;
  return std::make_unique<WeightPlace>(shared_from_this(), offset, bytes);
}

void WeightChunk::Fill(uint64_t offset, uint64_t bytes, std::string key) {
  MutexLock lock(&mutex_);
  --unfilled_;
  if (!key.empty()) entries_.push_back({std::move(key), offset, bytes});
}

void WeightChunk::Release(uint64_t offset, uint64_t bytes, bool filled) {
  MutexLock lock(&mutex_);
  if (!filled) --unfilled_;
  const bool stays = stay_ && filled && !thawed_;
  if (!stays) std::erase_if(entries_, [&](const WeightEntry& entry) { return entry.offset == offset; });
  if (frozen_ || stays) {
    released_.push_back({"", offset, bytes});
  } else {
    GiveBack(offset, bytes);
  }
}

// Pages that it shares with neighbours stay, at most two.
void WeightChunk::GiveBack(uint64_t offset, uint64_t bytes) {
  const uint64_t begin = RoundUp(offset, PageBytes());
  const uint64_t end = (offset + bytes) / PageBytes() * PageBytes();
  if (begin < end) (void)madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

std::optional<std::vector<WeightEntry>> WeightChunk::Freeze() {
  MutexLock lock(&mutex_);
  if (unfilled_ > 0) return std::nullopt;
  closed_ = frozen_ = true;
  return std::exchange(entries_, {});
}

void WeightChunk::Thaw() {
  MutexLock lock(&mutex_);
  frozen_ = false;
  thawed_ = true;
  for (const WeightEntry& released : released_) GiveBack(released.offset, released.bytes);
  released_.clear();
}

uint64_t WeightChunk::used_bytes() const {
  MutexLock lock(&mutex_);
  return used_;
}

absl::Status WeightChunk::Remap(int fd) {
  const uint64_t bytes = RoundUp(used_bytes(), PageBytes());
  if (bytes == 0) return absl::OkStatus();
  // Mapped elsewhere first: where a mapping at a fixed address fails, what was there may be gone already.
  // Moving one replaces what is there at once.
  void* const file = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (file == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, StrCat("cannot map ", bytes, " bytes of weights"));
  }
  if (mremap(file, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, data_) == MAP_FAILED) {
    const int error = errno;
    munmap(file, bytes);
    return absl::ErrnoToStatus(error, StrCat("cannot move a mapping of ", bytes, " bytes of weights"));
  }
  (void)madvise(data_, bytes, MADV_HUGEPAGE);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WeightPlace>> WeightArena::Reserve(uint64_t bytes) {
  MutexLock lock(&mutex_);
  if (!chunks_.empty()) {
    if (std::unique_ptr<WeightPlace> place = chunks_.back()->Reserve(bytes)) return place;
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<WeightChunk> chunk,
                           WeightChunk::Create(std::max(bytes, kChunkBytes), released_));
  std::unique_ptr<WeightPlace> place = chunk->Reserve(bytes);
  // One that a single matrix fills goes before the one that has room.
  chunks_.insert(bytes >= kChunkBytes && !chunks_.empty() ? chunks_.end() - 1 : chunks_.end(),
                 std::move(chunk));
  return place;
}

std::vector<std::shared_ptr<WeightChunk>> WeightArena::Take() {
  MutexLock lock(&mutex_);
  return std::exchange(chunks_, {});
}

}  // namespace moepool
