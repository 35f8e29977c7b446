// See weight_cache.h.
#include "common/weights/weight_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
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
  cache->ReadIndex();
  return cache;
}

void WeightCache::ReadIndex() {
  MutexLock lock(&mutex_);
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
    std::string name;
  };
  std::vector<File> files;
  uint64_t kept = 0;
  for (const std::string& name : FileNames(directory_.get())) {
    struct stat info;
    if (!IsSegmentName(name)) continue;
    if (fstatat(directory_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    files.push_back({info.st_mtim, static_cast<uint64_t>(info.st_size), name});
    kept += files.back().bytes;
  }
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) {
    return std::tie(a.used.tv_sec, a.used.tv_nsec, a.name) < std::tie(b.used.tv_sec, b.used.tv_nsec, b.name);
  });
  const auto free_bytes = [&](uint64_t* reserve) {
    struct statvfs info;
    if (fstatvfs(directory_.get(), &info) != 0) return uint64_t{0};
    *reserve = static_cast<uint64_t>(options_.free_fraction * static_cast<double>(info.f_blocks) *
                                     static_cast<double>(info.f_frsize));
    return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  };
  uint64_t reserve = 0;
  const auto fits = [&] {
    const uint64_t free = free_bytes(&reserve);
    return kept <= options_.limit_bytes && bytes <= options_.limit_bytes - kept && free >= reserve &&
           bytes <= free - reserve;
  };
  MutexLock lock(&mutex_);
  for (const File& file : files) {
    if (fits()) return absl::OkStatus();
    if (in_use_.contains(file.name)) continue;
    unlinkat(directory_.get(), file.name.c_str(), 0);
    kept -= file.bytes;
  }
  if (fits()) return absl::OkStatus();
  return absl::ResourceExhaustedError(StrCat(bytes, " bytes of weights do not fit: ", kept,
                                             " of the limit of ", options_.limit_bytes,
                                             " bytes are in use, and ", free_bytes(&reserve),
                                             " bytes free on the disk, of which ", reserve, " stay so"));
}

absl::StatusOr<UniqueFd> WeightCache::Write(const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                            const std::function<bool()>& stop) {
  MOEPOOL_RETURN_IF_ERROR(MakeRoom(chunk.used_bytes()));
  const std::string name = SegmentName(kind_, entries);
  {
    MutexLock lock(&mutex_);
    in_use_.insert(name);
  }
  absl::StatusOr<UniqueFd> fd = WriteSegment(directory_.get(), name, kind_, chunk, entries, stop);
  if (!fd.ok()) return fd;
  MutexLock lock(&mutex_);
  AddSegment(name);
  return fd;
}

}  // namespace moepool
