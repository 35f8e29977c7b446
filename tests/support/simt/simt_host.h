// What common/kernels/cuda/simt.h means on the host: a block's threads are fibers of one thread of the
// process, blocks run one after another. Each array of shared memory is a heap block of its own, filled with
// a pattern at the start of each block, so that AddressSanitizer sees its bounds and nothing stands in it by
// luck. Not a model of speed, nor of memory order: races show as results that differ between Orders.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#ifndef SIMT_TARGET  // tests give altered copies of kernels other names
#define SIMT_TARGET emulated
#endif
#define SIMT_KERNEL [[maybe_unused]] void
#define SIMT_ARGS const
#define SIMT_DEVICE inline
#define SIMT_UNROLL
#define SIMT_SHARED(type, name, count) \
  static const char name##_site = 0;   \
  auto& name = *static_cast<type(*)[count]>(::moepool::simt::SharedAt(&name##_site, sizeof(type) * (count)))
#define SIMT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::moepool::simt::DynamicShared())

namespace moepool::simt {

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
};

// In which order fibers that may run do.
enum class Order { kAscending, kDescending, kShuffled };

struct LaunchOptions {
  Dim3 grid = {};
  Dim3 block = {};  // at most 1024 threads
  size_t dynamic_shared_bytes = 0;
  Order order = Order::kAscending;
  uint32_t seed = 1;  // of kShuffled
};

// Runs `kernel` once a thread of the grid. Empty, or what went wrong in the first block where something did:
//   a thread waits at a barrier or a warp's operation that some thread named by it never reaches;
//   a lane takes part in a warp's operation whose mask leaves it out, or shuffles from a lane left out;
//   lanes of a mask meet in different operations.
// The threads of that block are given up where they stand: nothing on their stacks is destroyed. Not
// re-entrant, one caller in the process at a time.
std::string Launch(const LaunchOptions& options, const std::function<void()>& kernel);

}  // namespace moepool::simt

// Of the fiber that runs.
extern moepool::simt::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace moepool::simt {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

struct alignas(16) Vector16 {
  uint32_t x, y, z, w;
};
struct alignas(8) Vector8 {
  uint32_t x, y;
};

// --- What fibers wait in (simt_host.cc) ---

enum class Operation { kSyncThreads, kSyncWarp, kShuffle, kVote, kMatrix };

void* SharedAt(const void* site, size_t bytes);
void* DynamicShared();
void SyncThreads();
// A meeting of the lanes of `mask`. kShuffle: the value of lane `source`. kVote: the lanes with value != 0.
// kMatrix: `value` is the address of the lane's MatrixLane.
uint64_t Meet(Operation operation, uint32_t mask, uint64_t value, int source);
int Lane();

struct MatrixLane {
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
  int32_t* d;         // [4]
};
inline void MultiplyBytes(const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t (&d)[4]) {
  const MatrixLane lane = {a, b, d};
  Meet(Operation::kMatrix, kAllLanes, reinterpret_cast<uint64_t>(&lane), 0);
}

inline void SyncWarp(uint32_t mask) { Meet(Operation::kSyncWarp, mask, 0, 0); }

template <typename T>
T Shuffle(uint32_t mask, T value, int lane) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = Meet(Operation::kShuffle, mask, bits, lane & (kWarp - 1));
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
T ShuffleXor(uint32_t mask, T value, int lanes) {
  return Shuffle(mask, value, Lane() ^ lanes);
}
template <typename T>
T ShuffleUp(uint32_t mask, T value, int lanes) {
  return Shuffle(mask, value, Lane() < lanes ? Lane() : Lane() - lanes);
}
inline uint32_t Ballot(uint32_t mask, bool predicate) {
  return static_cast<uint32_t>(Meet(Operation::kVote, mask, predicate, 0));
}
inline bool Any(uint32_t mask, bool predicate) { return Ballot(mask, predicate) != 0; }
inline bool All(uint32_t mask, bool predicate) { return Ballot(mask, predicate) == mask; }

// --- What runs through ---

inline int32_t AtomicAdd(int32_t* p, int32_t value) {
  const int32_t old = *p;
  *p = static_cast<int32_t>(static_cast<uint32_t>(old) + static_cast<uint32_t>(value));
  return old;
}
inline void AtomicAdd(uint64_t* p, uint64_t value) { *p += value; }
inline int32_t AtomicOr(int32_t* p, int32_t value) {
  const int32_t old = *p;
  *p = old | value;
  return old;
}
// c + the sum of products of four signed bytes.
inline int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}
inline uint32_t PickBytes(uint32_t low, uint32_t high, uint32_t nibbles) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t picked = 0;
  for (int i = 0; i < 4; ++i)
    picked |= static_cast<uint32_t>(bytes >> 8 * (nibbles >> 4 * i & 7) & 0xff) << 8 * i;
  return picked;
}
inline uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int Popcount(uint32_t v) { return std::popcount(v); }
inline int BitWidth(uint32_t v) { return std::bit_width(v); }
inline float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float Divide(float a, float b) { return a / b; }
inline float SquareRoot(float a) { return __builtin_sqrtf(a); }
inline float BitsFloat(uint32_t v) { return std::bit_cast<float>(v); }
inline uint32_t FloatBits(float v) { return std::bit_cast<uint32_t>(v); }
// IEEE 754, nearest even, subnormals included; past the range to infinity. A NaN stays one.
inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) {
    const uint32_t quiet = magnitude > 0x7c00 ? 0x400000u : 0u;
    return BitsFloat(sign | 0x7f800000u | quiet | (magnitude & 0x3ff) << 13);
  }
  if (magnitude < 0x400) {  // subnormal: magnitude * 2^-24, exact
    return BitsFloat(sign | FloatBits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f));
  }
  return BitsFloat(sign | ((magnitude << 13) + (112u << 23)));
}

