#include "tests/support/nccl/nccl_world_core.h"

#include <algorithm>
#include <cstring>

namespace moepool {
namespace {

constexpr int kBusyPolls = 2;

}  // namespace

using Core = NcclWorld::Core;

void Core::Violation(std::string what) { violations.push_back(std::move(what)); }

NcclResult Core::Enter(int number, NcclCall call, std::function<void()>* on_death) {
  ProcessState& process = processes[static_cast<size_t>(number)];
  if (process.dead) return NcclResult::kSystemError;
  const int nth = ++process.calls[call];
  if (process.dies_at == nth && process.dies_in == call) {
    process.dead = true;
    *on_death = std::move(process.on_death);
    for (Comm* comm : comms) {
      if (comm->process != number || !process.told || comm->peer == nullptr) continue;
      Pend(comm->peer, NcclResult::kRemoteError);
    }
    return NcclResult::kSystemError;
  }
  const auto failure = process.failures.find(call);
  if (failure != process.failures.end() && failure->second.first == nth) return failure->second.second;
  return NcclResult::kSuccess;
}

void Core::Pend(Comm* comm, NcclResult error) {
  if (comm->pending == NcclResult::kSuccess) comm->pending = error;
}

void Core::FailJob(const Job& job, NcclResult error) {
  for (const auto& [comm, transfers] : job.transfers) {
    if (!comms.contains(comm)) continue;
    if (comm->error == NcclResult::kSuccess) comm->error = error;
    comm->job = nullptr;
  }
}

bool Core::Alive(const Comm* comm) {
  return comms.contains(const_cast<Comm*>(comm)) && !processes[static_cast<size_t>(comm->process)].dead;
}

NcclResult Core::State(Comm* comm) {
  if (comm->pending != NcclResult::kSuccess && comm->job == nullptr && comm->error == NcclResult::kSuccess) {
    comm->error = comm->pending;
  }
  if (comm->error != NcclResult::kSuccess) return comm->error;
  if (!comm->ready) {
    if (holds_joins || comm->peer == nullptr || !Alive(comm->peer)) return NcclResult::kInProgress;
    if (++comm->polls <= kBusyPolls) return NcclResult::kInProgress;
    comm->ready = true;
  }
  if (comm->job != nullptr) Begin(comm->job);
  if (comm->error != NcclResult::kSuccess) return comm->error;
  return comm->job == nullptr ? NcclResult::kSuccess : NcclResult::kInProgress;
}

// A copy, as the communicator may let go of its own on the way.
void Core::Begin(std::shared_ptr<Job> job) {  // NOLINT(performance-unnecessary-value-param)
  if (++job->polls <= kBusyPolls) return;
  for (const auto& [comm, transfers] : job->transfers) {
    if (comm->connected) continue;
    comm->connecting = true;
    if (comm->peer == nullptr) return FailJob(*job, NcclResult::kRemoteError);
    if (!Alive(comm->peer)) {
      if (processes[static_cast<size_t>(comm->peer->process)].told) FailJob(*job, NcclResult::kRemoteError);
      return;
    }
    if (!comm->peer->connecting) return;
  }
  for (auto& [comm, transfers] : job->transfers) {
    comm->connected = true;
    comm->job = nullptr;
    Work work;
    work.kind = Work::kTransfers;
    work.transfers = transfers;
    job->streams[comm]->work.push_back(std::move(work));
  }
}

void Core::Progress() {
  for (bool moved = true; moved;) {
    moved = false;
    for (Stream* stream : streams) {
      if (!processes[static_cast<size_t>(stream->process)].dead && Step(stream)) moved = true;
    }
  }
}

bool Core::Step(Stream* stream) {
  if (stream->work.empty()) return false;
  Work& work = stream->work.front();
  switch (work.kind) {
    case Work::kCopy:
      std::memcpy(work.to, work.from, work.bytes);
      processes[static_cast<size_t>(stream->process)].copied_bytes += work.bytes;
      break;
    case Work::kMark:
      stream->reached = work.mark;
      break;
    case Work::kTransfers: {
      bool moved = false;
      bool all = true;
      for (const auto& transfer : work.transfers) {
        if (transfer->done) continue;
        Comm* comm = transfer->comm;
        if (!comms.contains(comm)) {  // aborted
          transfer->done = true;
          continue;
        }
        if (std::find(comm->active.begin(), comm->active.end(), transfer) == comm->active.end()) {
          comm->active.push_back(transfer);
          moved = true;
        }
        if (Match(transfer.get())) moved = true;
        all = all && transfer->done;
      }
      if (!all) return moved;
    }
  }
  stream->work.pop_front();
  return true;
}

bool Core::Match(Transfer* mine) {
  Comm* comm = mine->comm;
  if (comm->peer == nullptr || comm->error != NcclResult::kSuccess || !Alive(comm->peer)) return false;
  const auto first = [](Comm* of, bool send) {
    return std::find_if(of->active.begin(), of->active.end(),
                        [send](const auto& transfer) { return transfer->send == send; });
  };
  const auto own = first(comm, mine->send);
  const auto theirs = first(comm->peer, !mine->send);
  if (own == comm->active.end() || own->get() != mine || theirs == comm->peer->active.end()) return false;
  Transfer* from = mine->send ? mine : theirs->get();
  Transfer* to = mine->send ? theirs->get() : mine;
  if (from->bytes != to->bytes) return false;
  std::memcpy(to->memory, from->memory, from->bytes);
  from->done = to->done = true;
  comm->active.erase(own);
  comm->peer->active.erase(theirs);
  return true;
}

bool Core::Uses(const Stream& stream, const uint8_t* begin, size_t bytes) {
  const auto inside = [&](const uint8_t* p) { return p >= begin && p < begin + bytes; };
  for (const Work& work : stream.work) {
    if (work.kind == Work::kCopy && (inside(work.to) || inside(work.from))) return true;
    for (const auto& transfer : work.transfers) {
      if (!transfer->done && comms.contains(transfer->comm) && inside(transfer->memory)) return true;
    }
  }
  return false;
}

}  // namespace moepool
