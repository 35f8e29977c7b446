// The processors that this process may run on, which on a shared or partitioned machine are not all of it.
#pragma once

#include <vector>

namespace moepool {

// Their numbers, ascending, for the calling thread; empty where the system does not say.
std::vector<int> AllowedProcessors();

// How many there are, at least 1.
int ProcessorCount();

// Whether they are all that the machine has online.
bool AllProcessorsAllowed();

}  // namespace moepool
