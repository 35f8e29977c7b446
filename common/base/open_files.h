#pragma once

namespace moepool {

// Lets the process have as many open files and connections as the system allows it: the usual limit of 1,024
// is there for programs that call select(). At the beginning of main().
void AllowOpenFiles();

}  // namespace moepool