inline uint16_t FloatToHalf(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000u) {
    const uint32_t sum = FloatBits(BitsFloat(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xfff + odd) >> 13));
}
// Ends the process: a device would fault.
[[noreturn]] void Misaligned(const void* p, size_t size);
// Aligned to their size, which UBSan checks.
inline Vector16 Load16(const void* p) { return *static_cast<const Vector16*>(p); }
inline Vector8 Load8(const void* p) { return *static_cast<const Vector8*>(p); }
inline uint32_t Load4(const void* p) { return *static_cast<const uint32_t*>(p); }
inline uint8_t Load1(const void* p) { return *static_cast<const uint8_t*>(p); }
inline uint16_t Load2(const void* p) { return *static_cast<const uint16_t*>(p); }
template <typename T>
T ReadAligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) Misaligned(p, sizeof(T));
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename T>
void WriteAligned(const T& v, void* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) Misaligned(p, sizeof(T));
  std::memcpy(p, &v, sizeof v);
}
inline Vector16 Read16(const void* p) { return ReadAligned<Vector16>(p); }
inline Vector8 Read8(const void* p) { return ReadAligned<Vector8>(p); }
inline void Write16(Vector16 v, void* p) { WriteAligned(v, p); }
inline void Write8(Vector8 v, void* p) { WriteAligned(v, p); }

// --- Launches ---

struct LaunchShape {
  uint32_t grid_x = 1;
  uint32_t grid_y = 1;
  uint32_t grid_z = 1;
  uint32_t threads = 1;
  size_t dynamic_shared_bytes = 0;
};
// Work in order, done by the thread that calls Run(), or by the one that queues it where `eager`.
class EmulatedStream {
 public:
  explicit EmulatedStream(bool eager) : eager_(eager) {}
  void Queue(std::function<void()> work);
  void Run();
  // What is queued, which is no more then.
  std::deque<std::function<void()>> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(work_, {});
  }
  uint64_t launches() const { return launches_; }
  void CountLaunch() { ++launches_; }

 private:
  const bool eager_;
  std::mutex mutex_;
  std::deque<std::function<void()>> work_;
  std::atomic<uint64_t> launches_ = 0;
};

// Launch() for code that a device's stream would run: callers of several threads take turns, and what goes
// wrong ends the process with a message. The order of fibers is one of the three, by the count of launches.
void RunEmulated(const LaunchShape& shape, const std::function<void()>& kernel);

// `stream` is an EmulatedStream, or null: run at once.
template <typename Args>
void Start(void (*kernel)(Args), const LaunchShape& shape, void* stream, const Args& args) {
  auto work = [kernel, shape, args] { RunEmulated(shape, [&] { kernel(args); }); };
  if (stream == nullptr) return work();
  static_cast<EmulatedStream*>(stream)->CountLaunch();
  static_cast<EmulatedStream*>(stream)->Queue(std::move(work));
}

}  // namespace moepool::simt
