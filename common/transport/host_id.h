// Which machine a process runs on, whatever the network calls it.
#pragma once

#include <string>

namespace moepool {

// Boot id and host name: equal for processes of one boot of one machine that share a host name. With a
// `shared_directory`, boot id and the directory's device and inode instead: equal for containers that share
// it, whatever name and path it has in each. A hint for choosing shared memory, which proves itself when it
// is set up.
std::string HostId(const std::string& shared_directory = "");

// "host:pid", for people.
std::string ProcessName();

}  // namespace moepool
