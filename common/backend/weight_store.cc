// See weight_store.h.
#include "common/backend/weight_store.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

// Behind what computes, but not so far that a busy machine never gets to it: a tenth of a core, next to one
// thread, and the last level of the disk's best-effort class, since its idle class may wait for ever.
void LowerPriority() {
  constexpr int kIoprioWhoProcess = 1;
  constexpr int kIoprioBestEffort = 2 << 13;
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
  (void)syscall(SYS_ioprio_set, kIoprioWhoProcess, 0, kIoprioBestEffort | 7);
}

std::string KeyText(const MatrixView& view, const WeightKey& key) {
  return StrCat(key.tensor, " ", Info(view.dtype).name, " rows ", key.row_begin, "+", view.rows, " columns ",
                view.col_begin, "+", view.cols);
}

PackedMatrix At(PackedMatrix m, const std::byte* data, std::shared_ptr<const void> owner) {
  m.weights.data = reinterpret_cast<const uint8_t*>(data);
  m.owner = std::move(owner);
  return m;
}

}  // namespace

WeightStore::~WeightStore() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (writer_.joinable()) writer_.join();
}

absl::StatusOr<WeightStore::Kept*> WeightStore::KeptOf(const ModelSource* source) {
  if (source == nullptr || options_.cache_directory.empty()) return nullptr;
  MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest digest, source->Digest());
  MutexLock lock(&mutex_);
  std::unique_ptr<Kept>& kept = kept_[digest];
  if (kept == nullptr) {
    if (!keeping_) return nullptr;
    SegmentKind kind;
    kind.model = digest;
    kind.layout = kPackedLayoutVersion;
    auto cache = WeightCache::Open(
        {.directory = options_.cache_directory, .limit_bytes = options_.cache_limit_bytes}, kind);
    if (!cache.ok()) {
      Log(LogLevel::kWarning, "weights are not kept", {{"cause", ToStd(cache.status().message())}});
      keeping_ = false;
      return nullptr;
    }
    kept = std::make_unique<Kept>(copied_.has_value() ? Released::kStay : Released::kGone);
    kept->cache = *std::move(cache);
  }
  return kept.get();
}

// Nothing where the cache has no such matrix, or one that is damaged or cannot be read.
absl::StatusOr<std::optional<PackedMatrix>> WeightStore::LoadKept(Kept* kept, const std::string& key,
                                                                  PackedMatrix m) {
  const std::optional<WeightCache::Found> found = kept->cache->Find(key, m.bytes());
  if (!found.has_value()) return std::nullopt;
  if (options_.map) {
    absl::StatusOr<std::shared_ptr<const std::byte>> mapped = found->segment->Map(found->entry);
    if (mapped.ok()) return At(std::move(m), mapped->get(), *mapped);
    kept->cache->Discard(*found->segment, mapped.status());
    return std::nullopt;
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<WeightPlace> place, loose_.Reserve(m.bytes()));
  const absl::Status status = found->segment->Read(found->entry, place->data());
  if (status.ok()) {
    place->Fill("");
    return At(std::move(m), place->data(), place);
  }
  kept->cache->Discard(*found->segment, status);
  return std::nullopt;
}

absl::StatusOr<PackedMatrix> WeightStore::Load(const MatrixView& view, const WeightKey& key) {
  MOEPOOL_ASSIGN_OR_RETURN(PackedMatrix m, PlanPack(view));
  Kept* kept = nullptr;
  if (m.bytes() > 0) {
    MOEPOOL_ASSIGN_OR_RETURN(kept, KeptOf(key.source));
  }
  std::string name;
  if (kept != nullptr) {
    name = KeyText(view, key);
    MOEPOOL_ASSIGN_OR_RETURN(std::optional<PackedMatrix> found, LoadKept(kept, name, m));
    if (found.has_value()) {
      MutexLock lock(&mutex_);
      ++counts_.from_cache;
      counts_.from_cache_bytes += m.bytes();
      return *std::move(found);
    }
  }
  const uint64_t bytes = m.bytes();
  const bool keep = kept != nullptr && MayKeep(bytes);
  absl::StatusOr<PackedMatrix> packed =
      PackTo(keep ? &kept->packed : &loose_, view, std::move(m), kept != nullptr ? key.source : nullptr,
             keep ? std::move(name) : "");
  {
    MutexLock lock(&mutex_);
    if (!packed.ok()) {
      if (keep && copied_.has_value()) unwritten_bytes_ -= std::min(unwritten_bytes_, bytes);
      return packed.status();
    }
    ++counts_.packed;
    counts_.packed_bytes += bytes;
    if (!copied_.has_value() || not_begun_bytes_ < copied_->write_bytes) return packed;
    not_begun_bytes_ = 0;
  }
  BeginWriting();
  return packed;
}

