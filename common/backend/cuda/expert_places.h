// Which experts lie on the device and which in page-locked memory of the host. They come to lie where there
// is room when they are loaded; what they are used for shows later. Uses are counted, and an expert of the
// host's that is used far more than one of the device's changes places with it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/backend/backend.h"
#include "common/backend/cuda/device.h"
#include "common/backend/cuda/expert_cache.h"
#include "common/base/mutex.h"

namespace moepool {

class CudaMatrix;

// What an exchange is decided by.
struct ExpertUse {
  uint64_t id = 0;
  std::array<uint64_t, 3> bytes = {};  // of gate, up and down
  uint64_t uses = 0;                   // of late
  bool on_host = false;
  bool copied = false;  // of those of the host: a copy is on the device
};

struct ExpertExchange {
  uint64_t hot = 0;   // copied, of the host's
  uint64_t cold = 0;  // of the device's, and of the same bytes
};

// Of pairs of the same bytes the one whose uses lie furthest apart; none where `hot` has not twice the uses
// of `cold` and kClearly on top, so that the two do not change back and forth.
std::optional<ExpertExchange> ChooseExchange(std::span<const ExpertUse> experts);

inline constexpr uint64_t kClearly = 8;
// An exchange is looked for once in as many calls. A prime, so that all layers of a model have their turn.
inline constexpr uint64_t kCallsALook = 61;
// Uses count half after as many calls: a minute or so of a busy worker.
inline constexpr uint64_t kCallsHalved = uint64_t{1} << 16;

// One caller at a time, who holds the context's mutex, but for Forget().
class ExpertPlaces {
 public:
  ExpertPlaces(Device* device, ExpertCache* cache) : device_(*device), cache_(*cache) {}

  // A call begins, of a layer's `experts`; null where one is not loaded. All that are loaded stay so until
  // the call's Exchange().
  void Begin(std::span<const ExpertWeights* const> experts);
  // Counts a use. Where kernels are to read it; one that is `late` by those alone that are queued after
  // Device::StreamAfterAside().
  PlacedExpert Use(const ExpertWeights& expert);
  // The stream has been told to wait for all copies aside that there are.
  void Awaited() { arriving_ = {}; }
  // The kernels of the call are queued: two experts may change places now, aside. Nothing waits for that.
  void Exchange();

  // The matrix ends. Thread-safe.
  void Forget(const CudaMatrix& matrix);

  uint64_t exchanges() const { return exchanges_; }

 private:
  struct Entry {
    std::array<CudaMatrix*, 3> matrices = {};
    uint64_t uses = 0;
  };
  Entry& Know(const ExpertWeights& expert) REQUIRES(mutex_);

  Device& device_;
  ExpertCache& cache_;
  uint64_t calls_ = 0;
  ExpertExchange arriving_;  // the last, where the stream has not been told to wait for it
  uint64_t exchanges_ = 0;
  // Held while a matrix may not end, and guards CudaMatrix::expert_.
  Mutex mutex_;
  std::unordered_map<uint64_t, Entry> known_ GUARDED_BY(mutex_);  // by the id of gate
  std::vector<ExpertUse> uses_;
};

}  // namespace moepool
