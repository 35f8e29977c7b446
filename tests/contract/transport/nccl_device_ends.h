// Ends of the NCCL transport whose frames have their ends in device memory wherever they have any, for suites
// that know frames in the host's memory alone. The stand-in's device memory is the host's.
#pragma once

#include <memory>

#include "common/transport/nccl_transport.h"

namespace moepool {

// `transport`, whose queue keeps on the device.
std::shared_ptr<ExpertTransport> SendsFromDevice(std::shared_ptr<ExpertTransport> transport);
DeviceFrameHandler AnswersFromDevice(FrameHandler handler);

}  // namespace moepool
