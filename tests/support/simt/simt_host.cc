// See simt_host.h. A fiber runs until it waits or ends; the scheduler, on the caller's own stack, lets go of
// those whose meeting is complete, and reports those that nobody will ever let go.
#include "tests/support/simt/simt_host.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

moepool::simt::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace moepool::simt {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr int kMaxThreads = 1024;
constexpr int kSharedPattern = 0xa5;  // as a float -2.9e-16, as an int far out of any range

struct Fiber {
  enum class State { kReady, kWaiting, kDone };
  ucontext_t context;
  std::unique_ptr<std::byte[]> stack;
  void* fake_stack = nullptr;  // ASan's
  Dim3 thread;
  State state = State::kReady;
  Operation operation = Operation::kSyncThreads;
  uint32_t mask = 0;
  uint64_t value = 0;  // brought, and then taken away
  int source = 0;
};

struct Bytes {
  std::unique_ptr<std::byte[]> data;
  size_t size = 0;
};

class Machine {
 public:
  Machine(const LaunchOptions& options, const std::function<void()>& kernel)
      : options_(options), kernel_(kernel), random_(options.seed) {
    threads_ = static_cast<int>(options.block.x * options.block.y * options.block.z);
  }

  std::string Run();
  void* Shared(const void* site, size_t bytes);
  void Wait(Operation operation, uint32_t mask, uint64_t value, int source);
  void Main();
  Fiber& current() { return fibers_[current_]; }
  int lane() const { return current_ % kWarp; }
  size_t dynamic_shared_bytes() const { return options_.dynamic_shared_bytes; }

 private:
  std::string RunBlock();
  void Start(Fiber* fiber);
  void Switch(int fiber);
  void Leave(bool done);
  bool ReleaseThreads();
  bool ReleaseWarp(int warp);
  std::string CheckMeeting(int warp, int lane) const;
  std::string Stuck() const;
  std::string Where(int fiber) const;
  uint32_t LanesOf(int warp) const;

  const LaunchOptions& options_;
  const std::function<void()>& kernel_;
  std::mt19937 random_;
  int threads_ = 0;
  std::vector<Fiber> fibers_;
  int current_ = 0;
  ucontext_t scheduler_;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  std::map<const void*, Bytes> shared_;
  std::string error_;
};

Machine* machine = nullptr;

void EnterFiber() { machine->Main(); }

const char* Name(Operation operation) {
  switch (operation) {
    case Operation::kSyncThreads:
      return "SyncThreads";
    case Operation::kSyncWarp:
      return "SyncWarp";
    case Operation::kShuffle:
      return "a shuffle";
    case Operation::kVote:
      return "a vote";
    case Operation::kMatrix:
      return "a matrix product";
  }
  return "?";
}

// A [16, 32], B [32, 8] and D [16, 8] as simt.h's MultiplyBytes spreads them over the lanes.
void MultiplyFragments(const uint64_t (&lanes)[kWarp]) {
  int8_t a[16][32];
  int8_t b[8][32];
  for (int i = 0; i < kWarp; ++i) {
    const auto& lane = *reinterpret_cast<const MatrixLane*>(lanes[i]);
    const int g = i / 4;
    const int t = i % 4;
    for (int f = 0; f < 4; ++f) std::memcpy(&a[g + 8 * (f % 2)][16 * (f / 2) + 4 * t], &lane.a[f], 4);
    for (int f = 0; f < 2; ++f) std::memcpy(&b[g][16 * f + 4 * t], &lane.b[f], 4);
  }
  for (int i = 0; i < kWarp; ++i) {
    const auto& lane = *reinterpret_cast<const MatrixLane*>(lanes[i]);
    for (int f = 0; f < 4; ++f) {
      const int row = i / 4 + 8 * (f / 2);
      const int col = 2 * (i % 4) + f % 2;
      for (int k = 0; k < 32; ++k) lane.d[f] += a[row][k] * b[col][k];
    }
  }
}

std::string Machine::Where(int fiber) const {
  return "thread " + std::to_string(fiber) + " of block (" + std::to_string(blockIdx.x) + ", " +
         std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

void Machine::Start(Fiber* fiber) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  fiber->fake_stack = nullptr;
  fiber->state = Fiber::State::kReady;
  makecontext(&fiber->context, EnterFiber, 0);
#if SIMT_ASAN
  // What the fiber of an earlier block left poisoned when it ended.
  __asan_unpoison_memory_region(fiber->stack.get(), kStackBytes);
#endif
}

void Machine::Switch(int fiber) {
  current_ = fiber;
  threadIdx = fibers_[fiber].thread;
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, fibers_[fiber].stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler_, &fibers_[fiber].context);
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
}

