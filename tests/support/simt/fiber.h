// Stacks that take turns on one thread, for simt_host.cc alone. Without sanitizers on x86-64 a change of
// stacks is a few instructions; elsewhere it is swapcontext, which also makes a system call each time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SIMT_TSAN 1
#else
#define SIMT_TSAN 0
#endif
#if !defined(SIMT_OWN_SWITCH)
#if defined(__x86_64__)
#define SIMT_OWN_SWITCH 1
#else
#define SIMT_OWN_SWITCH 0
#endif
#endif
#if !SIMT_OWN_SWITCH
#include <ucontext.h>
#endif

namespace moepool::simt {
namespace {

#if SIMT_OWN_SWITCH
// Saves where this stack stands, by the registers that a function keeps for its caller, and goes on where the
// other was left. Modes of rounding belong to the thread: no fiber changes them.
__attribute__((naked, noinline)) void SwitchStacks([[maybe_unused]] void** from, [[maybe_unused]] void* to) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#endif

// A stack and where it was left. One without a stack of its own stands for the thread's.
class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() {
#if SIMT_TSAN
    if (stack_ != nullptr && tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
#endif
  }

  // The next switch to this enters `entry`, which never returns. What the stack held is given up.
  void Prepare(void (*entry)()) {
    if (stack_ == nullptr) stack_ = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
    bottom_ = stack_.get();
    bytes_ = kStackBytes;
#if SIMT_ASAN
    __asan_unpoison_memory_region(stack_.get(), kStackBytes);  // what was given up left it poisoned
    fake_stack_ = nullptr;
#endif
#if SIMT_TSAN
    if (tsan_fiber_ != nullptr) __tsan_destroy_fiber(tsan_fiber_);
    tsan_fiber_ = __tsan_create_fiber(0);
#endif
#if SIMT_OWN_SWITCH
    const auto end = reinterpret_cast<uintptr_t>(stack_.get() + kStackBytes);
    auto* top = reinterpret_cast<void**>(end & ~uintptr_t{15});
    *--top = nullptr;  // whoever would have called `entry`
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;  // registers
    std::memset(top, 0, 6 * sizeof(void*));
    stands_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }
  // Of the code that `entry` begins with: what Switch() does on the way back.
  static void Entered() { Arrive(nullptr); }

  // From this, which runs, to the other.
  void Switch(Context* to) {
    if (to == this) return;
    left_ = this;
#if SIMT_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, to->bottom_, to->bytes_);
#endif
#if SIMT_TSAN
    if (stack_ == nullptr) tsan_fiber_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->tsan_fiber_, 0);
#endif
#if SIMT_OWN_SWITCH
    SwitchStacks(&stands_, to->stands_);
#else
    swapcontext(&context_, &to->context_);
#endif
    Arrive(this);
  }

 private:
  static constexpr size_t kStackBytes = size_t{128} << 10;

  static void Arrive([[maybe_unused]] Context* here) {
#if SIMT_ASAN
    // Also tells where the thread's own stack lies.
    __sanitizer_finish_switch_fiber(here != nullptr ? here->fake_stack_ : nullptr, &left_->bottom_,
                                    &left_->bytes_);
#endif
  }

  static inline Context* left_ = nullptr;  // by the last switch

  std::unique_ptr<std::byte[]> stack_;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
#if SIMT_OWN_SWITCH
  void* stands_ = nullptr;
#else
  ucontext_t context_;
#endif
#if SIMT_ASAN
  void* fake_stack_ = nullptr;
#endif
#if SIMT_TSAN
  void* tsan_fiber_ = nullptr;
#endif
};

}  // namespace
}  // namespace moepool::simt
