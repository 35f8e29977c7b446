// Which machine a process runs on, whatever the network calls it.
#pragma once

#include <string>

namespace moepool {

// Boot id and host name: equal for processes of one boot of one machine that share a host name. A hint for
// choosing shared memory, which proves itself when it is set up.
std::string HostId();

// "host:pid", for people.
std::string ProcessName();

}  // namespace moepool
