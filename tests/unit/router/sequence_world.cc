// See sequence_world.h.
#include "tests/unit/router/sequence_world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace moepool {
namespace {

constexpr int kBlock = kKvBlockTokens;
constexpr int kVocab = 5;

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93;
  return x ^ (x >> 32);
}

// Prompts are leaves of a tree: they part ways at positions 16, 40 and 90 by the bits of `leaf`.
int32_t PromptId(int leaf, int position) {
  const int known_bits = position < 16 ? 0 : position < 40 ? 1 : position < 90 ? 3 : 15;
  return static_cast<int32_t>(Mix(static_cast<uint64_t>(position * 16 + (leaf & known_bits))) % kVocab);
}

}  // namespace

SequenceWorld::SequenceWorld(const WorldOptions& options)
    : options_(options),
      rng_(options.seed),
      backend_(1 << 20),
      scheduler_(MakeContinuousBatching(options.limits)),
      memory_(static_cast<size_t>(options.blocks * kBlock), 0),
      tables_naming_(static_cast<size_t>(options.blocks), 0) {
  ModelConfig config;
  config.layers = config.kv_heads = config.head_dim = 1;
  config.sliding_window = options.limits.window_tokens;
  kv_ = KvCache::Create(&backend_, config, {KvType::kF16, options.blocks, options.prefix_cache}).value();
}

void SequenceWorld::Complain(const std::string& what) {
  if (complaint_.empty()) complaint_ = absl::StrCat("step ", counts_.steps, ": ", what);
}

std::string SequenceWorld::Run(int arrivals) {
  int64_t rows_at_most = 0;
  int64_t steps_that_count = 0;
  while ((arrivals > 0 || !running_.empty() || !waiting_.empty()) && complaint_.empty()) {
    now_ += absl::Milliseconds(1 + Random(20));
    for (int n = Random(3) == 0 ? 1 + Random(3) : 0; n > 0 && arrivals > 0; --n, --arrivals) {
      Arrive();
      rows_at_most += waiting_.back()->prompt + waiting_.back()->max_tokens;
    }
    if (Random(25) == 0) Cancel();
    const int64_t lost = counts_.failed_steps + counts_.expired;
    Step();
    // The oldest computes a row in every other step, and never one twice.
    const bool counts = computed_ && counts_.failed_steps + counts_.expired == lost;
    steps_that_count += counts ? 1 : 0;
    if (steps_that_count > rows_at_most) Complain("sequences starve");
  }
  counts_.evictions = static_cast<int64_t>(kv_->evicted_blocks());
  if (kv_->free_blocks() != kv_->blocks()) {
    Complain(
        absl::StrCat("all are gone, and of ", kv_->blocks(), " blocks ", kv_->free_blocks(), " are free"));
  }
  return complaint_;
}

void SequenceWorld::Append(Sequence* s, int32_t id) {
  const uint64_t before = s->content.empty() ? 1 + static_cast<uint64_t>(s->rope) : s->content.back();
  s->ids.push_back(id);
  s->content.push_back(Mix(before * kVocab + static_cast<uint64_t>(id)));
}

void SequenceWorld::Arrive() {
  const int window = options_.limits.window_tokens;
  // The engine refuses what does not fit alone.
  const bool window_fits = window > 0 && options_.blocks >= KvBlocksOfWindow(window);
  const int room = std::min(window_fits ? 700 : options_.blocks * kBlock, 700);
  auto s = std::make_unique<Sequence>();
  s->id = SequenceId(next_id_++);
  s->prompt = 1 + Random(Random(5) == 0 ? room - 1 : std::min(room - 1, 130));
  s->max_tokens = 1 + Random(std::min(room - s->prompt, Random(4) == 0 ? 200 : options_.longest_output));
  if (Random(8) == 0) s->next_logits = s->delivered = Random(s->prompt);
  s->deadline = Random(6) == 0 ? now_ + absl::Milliseconds(Random(3000)) : absl::InfiniteFuture();
  const int leaf = Random(16);
  s->rope = Random(4) == 0 ? RopeSet::kLong : RopeSet::kShort;
  for (int position = 0; position < s->prompt; ++position) Append(s.get(), PromptId(leaf, position));
  waiting_.push_back(std::move(s));
}

