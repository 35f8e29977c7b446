// Where the router's UNIX socket for shared memory is: an abstract name, or a file in a directory that
// containers of one host share.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moepool {

struct UnixAddress {
  sockaddr_un address{};
  socklen_t bytes = 0;
  std::string text;  // for people: the path, or @name

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

// `directory` empty: the abstract `name`, which is that of a network namespace. Otherwise the file `name` in
// the directory. InvalidArgument where the name is empty, leads out of the directory or is too long for a
// socket, or where the name is a file's and there is no directory.
absl::StatusOr<UnixAddress> ToUnixAddress(const std::string& directory, const std::string& name);

// A name that no other router has, for ToUnixAddress with the same `directory`.
absl::StatusOr<std::string> NewSocketName(const std::string& directory);

// Binds `socket`, for this user alone where it is a file, and listens. Removes what routers that were killed
// have left in the directory. Unavailable, with the address and what the system says.
absl::Status ListenAt(int socket, const std::string& directory, const UnixAddress& address);

}  // namespace moepool
