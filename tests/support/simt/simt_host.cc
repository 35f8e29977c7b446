// See simt_host.h. A fiber runs until it waits or ends; the scheduler, on the caller's own stack, lets go of
// those whose meeting is complete, and reports those that nobody will ever let go.
#include "tests/support/simt/simt_host.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tests/support/simt/fiber.h"

moepool::simt::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace moepool::simt {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kSharedPattern = 0xa5;  // as a float -2.9e-16, as an int far out of any range

// A thread of a block. Between blocks, and between launches, it stands at the end of one kernel and before
// the next; `abandoned` where it does not.
struct Fiber {
  enum class State : uint8_t { kReady, kWaiting, kDone };
  Context context;
  Dim3 thread;
  State state = State::kDone;
  bool abandoned = true;
  Operation operation = Operation::kSyncThreads;
  uint32_t mask = 0;
  int source = 0;
  uint64_t value = 0;  // brought, and then taken away
};

// Kept for all launches: a new stack is a page fault or two.
std::deque<Fiber>& Fibers() {
  static std::deque<Fiber> fibers;
  return fibers;
}

struct SharedArray {
  const void* site;
  size_t size;
  std::unique_ptr<std::byte[]> data;
  bool filled;  // in this block
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
  void RunKernel();
  Fiber& current() { return *fibers_[current_]; }
  int lane() const { return current_ % kWarp; }
  size_t dynamic_shared_bytes() const { return options_.dynamic_shared_bytes; }

 private:
  struct Warp {
    int lanes = 0;
    int waiting = 0;  // in an operation of the warp
  };

  std::string RunBlock();
  void Next(Context* from);
  void Shuffle();
  bool ReleaseThreads();
  bool ReleaseWholeWarp(int warp);
  bool ReleaseWarp(int warp);
  void Release(int warp, uint32_t mask, const uint64_t (&values)[kWarp], uint32_t votes);
  std::string CheckMeeting(int warp, int lane) const;
  std::string Stuck() const;
  std::string Where(int fiber) const;
  uint32_t LanesOf(int warp) const;

  const LaunchOptions& options_;
  const std::function<void()>& kernel_;
  uint64_t random_;
  int threads_ = 0;
  std::vector<Fiber*> fibers_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  int turn_ = 0;     // in order_
  int current_ = 0;  // fiber
  int at_barrier_ = 0;
  int done_ = 0;
  Context scheduler_;
  std::vector<SharedArray> shared_;
  std::string error_;
};

Machine* machine = nullptr;

void EnterFiber() {
  Context::Entered();
  for (;;) machine->RunKernel();
}

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

// Goes on with the next thread that can run in this round, or with the scheduler where there is none.
void Machine::Next(Context* from) {
  while (turn_ < threads_) {
    const int i = order_[turn_++];
    Fiber& fiber = *fibers_[i];
    if (fiber.state != Fiber::State::kReady) continue;
    current_ = i;
    threadIdx = fiber.thread;
    from->Switch(&fiber.context);
    return;
  }
  from->Switch(&scheduler_);
}

void Machine::RunKernel() {
  kernel_();
  Fiber& fiber = current();
  fiber.state = Fiber::State::kDone;
  fiber.abandoned = false;
  ++done_;
  Next(&fiber.context);
}

void Machine::Wait(Operation operation, uint32_t mask, uint64_t value, int source) {
  Fiber& fiber = current();
  fiber.operation = operation;
  fiber.mask = mask;
  fiber.value = value;
  fiber.source = source;
  fiber.state = Fiber::State::kWaiting;
  ++(operation == Operation::kSyncThreads ? at_barrier_ : warps_[current_ / kWarp].waiting);
  Next(&fiber.context);
}

// What there is from the block's start is a pattern, in memory of exactly that size.
void* Machine::Shared(const void* site, size_t bytes) {
  auto array =
      std::find_if(shared_.begin(), shared_.end(), [&](const SharedArray& a) { return a.site == site; });
  if (array == shared_.end()) {
    shared_.push_back({site, bytes, std::make_unique_for_overwrite<std::byte[]>(bytes), false});
    array = shared_.end() - 1;
  }
  if (!array->filled) std::memset(array->data.get(), kSharedPattern, array->size);
  array->filled = true;
  return array->data.get();
}

uint32_t Machine::LanesOf(int warp) const {
  const int lanes = warps_[warp].lanes;
  return lanes == kWarp ? kAllLanes : (uint32_t{1} << lanes) - 1;
}

// All threads of the block, those that have ended included: waiting for one that ended is an error.
bool Machine::ReleaseThreads() {
  if (at_barrier_ < threads_) return false;
  at_barrier_ = 0;
  for (Fiber* fiber : fibers_) fiber->state = Fiber::State::kReady;
  return true;
}

// Why the lane's meeting can never be right; empty where it can.
std::string Machine::CheckMeeting(int warp, int lane) const {
  const int self = warp * kWarp + lane;
  const Fiber& fiber = *fibers_[self];
  if ((fiber.mask >> lane & 1) == 0)
    return Where(self) + " is outside the mask of its own " + Name(fiber.operation);
  if ((fiber.mask & ~LanesOf(warp)) != 0) return Where(self) + ": the mask names lanes that there are not";
  if (fiber.operation == Operation::kShuffle && (fiber.mask >> fiber.source & 1) == 0) {
    return Where(self) + " shuffles from lane " + std::to_string(fiber.source) +
           ", which is outside the mask";
  }
  return "";
}

// The lanes of `mask`, which have met.
void Machine::Release(int warp, uint32_t mask, const uint64_t (&values)[kWarp], uint32_t votes) {
  if (fibers_[warp * kWarp + std::countr_zero(mask)]->operation == Operation::kMatrix)
    MultiplyFragments(values);
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    Fiber& fiber = *fibers_[warp * kWarp + std::countr_zero(left)];
    fiber.value = fiber.operation == Operation::kShuffle ? values[fiber.source] : votes;
    fiber.state = Fiber::State::kReady;
  }
  warps_[warp].waiting -= std::popcount(mask);
}