void SequenceWorld::Cancel() {
  const List& list = Random(2) == 0 ? running_ : waiting_;
  if (list.empty()) return;
  const SequenceId id = list[static_cast<size_t>(Random(static_cast<int>(list.size())))]->id;
  Remove(id, &counts_.cancelled);
}

void SequenceWorld::Remove(SequenceId id, int64_t* count) {
  for (List* list : {&running_, &waiting_}) {
    std::erase_if(*list, [id](const auto& s) { return s->id == id; });
  }
  if (options_.misdeed != Misdeed::kKeepsCancelled || count != &counts_.cancelled) kv_->Release(id);
  ++*count;
}

SequenceWorld::Sequence* SequenceWorld::Running(SequenceId id) {
  const auto it = std::find_if(running_.begin(), running_.end(), [id](const auto& s) { return s->id == id; });
  return it == running_.end() ? nullptr : it->get();
}

RopeSet SequenceWorld::KeyRope(const Sequence& s) const {
  return options_.misdeed == Misdeed::kForgetsRopeSet ? RopeSet::kShort : s.rope;
}

std::span<const int32_t> SequenceWorld::Reusable(const Sequence& s) const {
  const bool scores = s.scores() && options_.misdeed != Misdeed::kReusesScoredPositions;
  return std::span(s.ids).first(scores ? static_cast<size_t>(s.next_logits) : s.ids.size() - 1);
}

StepPlan SequenceWorld::Plan() {
  const auto view = [&](const Sequence& s) {
    SequenceView v;
    v.id = s.id;
    v.known_tokens = static_cast<int>(s.ids.size());
    v.computed_tokens = s.computed;
    v.deadline = s.deadline;
    return v;
  };
  running_ids_.clear();
  for (const auto& s : running_) running_ids_.push_back(s->id);
  own_blocks_.resize(running_.size());
  kv_->CountOwnBlocks(running_ids_, own_blocks_);
  running_views_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    SequenceView& v = running_views_.emplace_back(view(*running_[i]));
    v.table_blocks = static_cast<int>(kv_->BlockTable(v.id).size());
    v.held_blocks = kv_->HeldBlocks(v.id);
    v.own_blocks = own_blocks_[i];
  }
  waiting_views_.clear();
  for (const auto& s : waiting_) waiting_views_.push_back(view(*s));
  return scheduler_->Plan({now_, running_views_, waiting_views_, kv_->free_blocks(), [this](size_t i) {
                             const CachedPrefix found =
                                 kv_->FindPrefix(KeyRope(*waiting_[i]), Reusable(*waiting_[i]));
                             return CachedTokens{found.tokens, found.blocks, found.idle_blocks};
                           }});
}

StepPlan SequenceWorld::Meddle() {
  StepPlan plan;
  for (size_t i = 1 + static_cast<size_t>(Random(static_cast<int>(running_.size()))); i < running_.size();
       ++i) {
    plan.preempted.push_back(running_[i]->id);
  }
  return plan;
}

void SequenceWorld::CheckPlan(const StepPlan& plan, bool meddled) {
  const auto expired = [&](SequenceId id) {
    return std::find(plan.expired.begin(), plan.expired.end(), id) != plan.expired.end();
  };
  std::vector<SequenceId> left;  // running, then waiting, without those that have expired
  size_t run = 0;
  for (const List* list : {&running_, &waiting_}) {
    for (const auto& s : *list) {
      if (!meddled && expired(s->id) != (s->deadline <= now_)) Complain("expired at the wrong time");
      if (!expired(s->id)) left.push_back(s->id);
    }
    if (list == &running_) run = left.size();
  }
  if (!std::is_sorted(left.begin(), left.end())) Complain("not in order of arrival");
  if (plan.preempted.size() > run || (run > 0 && plan.preempted.size() == run)) {
    if (run > 0) return Complain("the oldest was preempted");
    if (!plan.preempted.empty()) return Complain("preempted what did not run");
  }
  run -= plan.preempted.size();
  if (!std::equal(plan.preempted.begin(), plan.preempted.end(), left.begin() + static_cast<long>(run))) {
    Complain("preempted are not the last");
  }
  if (!plan.preempted.empty() && !plan.admitted.empty()) Complain("preempts and admits");
  if (plan.admitted.size() > left.size() - run ||
      !std::equal(plan.admitted.begin(), plan.admitted.end(), left.begin() + static_cast<long>(run))) {
    return Complain("admitted are not the first");
  }
  run += plan.admitted.size();
  if (static_cast<int>(run) > std::min(options_.limits.max_running, options_.limits.token_budget)) {
    Complain(absl::StrCat(run, " run"));
  }
  int rows = 0;
  bool oldest = false;
  for (const StepChunk& chunk : plan.chunks) {
    rows += chunk.count;
    if (chunk.count < 1) Complain("an empty chunk");
    oldest = oldest || chunk.id == left.front();
    if (std::find(left.begin(), left.begin() + static_cast<long>(run), chunk.id) ==
        left.begin() + static_cast<long>(run)) {
      return Complain("a chunk for a sequence that does not run");
    }
  }
  if (rows > options_.limits.token_budget) Complain(absl::StrCat(rows, " rows are over the budget"));
  if (!left.empty() && plan.expired.empty() && !meddled && !oldest) Complain("the oldest does not advance");
}

