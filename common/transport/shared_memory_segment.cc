#include "common/transport/shared_memory_segment.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr uint64_t kControlBytes = 4096;  // both RingControls
constexpr uint64_t kMaxRingBytes = uint64_t{1} << 30;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
static_assert(2 * sizeof(RingControl) <= kControlBytes);

absl::Status Failed(const char* what) {
  return absl::UnavailableError(StrCat("shared memory: ", what, ": ", std::strerror(errno)));
}

absl::Status CheckRingBytes(uint64_t ring_bytes) {
  if (std::has_single_bit(ring_bytes) && ring_bytes >= 4096 && ring_bytes <= kMaxRingBytes)
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("shared memory: ring of ", ring_bytes, " bytes; a power of two from 4096 to ", kMaxRingBytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemorySegment>> SharedMemorySegment::Create(uint64_t ring_bytes) {
  MOEPOOL_RETURN_IF_ERROR(CheckRingBytes(ring_bytes));
  std::unique_ptr<SharedMemorySegment> segment(new SharedMemorySegment);
  segment->ring_bytes_ = ring_bytes;
  segment->fd_ = UniqueFd(memfd_create("moepool-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!segment->fd_.valid()) return Failed("memfd_create");
  if (ftruncate(segment->fd(), static_cast<off_t>(kControlBytes + 2 * ring_bytes)) != 0)
    return Failed("ftruncate");
  // A size that can change would let the other side turn an access into SIGBUS.
  if (fcntl(segment->fd(), F_ADD_SEALS, kSeals) != 0) return Failed("sealing");
  MOEPOOL_RETURN_IF_ERROR(segment->Map());
  return segment;
}

absl::StatusOr<std::unique_ptr<SharedMemorySegment>> SharedMemorySegment::Open(UniqueFd fd,
                                                                               uint64_t ring_bytes) {
  MOEPOOL_RETURN_IF_ERROR(CheckRingBytes(ring_bytes));
  std::unique_ptr<SharedMemorySegment> segment(new SharedMemorySegment);
  segment->fd_ = std::move(fd);
  segment->ring_bytes_ = ring_bytes;
  const int seals = fcntl(segment->fd(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError(StrCat("shared memory: seals are ", seals, ", needed ", kSeals));
  }
  struct stat info;
  if (fstat(segment->fd(), &info) != 0) return Failed("fstat");
  if (static_cast<uint64_t>(info.st_size) != kControlBytes + 2 * ring_bytes) {
    return absl::InvalidArgumentError(
        StrCat("shared memory: size is ", info.st_size, ", expected ", kControlBytes + 2 * ring_bytes));
  }
  MOEPOOL_RETURN_IF_ERROR(segment->Map());
  return segment;
}

absl::Status SharedMemorySegment::Map() {
  void* base = mmap(nullptr, kControlBytes + 2 * ring_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
  if (base == MAP_FAILED) return Failed("mmap");
  base_ = static_cast<uint8_t*>(base);
  return absl::OkStatus();
}

SharedMemorySegment::~SharedMemorySegment() {
  if (base_ != nullptr) munmap(base_, kControlBytes + 2 * ring_bytes_);
}

uint8_t* SharedMemorySegment::to_worker_data() const { return base_ + kControlBytes; }
uint8_t* SharedMemorySegment::to_router_data() const { return base_ + kControlBytes + ring_bytes_; }

bool Peer::Alive() const {
  pollfd fds[] = {{socket.get(), POLLIN, 0}, {pidfd.get(), POLLIN, 0}};  // a negative descriptor is skipped
  // The socket carries nothing after the handshake, so anything to read is its end.
  return poll(fds, 2, 0) <= 0;
}

void Peer::HangUp() const { shutdown(socket.get(), SHUT_RDWR); }

}  // namespace moepool
