// The carrier of `moepool serve` and of tests: the worker's handler runs in the sender's thread, and its
// replies wait in the inbox until they are received.
#pragma once

#include <memory>

#include "common/transport/expert_transport.h"
#include "common/transport/reply_inbox.h"

namespace moepool {

// `handler` is called by one thread at a time and must outlive the transport. Send returns when it has
// returned, so a deadline bounds the wait for it but not the handler's own work.
std::unique_ptr<ExpertTransport> MakeInProcessTransport(FrameHandler handler,
                                                        const TransportOptions& options = {});

}  // namespace moepool
