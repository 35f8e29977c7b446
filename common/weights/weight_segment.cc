// See weight_segment.h.
#include "common/weights/weight_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/weights/checksum.h"
#include "common/weights/partial_file.h"

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

absl::Status WriteAt(int fd, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
      return absl::ResourceExhaustedError("the disk is full");
    if (n < 0) return absl::ErrnoToStatus(errno, "cannot write");
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status ReadAt(int fd, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "cannot read");
    if (n == 0) return absl::DataLossError(StrCat("ends at ", offset));
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, const SegmentKind& kind, const WeightChunk& chunk,
                      std::span<const WeightEntry> entries, const std::function<bool()>& stop) {
  const std::span<const std::byte> image(chunk.data(), chunk.used_bytes());
  for (uint64_t offset = 0; offset < image.size(); offset += kWriteBytes) {
    if (stop()) return absl::CancelledError("stopped");
    MOEPOOL_RETURN_IF_ERROR(
        WriteAt(fd, offset, image.subspan(offset, std::min<uint64_t>(kWriteBytes, image.size() - offset))));
  }
  std::string index;
  for (const WeightEntry& entry : entries) {
    if (stop()) return absl::CancelledError("stopped");
    const EntryHeader header = {entry.offset, entry.bytes,
                                ChecksumOf(image.subspan(entry.offset, entry.bytes)), entry.key.size()};
    index.append(reinterpret_cast<const char*>(&header), sizeof header);
    index += entry.key;
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
  return WriteAt(fd, trailer.image_bytes, BytesOf(index));
}

// All entries of the index, or nothing where it contradicts itself.
std::optional<std::vector<SegmentEntry>> ParseIndex(const std::string& index, const SegmentTrailer& trailer) {
  std::vector<SegmentEntry> entries;
  size_t at = 0;
  while (at < index.size()) {
    EntryHeader header;
    if (index.size() - at < sizeof header) return std::nullopt;
    std::memcpy(&header, index.data() + at, sizeof header);
    at += sizeof header;
    if (header.key_bytes > kMaxKeyBytes || header.key_bytes > index.size() - at) return std::nullopt;
    if (header.offset > trailer.image_bytes || header.bytes > trailer.image_bytes - header.offset ||
        header.offset % WeightChunk::kAlignment != 0) {
      return std::nullopt;
    }
    entries.push_back({index.substr(at, header.key_bytes), header.offset, header.bytes, header.checksum});
    at += header.key_bytes;
  }
  if (entries.size() != trailer.entries) return std::nullopt;
  return entries;
}

}  // namespace

absl::StatusOr<UniqueFd> WriteSegment(int directory, const std::string& name, const SegmentKind& kind,
                                      const WeightChunk& chunk, std::span<const WeightEntry> entries,
                                      const std::function<bool()>& stop) {
  MOEPOOL_ASSIGN_OR_RETURN(PartialFile file, PartialFile::Create(directory, name));
  MOEPOOL_RETURN_IF_ERROR(WriteAll(file.fd(), kind, chunk, entries, stop));
  return std::move(file).Commit();
}

absl::StatusOr<std::shared_ptr<WeightSegment>> WeightSegment::Open(int directory, const std::string& name,
                                                                   const SegmentKind& kind) {
  MOEPOOL_ASSIGN_OR_RETURN(UniqueFd fd, OpenPrivateFile(directory, name));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return absl::ErrnoToStatus(errno, StrCat("cannot stat '", name, "'"));
  const auto size = static_cast<uint64_t>(info.st_size);
  SegmentTrailer trailer;
  if (size < sizeof trailer) return absl::DataLossError(StrCat("has ", size, " bytes"));
  MOEPOOL_RETURN_IF_ERROR(
      ReadAt(fd.get(), size - sizeof trailer, std::as_writable_bytes(std::span(&trailer, 1))));
  if (std::memcmp(trailer.magic, kMagic, sizeof kMagic) != 0) return absl::DataLossError("has no trailer");
  if (trailer.version != kVersion) {
    return absl::FailedPreconditionError(StrCat("is of version ", trailer.version, ", expected ", kVersion));
  }
  const uint64_t room = size - sizeof trailer;
  if (trailer.image_bytes > room || trailer.index_bytes != room - trailer.image_bytes ||
      trailer.image_bytes % kImageAlignment != 0) {
    return absl::DataLossError(StrCat("names ", trailer.image_bytes, " bytes of weights and ",
                                      trailer.index_bytes, " of index, and has ", size));
  }
  std::string index(trailer.index_bytes, '\0');
  MOEPOOL_RETURN_IF_ERROR(
      ReadAt(fd.get(), trailer.image_bytes, std::as_writable_bytes(std::span(index.data(), index.size()))));
  const uint64_t checksum = std::exchange(trailer.checksum, 0);
  if (IndexChecksum(index, trailer) != checksum) return absl::DataLossError("has a damaged index");
  SegmentKind found;
  std::memcpy(found.model.data(), trailer.model, sizeof trailer.model);
  found.layout = trailer.layout;
  if (!(found == kind)) return absl::FailedPreconditionError("is of another model or layout");
  std::optional<std::vector<SegmentEntry>> entries = ParseIndex(index, trailer);
  if (!entries.has_value()) return absl::DataLossError("has an index that contradicts itself");
  std::shared_ptr<WeightSegment> segment(new WeightSegment(name, std::move(fd), trailer.image_bytes));
  segment->entries_ = *std::move(entries);
  return segment;
}

absl::Status WeightSegment::Read(const SegmentEntry& entry, std::byte* to) const {
  Checksum checksum;
  for (uint64_t done = 0; done < entry.bytes;) {
    const std::span<std::byte> piece(to + done, std::min(kReadBytes, entry.bytes - done));
    MOEPOOL_RETURN_IF_ERROR(ReadAt(fd_.get(), entry.offset + done, piece));
    checksum.Update(piece);
    done += piece.size();
  }
  if (checksum.Value() != entry.checksum)
    return absl::DataLossError(StrCat(entry.key, " fails its checksum"));
  return absl::OkStatus();
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
        return absl::ErrnoToStatus(errno, StrCat("cannot map ", image_bytes_, " bytes"));
      }
      (void)madvise(chunk->data(), image_bytes_, MADV_HUGEPAGE);
      image = std::shared_ptr<const std::byte>(chunk, chunk->data());
      image_ = image;
    }
  }
  const std::byte* const bytes = image.get() + entry.offset;
  if (ChecksumOf({bytes, entry.bytes}) != entry.checksum) {
    return absl::DataLossError(StrCat(entry.key, " fails its checksum"));
  }
  return std::shared_ptr<const std::byte>(image, bytes);
}

}  // namespace moepool
