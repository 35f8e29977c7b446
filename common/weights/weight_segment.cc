// See weight_segment.h.
#include "common/weights/weight_segment.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/weights/checksum.h"
#include "common/weights/partial_file.h"
#include "common/weights/segment_name.h"

namespace moepool {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'M', 'P', 'W', 'E', 'I', 'G', 'H', 'T'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kImageAlignment = 4096;
constexpr uint64_t kWriteBytes = uint64_t{8}
                                 << 20;  // a multiple of a huge page, so that the page cache may use them
constexpr uint64_t kReadBytes = uint64_t{512}
                                << 10;  // stays in the L2 cache between its copy and its checksum
constexpr uint64_t kMaxKeyBytes = 4096;
// Of a chunk in matrices of half a kilobyte each; it bounds what is read before the checksum is known.
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;

struct SegmentTrailer {
  char magic[8];
  uint32_t version;
  uint32_t layout;
  uint8_t model[32];
  uint64_t image_bytes;
  uint64_t index_bytes;
  uint64_t entries;
  uint64_t checksum;  // of the index, then of this trailer with 0 here
};
static_assert(sizeof(SegmentTrailer) == 80);

struct EntryHeader {
  uint64_t offset;
  uint64_t bytes;
  uint64_t checksum;
  uint64_t key_bytes;
};

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

uint64_t IndexChecksum(const std::string& index, SegmentTrailer trailer) {
  trailer.checksum = ChecksumOf(BytesOf(index));
  return ChecksumOf(std::as_bytes(std::span(&trailer, 1)));
}

std::string ChecksumMessage(const std::string& what, uint64_t got, uint64_t expected) {
  return absl::StrFormat("%s has checksum %016x, expected %016x", what, got, expected);
}

absl::Status WriteAt(const PartialFile& file, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(file.fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      const std::string what =
          StrCat("'", file.name(), "': cannot write ", bytes.size(), " bytes at offset ", offset);
      if (error == ENOSPC || error == EDQUOT)
        return absl::ResourceExhaustedError(what + ": the disk is full");
      return absl::ErrnoToStatus(error, what);
    }
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status ReadAt(const std::string& name, int fd, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::ErrnoToStatus(
          errno, StrCat("'", name, "': cannot read ", out.size(), " bytes at offset ", offset));
    }
    if (n == 0) {
      return absl::DataLossError(
          StrCat("'", name, "' ends at ", offset, ", expected ", out.size(), " more bytes"));
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteAll(const PartialFile& file, const SegmentKind& kind, const WeightChunk& chunk,
                      std::span<const WeightEntry> entries, absl::FunctionRef<bool()> stop) {
  const auto stopped = [&file] { return absl::CancelledError(StrCat("'", file.name(), "': stopped")); };
  const std::span<const std::byte> image(chunk.data(), chunk.used_bytes());
  for (uint64_t offset = 0; offset < image.size(); offset += kWriteBytes) {
    if (stop()) return stopped();
    MOEPOOL_RETURN_IF_ERROR(
        WriteAt(file, offset, image.subspan(offset, std::min<uint64_t>(kWriteBytes, image.size() - offset))));
  }
  std::string index;
  for (const WeightEntry& entry : entries) {
    if (stop()) return stopped();
    if (entry.key.size() > kMaxKeyBytes) {
      return absl::InvalidArgumentError(
          StrCat("'", file.name(), "': a key has ", entry.key.size(), " bytes, at most ", kMaxKeyBytes));
    }
    const EntryHeader header = {entry.offset, entry.bytes,
                                ChecksumOf(image.subspan(entry.offset, entry.bytes)), entry.key.size()};
    index.append(reinterpret_cast<const char*>(&header), sizeof header);
    index += entry.key;
  }
  if (index.size() > kMaxIndexBytes) {
    return absl::InvalidArgumentError(
        StrCat("'", file.name(), "': the index has ", index.size(), " bytes, at most ", kMaxIndexBytes));
  }
  SegmentTrailer trailer{};
  std::memcpy(trailer.magic, kMagic, sizeof kMagic);
  trailer.version = kVersion;
  trailer.layout = kind.layout;
  std::memcpy(trailer.model, kind.model.data(), sizeof trailer.model);
  trailer.image_bytes = RoundUp(image.size(), kImageAlignment);
  trailer.index_bytes = index.size();
  trailer.entries = entries.size();
  trailer.checksum = IndexChecksum(index, trailer);
  index.append(reinterpret_cast<const char*>(&trailer), sizeof trailer);
  return WriteAt(file, trailer.image_bytes, BytesOf(index));
}

// All entries of the index. DataLoss where it contradicts itself.
absl::StatusOr<std::vector<SegmentEntry>> ParseIndex(const std::string& name, const std::string& index,
                                                     const SegmentTrailer& trailer) {
  std::vector<SegmentEntry> entries;
  size_t at = 0;
  const auto damaged = [&](const std::string& what) {
    return absl::DataLossError(StrCat("'", name, "': entry ", entries.size(), " of the index ", what));
  };
  while (at < index.size()) {
    EntryHeader header;
    if (index.size() - at < sizeof header) {
      return damaged(StrCat("has ", sizeof header, " bytes, of which ", index.size() - at, " are there"));
    }
    std::memcpy(&header, index.data() + at, sizeof header);
    at += sizeof header;
    const uint64_t key_limit_bytes = std::min<uint64_t>(kMaxKeyBytes, index.size() - at);
    if (header.key_bytes > key_limit_bytes) {
      return damaged(StrCat("has a key of ", header.key_bytes, " bytes, at most ", key_limit_bytes));
    }
    if (header.offset > trailer.image_bytes || header.bytes > trailer.image_bytes - header.offset ||
        header.offset % WeightChunk::kAlignment != 0) {
      return damaged(StrCat("is ", header.bytes, " bytes at offset ", header.offset, " of ",
                            trailer.image_bytes, ", in multiples of ", WeightChunk::kAlignment));
    }
    entries.push_back({index.substr(at, header.key_bytes), header.offset, header.bytes, header.checksum});
    at += header.key_bytes;
  }
  if (entries.size() != trailer.entries) {
    return absl::DataLossError(
        StrCat("'", name, "': the index has ", entries.size(), " entries, expected ", trailer.entries));
  }
  return entries;
}

}  // namespace

absl::StatusOr<UniqueFd> WriteSegment(int directory, const std::string& name, const SegmentKind& kind,
                                      const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                      absl::FunctionRef<bool()> stop) {
  MOEPOOL_ASSIGN_OR_RETURN(PartialFile file, PartialFile::Create(directory, name));
  MOEPOOL_RETURN_IF_ERROR(WriteAll(file, kind, chunk, entries, stop));
  return std::move(file).Commit();
}

absl::StatusOr<std::shared_ptr<WeightSegment>> WeightSegment::Open(int directory, const std::string& name,
                                                                   const SegmentKind& kind) {
  MOEPOOL_ASSIGN_OR_RETURN(UniqueFd fd, OpenPrivateFile(directory, name));
  (void)flock(fd.get(),
              LOCK_SH | LOCK_NB);  // in use (LockUnused); who is just removing it may have it locked
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return absl::ErrnoToStatus(errno, StrCat("cannot stat '", name, "'"));
  const auto size = static_cast<uint64_t>(info.st_size);
  SegmentTrailer trailer;
  if (size < sizeof trailer) {
    return absl::DataLossError(
        StrCat("'", name, "' has ", size, " bytes, expected at least ", sizeof trailer));
  }
  MOEPOOL_RETURN_IF_ERROR(
      ReadAt(name, fd.get(), size - sizeof trailer, std::as_writable_bytes(std::span(&trailer, 1))));
  if (std::memcmp(trailer.magic, kMagic, sizeof kMagic) != 0) {
    return absl::DataLossError(StrCat("'", name, "' has no trailer at ", size - sizeof trailer));
  }
  if (trailer.version != kVersion) {
    return absl::FailedPreconditionError(
        StrCat("'", name, "' is of version ", trailer.version, ", expected ", kVersion));
  }
  const uint64_t room = size - sizeof trailer;
  if (trailer.image_bytes > room || trailer.index_bytes != room - trailer.image_bytes ||
      trailer.image_bytes % kImageAlignment != 0) {
    return absl::DataLossError(StrCat("'", name, "' has ", room, " bytes before its trailer, expected ",
                                      trailer.image_bytes, " of weights and ", trailer.index_bytes,
                                      " of index"));
  }
  if (trailer.index_bytes > kMaxIndexBytes || trailer.entries > trailer.index_bytes / sizeof(EntryHeader) ||
      trailer.index_bytes > trailer.entries * (sizeof(EntryHeader) + kMaxKeyBytes)) {
    return absl::DataLossError(StrCat("'", name, "' has an index of ", trailer.index_bytes, " bytes for ",
                                      trailer.entries, " entries, at most ", kMaxIndexBytes, " bytes, and ",
                                      sizeof(EntryHeader), " to ", sizeof(EntryHeader) + kMaxKeyBytes,
                                      " an entry"));
  }
  std::string index(trailer.index_bytes, '\0');
  MOEPOOL_RETURN_IF_ERROR(ReadAt(name, fd.get(), trailer.image_bytes,
                                 std::as_writable_bytes(std::span(index.data(), index.size()))));
  const uint64_t checksum = std::exchange(trailer.checksum, 0);
  if (const uint64_t got = IndexChecksum(index, trailer); got != checksum) {
    return absl::DataLossError(ChecksumMessage(StrCat("'", name, "': the index"), got, checksum));
  }
  SegmentKind found;
  std::memcpy(found.model.data(), trailer.model, sizeof trailer.model);
  found.layout = trailer.layout;
  if (!(found == kind)) {
    return absl::FailedPreconditionError(StrCat("'", name, "' has weights of '", SegmentPrefix(found),
                                                "', expected '", SegmentPrefix(kind), "'"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::vector<SegmentEntry> entries, ParseIndex(name, index, trailer));
  std::shared_ptr<WeightSegment> segment(new WeightSegment(name, std::move(fd), trailer.image_bytes));
  segment->entries_ = std::move(entries);
  return segment;
}

absl::Status WeightSegment::Check(const SegmentEntry& entry, uint64_t checksum) const {
  if (checksum == entry.checksum) return absl::OkStatus();
  return absl::DataLossError(ChecksumMessage(
      StrCat("'", name_, "': ", entry.key, ", ", entry.bytes, " bytes at offset ", entry.offset, ","),
      checksum, entry.checksum));
}

absl::Status WeightSegment::Read(const SegmentEntry& entry, std::byte* to) const {
  Checksum checksum;
  for (uint64_t done = 0; done < entry.bytes;) {
    const std::span<std::byte> piece(to + done, std::min(kReadBytes, entry.bytes - done));
    MOEPOOL_RETURN_IF_ERROR(ReadAt(name_, fd_.get(), entry.offset + done, piece));
    checksum.Update(piece);
    done += piece.size();
  }
  return Check(entry, checksum.Value());
}

absl::StatusOr<std::shared_ptr<const std::byte>> WeightSegment::Map(const SegmentEntry& entry) {
  std::shared_ptr<const std::byte> image;
  {
    MutexLock lock(&mutex_);
    image = image_.lock();
    if (image == nullptr) {
      // At a multiple of a huge page: a place of the right size first, then the file over it.
      MOEPOOL_ASSIGN_OR_RETURN(const std::shared_ptr<WeightChunk> chunk, WeightChunk::Create(image_bytes_));
      if (mmap(chunk->data(), image_bytes_, PROT_READ, MAP_SHARED | MAP_FIXED, fd_.get(), 0) == MAP_FAILED) {
        return absl::ErrnoToStatus(errno, StrCat("'", name_, "': cannot map ", image_bytes_, " bytes"));
      }
      (void)madvise(chunk->data(), image_bytes_, MADV_HUGEPAGE);
      image = std::shared_ptr<const std::byte>(chunk, chunk->data());
      image_ = image;
    }
  }
  const std::byte* const bytes = image.get() + entry.offset;
  MOEPOOL_RETURN_IF_ERROR(Check(entry, ChecksumOf({bytes, entry.bytes})));
  return std::shared_ptr<const std::byte>(image, bytes);
}

}  // namespace moepool