void Machine::Leave([[maybe_unused]] bool done) {
  Fiber& fiber = current();
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(done ? nullptr : &fiber.fake_stack, scheduler_stack_,
                                 scheduler_stack_bytes_);
#endif
  swapcontext(&fiber.context, &scheduler_);
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

void Machine::Main() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  kernel_();
  current().state = Fiber::State::kDone;
  Leave(true);
}

void Machine::Wait(Operation operation, uint32_t mask, uint64_t value, int source) {
  Fiber& fiber = current();
  fiber.operation = operation;
  fiber.mask = mask;
  fiber.value = value;
  fiber.source = source;
  fiber.state = Fiber::State::kWaiting;
  Leave(false);
}

// What there is from the block's start is a pattern, in memory of exactly that size.
void* Machine::Shared(const void* site, size_t bytes) {
  Bytes& shared = shared_[site];
  if (shared.data == nullptr) {
    shared.size = bytes;
    shared.data = std::make_unique<std::byte[]>(bytes);
    std::memset(shared.data.get(), kSharedPattern, bytes);
  }
  return shared.data.get();
}

uint32_t Machine::LanesOf(int warp) const {
  const int lanes = std::min(kWarp, threads_ - warp * kWarp);
  return lanes == kWarp ? kAllLanes : (uint32_t{1} << lanes) - 1;
}

// All threads of the block, those that have ended included: waiting for one that ended is an error.
bool Machine::ReleaseThreads() {
  for (const Fiber& fiber : fibers_) {
    if (fiber.state != Fiber::State::kWaiting || fiber.operation != Operation::kSyncThreads) return false;
  }
  for (Fiber& fiber : fibers_) fiber.state = Fiber::State::kReady;
  return true;
}

// Why the lane's meeting can never be right; empty where it can.
std::string Machine::CheckMeeting(int warp, int lane) const {
  const int self = warp * kWarp + lane;
  const Fiber& fiber = fibers_[self];
  if ((fiber.mask >> lane & 1) == 0)
    return Where(self) + " is outside the mask of its own " + Name(fiber.operation);
  if ((fiber.mask & ~LanesOf(warp)) != 0) return Where(self) + ": the mask names lanes that there are not";
  if (fiber.operation == Operation::kShuffle && (fiber.mask >> fiber.source & 1) == 0) {
    return Where(self) + " shuffles from lane " + std::to_string(fiber.source) +
           ", which is outside the mask";
  }
  return "";
}

// Lets go of one set of lanes that have met; false where none has, or where error_ says why.
bool Machine::ReleaseWarp(int warp) {
  for (int lane = 0; lane < kWarp && warp * kWarp + lane < threads_; ++lane) {
    const Fiber& first = fibers_[warp * kWarp + lane];
    if (first.state != Fiber::State::kWaiting || first.operation == Operation::kSyncThreads) continue;
    error_ = CheckMeeting(warp, lane);
    if (!error_.empty()) return false;
    bool complete = true;
    uint64_t values[kWarp] = {};
    uint32_t votes = 0;
    for (int other = 0; other < kWarp && complete; ++other) {
      if ((first.mask >> other & 1) == 0) continue;
      const Fiber& fiber = fibers_[warp * kWarp + other];
      complete = fiber.state == Fiber::State::kWaiting && fiber.operation == first.operation &&
                 fiber.mask == first.mask && CheckMeeting(warp, other).empty();
      values[other] = fiber.value;
      if (fiber.value != 0) votes |= uint32_t{1} << other;
    }
    if (!complete) continue;
    const uint32_t mask = first.mask;
    if (first.operation == Operation::kMatrix) MultiplyFragments(values);
    for (int other = 0; other < kWarp; ++other) {
      if ((mask >> other & 1) == 0) continue;
      Fiber& fiber = fibers_[warp * kWarp + other];
      fiber.value = fiber.operation == Operation::kShuffle ? values[fiber.source] : votes;
      fiber.state = Fiber::State::kReady;
    }
    return true;
  }
  return false;
}

