#include "common/transport/shared_memory_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/transport/unix_address.h"

namespace moepool {
namespace {

constexpr uint32_t kMagic = 0x314D4853;  // "SHM1"
constexpr absl::Duration kHandshakeLimit = absl::Seconds(2);

struct DialMessage {
  uint32_t magic = kMagic;
  char session[64] = {};
};
struct SegmentMessage {
  uint32_t magic = kMagic;
  uint32_t accepted = 0;
  uint64_t ring_bytes = 0;
};

absl::Status Failed(const std::string& what) {
  if (errno == EAGAIN || errno == EWOULDBLOCK)
    return absl::DeadlineExceededError(StrCat(what, ": timed out"));
  return absl::UnavailableError(StrCat(what, ": ", std::strerror(errno)));
}

void LimitBlocking(int fd, absl::Duration limit) {
  const timeval time = absl::ToTimeval(limit);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

// PermissionDenied unless the peer's user is ours. The pidfd is left out where the peer's process is not
// visible from this pid namespace; the socket's end tells the same, only less directly.
absl::Status CheckPeer(int fd, UniqueFd* pidfd) {
  ucred peer;
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return Failed("SO_PEERCRED");
  if (peer.uid != geteuid()) {
    return absl::PermissionDeniedError(
        StrCat("shared memory: peer has user id ", peer.uid, ", expected ", geteuid()));
  }
  if (peer.pid > 0) *pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
  return absl::OkStatus();
}

template <typename T>
absl::Status ReceiveAll(int fd, T* message) {
  const ssize_t n = recv(fd, message, sizeof(T), MSG_WAITALL);
  if (n == static_cast<ssize_t>(sizeof(T))) return absl::OkStatus();
  if (n < 0) return Failed("shared memory socket");
  return absl::UnavailableError(
      StrCat("shared memory socket: ", n, " of ", sizeof(T), " bytes, then its end"));
}

template <typename T>
absl::Status SendAll(int fd, const T& message) {
  if (send(fd, &message, sizeof(T), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(T))) return absl::OkStatus();
  return Failed("shared memory socket");
}

union FdControl {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int))];
};

absl::Status SendSegment(int socket, const SharedMemorySegment& segment) {
  SegmentMessage message;
  message.accepted = 1;
  message.ring_bytes = segment.ring_bytes();
  iovec part{&message, sizeof(message)};
  FdControl control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = segment.fd();
  std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  if (sendmsg(socket, &header, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(message))) {
    return Failed("shared memory socket");
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ReceiveSegment(int socket, SegmentMessage* message) {
  iovec part{message, sizeof(*message)};
  FdControl control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  const ssize_t n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  if (n < 0) return Failed("shared memory socket");
  UniqueFd fd;
  const cmsghdr* rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
      rights->cmsg_len == CMSG_LEN(sizeof(int))) {
    int received;
    std::memcpy(&received, CMSG_DATA(rights), sizeof(received));
    fd = UniqueFd(received);
  }
  if (n != static_cast<ssize_t>(sizeof(*message)) || message->magic != kMagic) {
    return absl::UnavailableError("shared memory socket: no segment came");
  }
  if (message->accepted != 1 || !fd.valid()) {
    return absl::PermissionDeniedError("shared memory: the router does not expect this session");
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemorySocket>> SharedMemorySocket::Listen(uint64_t ring_bytes,
                                                                               Callbacks callbacks,
                                                                               const std::string& directory) {
  std::unique_ptr<SharedMemorySocket> socket(new SharedMemorySocket);
  socket->ring_bytes_ = ring_bytes;
  socket->callbacks_ = std::move(callbacks);
  MOEPOOL_ASSIGN_OR_RETURN(socket->name_, NewSocketName(directory));
  MOEPOOL_ASSIGN_OR_RETURN(const UnixAddress address, ToUnixAddress(directory, socket->name_));
  socket->listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket->listener_.valid()) return Failed("UNIX socket");
  MOEPOOL_RETURN_IF_ERROR(ListenAt(socket->listener_.get(), directory, address));
  if (!directory.empty()) socket->path_ = address.text;
  socket->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!socket->stop_.valid()) return Failed("eventfd");
  socket->thread_ = std::thread([raw = socket.get()] { raw->Loop(); });
  return socket;
}

SharedMemorySocket::~SharedMemorySocket() {
  if (!path_.empty()) unlink(path_.c_str());
  if (!thread_.joinable()) return;
  eventfd_write(stop_.get(), 1);
  thread_.join();
}

void SharedMemorySocket::Loop() {
  for (;;) {
    pollfd fds[] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    UniqueFd accepted(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (accepted.valid()) Handshake(std::move(accepted));
  }
}

void SharedMemorySocket::Handshake(UniqueFd socket) {
  SharedMemoryConnection connection;
  // Strangers are turned away before a byte of theirs is read.
  if (!CheckPeer(socket.get(), &connection.peer.pidfd).ok()) return;
  LimitBlocking(socket.get(), kHandshakeLimit);
  DialMessage dial;
  if (!ReceiveAll(socket.get(), &dial).ok() || dial.magic != kMagic) return;
  const std::string session(dial.session, strnlen(dial.session, sizeof(dial.session)));
  if (!callbacks_.expected(session)) {
    SendAll(socket.get(), SegmentMessage{}).IgnoreError();
    return;
  }
  absl::StatusOr<std::unique_ptr<SharedMemorySegment>> segment = SharedMemorySegment::Create(ring_bytes_);
  if (!segment.ok() || !SendSegment(socket.get(), **segment).ok()) return;
  uint32_t mapped = 0;
  if (!ReceiveAll(socket.get(), &mapped).ok() || mapped != kMagic) return;
  connection.segment = *std::move(segment);
  connection.peer.socket = std::move(socket);
  callbacks_.connected(session, std::move(connection));
}

absl::StatusOr<SharedMemoryConnection> DialSharedMemory(const std::string& name, const std::string& session,
                                                        absl::Duration limit, const std::string& directory) {
  DialMessage dial;
  if (session.size() > sizeof(dial.session)) {
    return absl::InvalidArgumentError(
        StrCat("shared memory: session of ", session.size(), " bytes, at most ", sizeof(dial.session)));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const UnixAddress address, ToUnixAddress(directory, name));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Failed("UNIX socket");
  LimitBlocking(socket.get(), limit);
  if (connect(socket.get(), address.get(), address.bytes) != 0) {
    return Failed(StrCat("UNIX socket ", address.text));
  }
  SharedMemoryConnection connection;
  MOEPOOL_RETURN_IF_ERROR(CheckPeer(socket.get(), &connection.peer.pidfd));
  std::memcpy(dial.session, session.data(), session.size());
  MOEPOOL_RETURN_IF_ERROR(SendAll(socket.get(), dial));
  SegmentMessage message;
  MOEPOOL_ASSIGN_OR_RETURN(UniqueFd fd, ReceiveSegment(socket.get(), &message));
  MOEPOOL_ASSIGN_OR_RETURN(connection.segment, SharedMemorySegment::Open(std::move(fd), message.ring_bytes));
  MOEPOOL_RETURN_IF_ERROR(SendAll(socket.get(), kMagic));
  connection.peer.socket = std::move(socket);
  return connection;
}

}  // namespace moepool