void SequenceWorld::Follow(const StepPlan& plan) {
  for (const SequenceId id : plan.expired) Remove(id, &counts_.expired);
  for (size_t i = plan.preempted.size(); i-- > 0;) {
    std::unique_ptr<Sequence> s = std::move(running_.back());
    running_.pop_back();
    kv_->Release(s->id);
    if (s->scores()) s->next_logits = std::max(s->next_logits, s->computed);
    s->computed = 0;
    waiting_.insert(waiting_.begin(), std::move(s));
    ++counts_.preemptions;
  }
  for (size_t i = 0; i < plan.admitted.size(); ++i) {
    Sequence& s = *waiting_.front();
    s.computed = kv_->Open(s.id, KeyRope(s), Reusable(s)).tokens;
    counts_.hit_tokens += s.computed;
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
  for (const StepChunk& chunk : plan.chunks) {
    const Sequence& s = *Running(chunk.id);
    const int end = chunk.begin + chunk.count;
    if (chunk.begin != s.computed || end > static_cast<int>(s.ids.size()) ||
        chunk.sample != (end == static_cast<int>(s.ids.size()))) {
      return Complain("a chunk does not go on where the sequence is");
    }
    if (const absl::Status grown = kv_->Grow(chunk.id, end); !grown.ok()) {
      return Complain(std::string(grown.message()));
    }
  }
}

void SequenceWorld::Write(const Sequence& s, const StepChunk& chunk, bool spoil) {
  const auto table = kv_->BlockTable(s.id);
  const int good = spoil ? Random(chunk.count) : chunk.count;
  for (int i = 0; i < chunk.count; ++i) {
    const int position = chunk.begin + i;
    const int32_t block = table[static_cast<size_t>(position / kBlock)];
    if (block < 0) return Complain("writes where it has no block");
    if (tables_naming_[static_cast<size_t>(block)] != 1)
      return Complain("writes into a block that is shared");
    memory_[static_cast<size_t>(block * kBlock + position % kBlock)] =
        i < good ? s.content[static_cast<size_t>(position)] : rng_();
  }
}

// What rows from `begin` on see of the positions before `end`.
void SequenceWorld::Read(const Sequence& s, int begin, int end) {
  const int window = options_.limits.window_tokens;
  const auto table = kv_->BlockTable(s.id);
  for (int position = window > 0 ? std::max(0, begin - window + 1) : 0; position < end; ++position) {
    const int32_t block = table[static_cast<size_t>(position / kBlock)];
    if (block < 0) return Complain(absl::StrCat("position ", position, " is gone, and ", begin, " sees it"));
    if (memory_[static_cast<size_t>(block * kBlock + position % kBlock)] !=
        s.content[static_cast<size_t>(position)]) {
      return Complain(absl::StrCat("position ", position, " holds what is not of its sequence"));
    }
  }
}

void SequenceWorld::Compute(const StepPlan& plan) {
  std::fill(tables_naming_.begin(), tables_naming_.end(), 0);
  for (const auto& s : running_) {
    for (const int32_t block : kv_->BlockTable(s->id)) {
      if (block >= 0) ++tables_naming_[static_cast<size_t>(block)];
    }
  }
  const bool fails = !plan.chunks.empty() && Random(20) == 0;
  const int faulty = Random(40) == 0 ? Random(4) : -1;
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    const StepChunk& chunk = plan.chunks[i];
    const bool spoil = fails || static_cast<int>(i) == faulty;
    Write(*Running(chunk.id), chunk, spoil);
    Read(*Running(chunk.id), chunk.begin, spoil ? chunk.begin : chunk.begin + chunk.count);
  }
  if (fails) {
    ++counts_.failed_steps;
    if (options_.misdeed != Misdeed::kCommitsFailedSteps) return;
  }
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    if (static_cast<int>(i) == faulty) {
      Remove(plan.chunks[i].id, &counts_.faulted);
    } else {
      Commit(plan.chunks[i]);
    }
  }
}