// What ReleaseWarp() does, for the usual case: a full warp that waits in one operation of all its lanes.
bool Machine::ReleaseWholeWarp(int warp) {
  if (warps_[warp].waiting != kWarp) return false;
  Fiber* const* const lanes = &fibers_[warp * kWarp];
  uint64_t values[kWarp];
  uint32_t votes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (lanes[lane]->operation != lanes[0]->operation || lanes[lane]->mask != kAllLanes) return false;
    values[lane] = lanes[lane]->value;
    if (values[lane] != 0) votes |= uint32_t{1} << lane;
  }
  Release(warp, kAllLanes, values, votes);
  return true;
}

// Lets go of one set of lanes that have met; false where none has, or where error_ says why.
bool Machine::ReleaseWarp(int warp) {
  if (warps_[warp].waiting == 0) return false;
  if (ReleaseWholeWarp(warp)) return true;
  for (int lane = 0; lane < warps_[warp].lanes; ++lane) {
    const Fiber& first = *fibers_[warp * kWarp + lane];
    if (first.state != Fiber::State::kWaiting || first.operation == Operation::kSyncThreads) continue;
    error_ = CheckMeeting(warp, lane);
    if (!error_.empty()) return false;
    bool complete = true;
    uint64_t values[kWarp] = {};
    uint32_t votes = 0;
    for (int other = 0; other < kWarp && complete; ++other) {
      if ((first.mask >> other & 1) == 0) continue;
      const Fiber& fiber = *fibers_[warp * kWarp + other];
      complete = fiber.state == Fiber::State::kWaiting && fiber.operation == first.operation &&
                 fiber.mask == first.mask && CheckMeeting(warp, other).empty();
      values[other] = fiber.value;
      if (fiber.value != 0) votes |= uint32_t{1} << other;
    }
    if (!complete) continue;
    Release(warp, first.mask, values, votes);
    return true;
  }
  return false;
}

std::string Machine::Stuck() const {
  const auto waits = std::find_if(fibers_.begin(), fibers_.end(),
                                  [](const Fiber* f) { return f->state == Fiber::State::kWaiting; });
  return Where(static_cast<int>(waits - fibers_.begin())) + " waits for ever in " +
         Name((*waits)->operation) + "; " + std::to_string(done_) + " of " + std::to_string(threads_) +
         " threads have ended";
}

// Of SplitMix64, each number by a step of its own; what is left of a bias is nothing to an order.
void Machine::Shuffle() {
  for (int i = threads_ - 1; i > 0; --i) {
    uint64_t z = random_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    std::swap(order_[i], order_[((z ^ z >> 31) >> 32) * static_cast<uint64_t>(i + 1) >> 32]);
  }
}

std::string Machine::RunBlock() {
  for (SharedArray& array : shared_) array.filled = false;
  at_barrier_ = done_ = 0;
  for (Warp& warp : warps_) warp.waiting = 0;
  for (Fiber* fiber : fibers_) {
    fiber->state = Fiber::State::kReady;
    fiber->abandoned = true;  // until it has ended
  }
  for (;;) {
    if (options_.order == Order::kShuffled) Shuffle();
    turn_ = 0;
    Next(&scheduler_);
    if (done_ == threads_) return "";
    bool released = ReleaseThreads();
    for (int warp = 0; warp < static_cast<int>(warps_.size()); ++warp) {
      while (ReleaseWarp(warp)) released = true;
      if (!error_.empty()) return error_;
    }
    if (!released) return Stuck();
  }
}

std::string Machine::Run() {
  if (threads_ < 1 || threads_ > kMaxThreads) return "a block of " + std::to_string(threads_) + " threads";
  const Dim3& block = options_.block;
  std::deque<Fiber>& fibers = Fibers();
  while (static_cast<int>(fibers.size()) < threads_) fibers.emplace_back();
  for (int i = 0; i < threads_; ++i) {
    const uint32_t n = static_cast<uint32_t>(i);
    fibers[i].thread = {n % block.x, n / block.x % block.y, n / block.x / block.y};
    if (fibers[i].abandoned) fibers[i].context.Prepare(EnterFiber);
    fibers_.push_back(&fibers[i]);
    order_.push_back(options_.order == Order::kDescending ? threads_ - 1 - i : i);
  }
  for (int begin = 0; begin < threads_; begin += kWarp) warps_.push_back({std::min(kWarp, threads_ - begin)});
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
