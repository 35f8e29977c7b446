// NCCL and GPUs over host memory, as far as the transport uses them: processes that are objects,
// communicators of two, streams. Work that has been queued moves whenever somebody asks about any of it. It
// is as strict as NCCL may be, and stricter where that shows a mistake:
//   - a communicator is busy for some polls after each call, and may not be used meanwhile;
//   - a group begins as a whole: its first transfers make connections, which takes both processes, and what
//     fails one communicator of the group fails all of it;
//   - an error of the network shows when a communicator without a group to begin is next asked. That it comes
//     between the question and the communicator's use, which costs the whole group, does not happen here;
//   - transfers whose sizes differ hang, as does a transfer that the other end never begins;
//   - page-locked and device memory are apart and full of junk, so that a missing copy shows;
//   - what the program may never do is put down in Violations(), such as freeing memory that is in use.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/transport/nccl_api.h"
#include "common/transport/nccl_device.h"

namespace moepool {

enum class NcclCall { kGetUniqueId, kCommInit, kCommGetAsyncError, kGroupStart, kSend, kRecv, kGroupEnd };

class NcclWorld {
 public:
  struct Core;

  // A process with one GPU. Its API and device may outlive it.
  class Process {
   public:
    Process(std::shared_ptr<Core> core, int number) : core_(std::move(core)), number_(number) {}
    std::unique_ptr<NcclApi> MakeApi();
    std::shared_ptr<NcclDevice> MakeDevice();

    // The `nth` call of this kind, from 1 on, and each call of any kind after it find the process dead:
    // nothing of it moves any more. `told`: NCCL's connections to it break, as when a process is killed;
    // otherwise its peers are never told, as when its machine is gone. `on_death` is called once, in the
    // thread that called.
    void DieAt(NcclCall call, int nth, bool told, std::function<void()> on_death = nullptr);
    // The `nth` call of this kind fails with `result`, and nothing else happens.
    void FailAt(NcclCall call, int nth, NcclResult result);
    // All communicators of the process find an error, as when its network fails.
    void RaiseError(NcclResult result);
    // Sends that begin from now on are of one byte less than they were told.
    void CutSends();
    // From now on its device has memory for `more` buffers; below 0: without a limit.
    void LimitAllocations(int more);
    // By streams between page-locked and device memory.
    uint64_t copied_bytes() const;
    int calls(NcclCall call) const;
    bool dead() const;
    // Of the groups that it began, the most communicators in one.
    int largest_group() const;

   private:
    const std::shared_ptr<Core> core_;
    const int number_;
  };

  NcclWorld();
  ~NcclWorld();
  std::unique_ptr<Process> NewProcess();
  // From now on no communicator becomes ready.
  void HoldJoins();
  std::vector<std::string> Violations() const;
  // Communicators that were not aborted, and buffers that were not freed, of processes that live.
  int Left() const;
  // Returns when nothing is left, which may be a moment after the last queue was let go.
  void AwaitNothingLeft() const;

 private:
  const std::shared_ptr<Core> core_;
};

}  // namespace moepool