absl::StatusOr<PackedMatrix> WeightStore::PackTo(WeightArena* arena, const MatrixView& view, PackedMatrix m,
                                                 const ModelSource* source, std::string name) {
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<WeightPlace> place, arena->Reserve(m.bytes()));
  MOEPOOL_RETURN_IF_ERROR(PackInto(view, m, place->data()));
  // What was read may have been written to meanwhile, and must not be kept under the digest of what it was.
  if (source != nullptr) MOEPOOL_RETURN_IF_ERROR(source->Digest().status());
  place->Fill(std::move(name));
  return At(std::move(m), place->data(), place);
}

bool WeightStore::MayKeep(uint64_t bytes) {
  if (!copied_.has_value()) return true;
  MutexLock lock(&mutex_);
  if (!keeping_ || bytes > copied_->most_bytes - std::min(unwritten_bytes_, copied_->most_bytes)) {
    counts_.not_kept_bytes += bytes;
    return false;
  }
  unwritten_bytes_ += bytes;
  not_begun_bytes_ += bytes;
  return true;
}

void WeightStore::Written(const std::vector<WeightEntry>& entries) {
  if (!copied_.has_value()) return;
  for (const WeightEntry& entry : entries) unwritten_bytes_ -= std::min(unwritten_bytes_, entry.bytes);
}

void WeightStore::BeginWriting() {
  std::vector<Task> tasks = TakeTasks();
  MutexLock lock(&mutex_);
  for (Task& task : tasks) tasks_.push_back(std::move(task));
  if (tasks_.empty() || options_.map) return;
  changed_.NotifyAll();
  if (!writer_.joinable()) writer_ = std::thread([this] { WriteLoop(); });
}

std::vector<WeightStore::Task> WeightStore::TakeTasks() {
  MutexLock lock(&mutex_);
  std::vector<Task> tasks;
  for (const auto& [digest, kept] : kept_) {
    if (kept == nullptr) continue;  // its directory was refused
    std::vector<Chunk> chunks = std::exchange(kept->unwritten, {});
    for (Chunk& chunk : kept->packed.Take()) chunks.push_back(std::move(chunk));
    for (Chunk& chunk : chunks) {
      std::optional<std::vector<WeightEntry>> entries = chunk->Freeze();
      if (!entries.has_value()) {
        kept->unwritten.push_back(std::move(chunk));
      } else if (!keeping_ || entries->empty()) {
        Written(*entries);
        chunk->Thaw();
      } else {
        tasks.push_back({kept.get(), std::move(chunk), *std::move(entries)});
      }
    }
  }
  return tasks;
}

void WeightStore::KeepLoaded(absl::FunctionRef<bool()> stop) {
  loose_.Take();  // so that a chunk goes when its last matrix does
  {
    MutexLock lock(&mutex_);
    for (const auto& [digest, kept] : kept_) {
      if (kept != nullptr) kept->cache->Close();
    }
  }
  BeginWriting();
  {
    MutexLock lock(&mutex_);
    const Counts counts = std::exchange(counts_, {});
    if (counts.packed + counts.from_cache > 0) {
      Log(LogLevel::kInfo, "weights loaded",
          {{"packed", counts.packed},
           {"packed_bytes", counts.packed_bytes},
           {"from_cache", counts.from_cache},
           {"from_cache_bytes", counts.from_cache_bytes},
           {"not_kept_bytes", counts.not_kept_bytes}});
    }
  }
  if (options_.map) Map(stop);
}

// Writes what there is and maps it in the place of the memory.
void WeightStore::Map(absl::FunctionRef<bool()> stop) {
  while (!stop()) {
    Task task;
    {
      MutexLock lock(&mutex_);
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    if (Write(task, stop)) continue;
    MutexLock lock(&mutex_);
    tasks_.push_front(std::move(task));
    return;
  }
}

bool WeightStore::Write(const Task& task, absl::FunctionRef<bool()> stop) {
  bool keeping;
  {
    MutexLock lock(&mutex_);
    keeping = keeping_;
  }
  absl::Status status;
  if (keeping) {
    const absl::StatusOr<UniqueFd> fd = task.kept->cache->Write(*task.chunk, task.entries, stop);
    status = fd.status();
    if (absl::IsCancelled(status)) return false;
    if (status.ok() && options_.map) status = task.chunk->Remap(fd->get());
  }
  task.chunk->Thaw();
  if (status.ok()) return true;
  Log(LogLevel::kWarning, "weights are not kept", {{"cause", ToStd(status.message())}});
  MutexLock lock(&mutex_);
  keeping_ = false;
  return true;
}

void WeightStore::WriteLoop() {
  LowerPriority();
  for (;;) {
    Task task;
    {
      MutexLock lock(&mutex_);
      writing_ = false;
      changed_.NotifyAll();
      while (!stopping_ && tasks_.empty()) changed_.Wait(&mutex_);
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
      writing_ = true;
    }
    if (!Write(task, [this] { return stopping_.load(); })) task.chunk->Thaw();
    MutexLock lock(&mutex_);
    Written(task.entries);
  }
}

void WeightStore::AwaitKept() {
  MutexLock lock(&mutex_);
  while (writing_ || !tasks_.empty()) changed_.Wait(&mutex_);
}

}  // namespace moepool
