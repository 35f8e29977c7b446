#include "expert_worker/assignment_loader.h"

#include <utility>

namespace moepool {

AssignmentLoader::AssignmentLoader(ExpertStore* store, int threads, Done done)
    : store_(store), threads_(threads), done_(std::move(done)), thread_([this] { Loop(); }) {}

AssignmentLoader::~AssignmentLoader() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void AssignmentLoader::Assign(uint64_t epoch, std::vector<ExpertRef> experts) {
  MutexLock lock(&mutex_);
  ++generation_;
  epoch_ = epoch;
  experts_ = std::move(experts);
  changed_.NotifyAll();
}

void AssignmentLoader::Release(uint64_t epoch) {
  std::set<ExpertRef> keep;
  {
    MutexLock lock(&mutex_);
    if (epoch != epoch_) return;
    keep.insert(experts_.begin(), experts_.end());
  }
  // What the loader's thread adds meanwhile is listed, and so kept.
  store_->Retain([&keep](int layer, int expert) { return keep.contains({layer, expert}); });
}

void AssignmentLoader::Cancel() {
  MutexLock lock(&mutex_);
  finished_ = ++generation_;
  epoch_.reset();
  experts_.clear();
  while (telling_) changed_.Wait(&mutex_);
}

bool AssignmentLoader::Superseded(uint64_t generation) const {
  MutexLock lock(&mutex_);
  return stopping_ || generation != generation_;
}

void AssignmentLoader::Loop() {
  for (;;) {
    uint64_t generation;
    uint64_t epoch;
    std::vector<ExpertRef> experts;
    {
      MutexLock lock(&mutex_);
      while (!stopping_ && finished_ == generation_) changed_.Wait(&mutex_);
      if (stopping_) return;
      generation = finished_ = generation_;
      epoch = *epoch_;
      experts = experts_;
    }
    const absl::Status status =
        store_->LoadAll(experts, threads_, [this, generation] { return Superseded(generation); });
    {
      MutexLock lock(&mutex_);
      if (stopping_ || generation != generation_) continue;
      telling_ = true;
    }
    done_(epoch, status);
    MutexLock lock(&mutex_);
    telling_ = false;
    changed_.NotifyAll();
  }
}

}  // namespace moepool
