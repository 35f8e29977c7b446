// nccl_device.h over the CUDA runtime.
#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/transport/nccl_device.h"

namespace moepool {
namespace {

absl::Status Checked(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // clears it for the next caller
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::UnavailableError(message);
}

class CudaNcclStream final : public NcclStream {
 public:
  explicit CudaNcclStream(int ordinal) : ordinal_(ordinal) {}
  ~CudaNcclStream() override {
    cudaSetDevice(ordinal_);
    if (stream_ != nullptr) {
      cudaStreamSynchronize(stream_);
      cudaStreamDestroy(stream_);
    }
    if (mark_ != nullptr) cudaEventDestroy(mark_);
  }

  absl::Status Open() {
    if (absl::Status status = Checked(cudaSetDevice(ordinal_), "cudaSetDevice"); !status.ok()) return status;
    // Above what computes, since others wait for a transfer, and without the default stream's order.
    int least = 0;
    int greatest = 0;
    cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (absl::Status status = Checked(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
                                      "cudaStreamCreateWithPriority");
        !status.ok()) {
      return status;
    }
    return Checked(cudaEventCreateWithFlags(&mark_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }

  void* handle() override { return stream_; }
  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    if (absl::Status status = Checked(cudaSetDevice(ordinal_), "cudaSetDevice"); !status.ok()) return status;
    return Checked(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
  }
  absl::Status Mark() override { return Checked(cudaEventRecord(mark_, stream_), "cudaEventRecord"); }
  absl::StatusOr<bool> Reached() override {
    const cudaError_t error = cudaEventQuery(mark_);
    if (error == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    if (absl::Status status = Checked(error, "cudaEventQuery"); !status.ok()) return status;
    return true;
  }

 private:
  const int ordinal_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t mark_ = nullptr;
};

class CudaNcclDevice final : public NcclDevice {
 public:
  explicit CudaNcclDevice(int ordinal) : ordinal_(ordinal) {}

  absl::Status Bind() override { return Checked(cudaSetDevice(ordinal_), "cudaSetDevice"); }

  absl::StatusOr<std::unique_ptr<NcclStream>> NewStream() override {
    auto stream = std::make_unique<CudaNcclStream>(ordinal_);
    if (absl::Status status = stream->Open(); !status.ok()) return status;
    return std::unique_ptr<NcclStream>(std::move(stream));
  }

  absl::StatusOr<NcclBuffer> Allocate(size_t bytes, bool with_host) override {
    if (absl::Status status = Bind(); !status.ok()) return status;
    NcclBuffer buffer;
    buffer.bytes = bytes;
    const std::string what = absl::StrCat("staging of ", bytes, " bytes");
    void* memory = nullptr;
    if (with_host) {
      const absl::Status host = Checked(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), what.c_str());
      if (!host.ok()) return host;
      buffer.host = static_cast<uint8_t*>(memory);
    }
    const absl::Status device = Checked(cudaMalloc(&memory, bytes), what.c_str());
    if (!device.ok()) {
      if (buffer.host != nullptr) cudaFreeHost(buffer.host);
      return device;
    }
    buffer.device = static_cast<uint8_t*>(memory);
    return buffer;
  }

  void Free(const NcclBuffer& buffer) override {
    cudaSetDevice(ordinal_);
    cudaFree(buffer.device);
    if (buffer.host != nullptr) cudaFreeHost(buffer.host);
  }

 private:
  const int ordinal_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclDevice>> MakeCudaNcclDevice(int ordinal) {
  auto device = std::make_unique<CudaNcclDevice>(ordinal);
  if (absl::Status status = device->Bind(); !status.ok()) return status;
  return std::unique_ptr<NcclDevice>(std::move(device));
}

}  // namespace moepool
