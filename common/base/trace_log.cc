#include "common/base/trace_log.h"

#include "common/base/log.h"
#include "common/base/str.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<TraceSession>> StartTrace(const std::string& path,
                                                         const std::string& process) {
  TraceOptions options;
  options.path = path;
  options.process = process;
  options.on_end = [](const absl::Status& cause) {
    Log(LogLevel::kWarning, "tracing has ended", {{"cause", ToStd(cause.message())}});
  };
  return TraceSession::Start(options);
}

}  // namespace moepool