std::string Machine::Stuck() const {
  const auto waits = std::find_if(fibers_.begin(), fibers_.end(),
                                  [](const Fiber& f) { return f.state == Fiber::State::kWaiting; });
  const auto done = std::count_if(fibers_.begin(), fibers_.end(),
                                  [](const Fiber& f) { return f.state == Fiber::State::kDone; });
  return Where(static_cast<int>(waits - fibers_.begin())) + " waits for ever in " + Name(waits->operation) +
         "; " + std::to_string(done) + " of " + std::to_string(threads_) + " threads have ended";
}

std::string Machine::RunBlock() {
  shared_.clear();
  for (Fiber& fiber : fibers_) Start(&fiber);
  std::vector<int> order(threads_);
  for (int i = 0; i < threads_; ++i) order[i] = options_.order == Order::kDescending ? threads_ - 1 - i : i;
  for (;;) {
    if (options_.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random_);
    for (const int i : order) {
      if (fibers_[i].state == Fiber::State::kReady) Switch(i);
    }
    const bool all_done = std::all_of(fibers_.begin(), fibers_.end(),
                                      [](const Fiber& f) { return f.state == Fiber::State::kDone; });
    if (all_done) return "";
    bool released = ReleaseThreads();
    for (int warp = 0; warp * kWarp < threads_; ++warp) {
      while (ReleaseWarp(warp)) released = true;
      if (!error_.empty()) return error_;
    }
    if (!released) return Stuck();
  }
}

std::string Machine::Run() {
  if (threads_ < 1 || threads_ > kMaxThreads) return "a block of " + std::to_string(threads_) + " threads";
  const Dim3& block = options_.block;
  fibers_.resize(threads_);
  for (int i = 0; i < threads_; ++i) {
    const uint32_t n = static_cast<uint32_t>(i);
    fibers_[i].thread = {n % block.x, n / block.x % block.y, n / block.x / block.y};
    fibers_[i].stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  }
  blockDim = options_.block;
  gridDim = options_.grid;
  for (uint32_t z = 0; z < gridDim.z; ++z) {
    for (uint32_t y = 0; y < gridDim.y; ++y) {
      for (uint32_t x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        std::string error = RunBlock();
        if (!error.empty()) return error;
      }
    }
  }
  return "";
}

}  // namespace

std::string Launch(const LaunchOptions& options, const std::function<void()>& kernel) {
  Machine m(options, kernel);
  machine = &m;
  return m.Run();
}

void EmulatedStream::Queue(std::function<void()> work) {
  if (eager_) return work();
  std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
}

void EmulatedStream::Run() {
  std::lock_guard lock(mutex_);
  for (; !work_.empty(); work_.pop_front()) work_.front()();
}

void RunEmulated(const LaunchShape& shape, const std::function<void()>& kernel) {
  static std::mutex mutex;
  static uint32_t launches = 0;
  constexpr Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};
  std::lock_guard lock(mutex);
  ++launches;
  const std::string error = Launch({.grid = {shape.grid_x, shape.grid_y, shape.grid_z},
                                    .block = {shape.threads},
                                    .dynamic_shared_bytes = shape.dynamic_shared_bytes,
                                    .order = kOrders[launches % 3],
                                    .seed = launches},
                                   kernel);
  if (error.empty()) return;
  std::fprintf(stderr, "emulated kernel: %s\n", error.c_str());
  std::abort();
}

void Misaligned(const void* p, size_t size) {
  std::fprintf(stderr, "emulated kernel: %zu bytes at %p\n", size, p);
  std::abort();
}

void* SharedAt(const void* site, size_t bytes) { return machine->Shared(site, bytes); }
void* DynamicShared() {
  static const char site = 0;
  return machine->Shared(&site, machine->dynamic_shared_bytes());
}
void SyncThreads() { machine->Wait(Operation::kSyncThreads, 0, 0, 0); }
uint64_t Meet(Operation operation, uint32_t mask, uint64_t value, int source) {
  machine->Wait(operation, mask, value, source);
  return machine->current().value;
}
int Lane() { return machine->lane(); }

}  // namespace moepool::simt