void SequenceWorld::Commit(const StepChunk& chunk) {
  Sequence& s = *Running(chunk.id);
  s.computed = chunk.begin + chunk.count;
  // The model: the next id follows from what lies at the last position. A window may leave it behind at once.
  const int last = s.computed - 1;
  const int32_t block = kv_->BlockTable(s.id)[static_cast<size_t>(last / kBlock)];
  const uint64_t logits = memory_[static_cast<size_t>(block * kBlock + last % kBlock)];
  kv_->Commit(s.id, std::span(s.ids).first(static_cast<size_t>(s.computed)));
  if (s.scores()) {
    for (int position = std::max(chunk.begin, s.next_logits); position < s.computed; ++position) {
      if (s.delivered++ != position) Complain("logits are skipped, or come twice");
    }
    if (s.computed == s.prompt) Remove(chunk.id, &counts_.finished);
    return;
  }
  if (!chunk.sample) return;
  if (static_cast<int>(s.ids.size()) == s.prompt + s.max_tokens - 1) {
    Remove(chunk.id, &counts_.finished);
    return;
  }
  Append(&s, static_cast<int32_t>(logits % kVocab));
}

void SequenceWorld::Step() {
  ++counts_.steps;
  const bool meddled = options_.meddling && !running_.empty() && Random(10) == 0;
  const StepPlan plan = meddled ? Meddle() : Plan();
  CheckPlan(plan, meddled);
  if (complaint_.empty()) Follow(plan);
  computed_ = !plan.chunks.empty();
  if (complaint_.empty()) Compute(plan);
  kv_->CheckInvariants();
}

std::string RunWorlds(int worlds, int arrivals, Misdeed misdeed, WorldCounts* counts) {
  for (int i = 0; i < worlds; ++i) {
    WorldOptions options;
    options.seed = static_cast<uint32_t>(i + 1);
    options.misdeed = misdeed;
    std::mt19937 rng(options.seed);
    const int budgets[] = {1, 7, 16, 33, 64, 512};
    const int windows[] = {0, 0, 0, 1, 17, 60, 200};
    options.limits.token_budget = budgets[rng() % std::size(budgets)];
    options.limits.max_running = 1 + static_cast<int>(rng() % 12);
    options.limits.window_tokens = windows[rng() % std::size(windows)];
    const uint32_t most_blocks = rng() % 2 == 0 ? 14 : 60;
    options.blocks = 2 + static_cast<int>(rng() % most_blocks);
    options.prefix_cache = rng() % 6 != 0;
    options.longest_output = rng() % 2 == 0 ? 30 : 300;
    options.meddling = rng() % 3 == 0;
    SequenceWorld world(options);
    const std::string complaint = world.Run(arrivals);
    const WorldCounts& c = world.counts();
    counts->steps += c.steps;
    counts->failed_steps += c.failed_steps;
    counts->finished += c.finished;
    counts->cancelled += c.cancelled;
    counts->expired += c.expired;
    counts->faulted += c.faulted;
    counts->preemptions += c.preemptions;
    counts->hit_tokens += c.hit_tokens;
    counts->evictions += c.evictions;
    if (complaint.empty()) continue;
    return absl::StrCat("seed ", options.seed, " budget ", options.limits.token_budget, " places ",
                        options.limits.max_running, " window ", options.limits.window_tokens, " blocks ",
                        options.blocks, " prefix cache ", options.prefix_cache, " outputs ",
                        options.longest_output, " meddling ", options.meddling, ": ", complaint);
  }
  return "";
}

}  // namespace moepool
