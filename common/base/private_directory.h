// Directories of one user's caches: made with mode 0700, and used only while they are that user's alone to
// write, so that nobody else can put a file there.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace moepool {

// ${XDG_CACHE_HOME:-~/.cache}/moepool/`name`; empty where the environment names no place for it.
std::string UserCachePath(std::string_view name);

// Creates `path` and its parents with mode 0700 and opens it. FailedPrecondition where it is a link, no
// directory, another user's, or open to others' writes; the error of the system where it cannot be made.
absl::StatusOr<UniqueFd> OpenPrivateDirectory(const std::string& path);

// Opens a file of that directory for reading. FailedPrecondition where it is a link, no regular file, another
// user's, or open to others' writes; NotFound.
absl::StatusOr<UniqueFd> OpenPrivateFile(int directory, const std::string& name);

}  // namespace moepool
