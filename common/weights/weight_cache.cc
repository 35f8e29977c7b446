// See weight_cache.h.
#include "common/weights/weight_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/weights/partial_file.h"
#include "common/weights/segment_name.h"

namespace moepool {
namespace {

std::vector<std::string> FileNames(int directory) {
  std::vector<std::string> names;
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = fd < 0 ? nullptr : fdopendir(fd);
  if (stream == nullptr) {
    if (fd >= 0) close(fd);
    return names;
  }
  while (const dirent* entry = readdir(stream)) names.emplace_back(entry->d_name);
  closedir(stream);
  std::sort(names.begin(), names.end());
  return names;
}

// The file, locked, or why it is not to be removed: a process that has it open or mapped (WeightSegment)
// would have to make it anew at its next start, and no disk would be freed before it ends.
absl::StatusOr<UniqueFd> LockUnused(int directory, const std::string& name) {
  MOEPOOL_ASSIGN_OR_RETURN(UniqueFd fd, OpenPrivateFile(directory, name));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(StrCat("'", name, "' is in use"));
  }
  return fd;  // a file system may have no locks
}

struct Disk {
  uint64_t free_bytes = 0;
  uint64_t reserve_bytes = 0;  // of those, not to be used
};

Disk DiskOf(int directory, double reserve_fraction) {
  struct statvfs info;
  if (fstatvfs(directory, &info) != 0) return {};
  const auto block_bytes = static_cast<uint64_t>(info.f_frsize);
  const double disk_bytes = static_cast<double>(info.f_blocks) * static_cast<double>(block_bytes);
  return {info.f_bavail * block_bytes, static_cast<uint64_t>(reserve_fraction * disk_bytes)};
}

}  // namespace

WeightCache::WeightCache(WeightCacheOptions options, const SegmentKind& kind, UniqueFd directory)
    : options_(std::move(options)),
      kind_(kind),
      directory_(std::move(directory)),
      prefix_(SegmentPrefix(kind)) {}

absl::StatusOr<std::unique_ptr<WeightCache>> WeightCache::Open(const WeightCacheOptions& options,
                                                               const SegmentKind& kind) {
  MOEPOOL_ASSIGN_OR_RETURN(UniqueFd directory, OpenPrivateDirectory(options.directory));
  std::unique_ptr<WeightCache> cache(new WeightCache(options, kind, std::move(directory)));
  MutexLock lock(&cache->mutex_);
  cache->ReadIndex();
  return cache;
}

void WeightCache::Close() {
  MutexLock lock(&mutex_);
  entries_.clear();
  open_ = false;
}

void WeightCache::ReadIndex() {
  open_ = true;
  for (const std::string& name : FileNames(directory_.get())) {
    if (IsPartialName(name)) RemoveAbandoned(directory_.get(), name);
    if (IsSegmentName(name) && absl::StartsWith(name, prefix_)) AddSegment(name);
  }
}

void WeightCache::AddSegment(const std::string& name) {
  const absl::StatusOr<std::shared_ptr<WeightSegment>> segment =
      WeightSegment::Open(directory_.get(), name, kind_);
  if (!segment.ok()) {
    if (absl::IsNotFound(segment.status())) return;  // another process has removed it meanwhile
    Log(LogLevel::kWarning, "ignoring kept weights", {{"cause", ToStd(segment.status().message())}});
    if (absl::IsDataLoss(segment.status())) unlinkat(directory_.get(), name.c_str(), 0);
    return;
  }
  for (SegmentEntry& entry : (*segment)->TakeEntries()) {
    std::string key = entry.key;
    entries_.insert_or_assign(std::move(key), Found{*segment, std::move(entry)});
  }
}

std::optional<WeightCache::Found> WeightCache::Find(const std::string& key, uint64_t bytes) {
  MutexLock lock(&mutex_);
  if (!open_) ReadIndex();
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.entry.bytes != bytes) return std::nullopt;
  const std::string& name = it->second.segment->name();
  if (in_use_.insert(name).second)
    (void)utimensat(directory_.get(), name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
  return it->second;
}

void WeightCache::Discard(const WeightSegment& segment, const absl::Status& cause) {
  MutexLock lock(&mutex_);
  const size_t erased =
      std::erase_if(entries_, [&](const auto& item) { return item.second.segment.get() == &segment; });
  if (erased == 0) return;  // two threads met the same
  Log(LogLevel::kWarning, "ignoring kept weights", {{"cause", ToStd(cause.message())}});
  in_use_.erase(segment.name());
  if (absl::IsDataLoss(cause)) unlinkat(directory_.get(), segment.name().c_str(), 0);
}

absl::Status WeightCache::MakeRoom(uint64_t bytes) {
  struct File {
    timespec used;
    uint64_t bytes;
    uint64_t disk_bytes;
    std::string name;
  };
  std::vector<File> files;
  uint64_t kept = 0;
  for (const std::string& name : FileNames(directory_.get())) {
    struct stat info;
    if (!IsSegmentName(name)) continue;
    if (fstatat(directory_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    files.push_back({info.st_mtim, static_cast<uint64_t>(info.st_size),
                     static_cast<uint64_t>(info.st_blocks) * 512, name});
    kept += files.back().bytes;
  }
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) {
    return std::tie(a.used.tv_sec, a.used.tv_nsec, a.name) < std::tie(b.used.tv_sec, b.used.tv_nsec, b.name);
  });
  const Disk disk = DiskOf(directory_.get(), options_.free_fraction);
  uint64_t kept_then = kept;
  uint64_t free_then = disk.free_bytes;
  const auto fits = [&] {
    return kept_then <= options_.limit_bytes && bytes <= options_.limit_bytes - kept_then &&
           free_then >= disk.reserve_bytes && bytes <= free_then - disk.reserve_bytes;
  };
  // All that is to go is found, and locked, before any of it goes: for nothing, nothing is removed.
  std::vector<std::pair<std::string, UniqueFd>> going;
  MutexLock lock(&mutex_);
  for (const File& file : files) {
    if (fits()) break;
    if (in_use_.contains(file.name)) continue;
    absl::StatusOr<UniqueFd> unused = LockUnused(directory_.get(), file.name);
    if (!unused.ok()) continue;
    kept_then -= file.bytes;
    free_then += file.disk_bytes;
    going.emplace_back(file.name, *std::move(unused));
  }
  if (!fits()) {
    return absl::ResourceExhaustedError(
        StrCat(bytes, " bytes of weights do not fit: ", kept, " are kept, at most ", options_.limit_bytes,
               ", and ", disk.free_bytes, " are free on the disk, of which ", disk.reserve_bytes,
               " stay so; ", kept - kept_then, " that nobody uses would not be enough"));
  }
  for (const auto& [name, fd] : going) unlinkat(directory_.get(), name.c_str(), 0);
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> WeightCache::Write(const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                            absl::FunctionRef<bool()> stop) {
  MOEPOOL_RETURN_IF_ERROR(MakeRoom(chunk.used_bytes()));
  const std::string name = SegmentName(kind_, entries);
  {
    MutexLock lock(&mutex_);
    in_use_.insert(name);
  }
  absl::StatusOr<UniqueFd> fd = WriteSegment(directory_.get(), name, kind_, chunk, entries, stop);
  if (!fd.ok()) return fd;
  MutexLock lock(&mutex_);
  if (open_) AddSegment(name);
  return fd;
}

}  // namespace moepool
