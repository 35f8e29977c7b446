// GrpcTrunk and TrunkService, the one talking to the other over loopback.
#include "common/rpc/rpc_server.h"
#include "common/rpc/trunk_client.h"
#include "common/trunk/fake_trunk.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/trunk_service.h"

namespace moepool {
namespace {

ModelInfo Info() {
  ModelInfo info;
  info.name = "model";
  info.family = "llama";
  for (size_t i = 0; i < info.digest.size(); ++i) info.digest[i] = static_cast<uint8_t>(255 - i);
  info.context_tokens = 100;
  info.vocab_size = 5;
  info.layers = 3;
  info.experts = 16;
  info.experts_per_token = 16;
  info.dense = true;
  info.tokenizer.model = "gpt2";
  info.tokenizer.pre = "smollm";
  info.tokenizer.tokens = {"a", "\xff", "", std::string("\0z", 2),
                           std::string(3 << 20, 'x')};  // more than one chunk
  info.tokenizer.types = {TokenType::kNormal, TokenType::kByte, TokenType::kControl, TokenType::kUnused,
                          TokenType::kUserDefined};
  info.tokenizer.scores = {0.5f, -1.0f};
  info.tokenizer.merges = {"a b"};
  info.tokenizer.bos_id = 2;
  info.tokenizer.eos_id = 0;
  info.tokenizer.add_bos = true;
  info.tokenizer.chat_template = "{{ x }}";
  return info;
}

// Updates of one call, as they came.
class Received {
 public:
  UpdateCallback Callback() {
    return [this](SequenceUpdate update) {
      MutexLock lock(&mutex_);
      for (const int32_t id : update.ids) ids_.push_back(id);
      for (TokenLogprobs& logprobs : update.prompt_logprobs) {
        EXPECT_TRUE(ids_.empty() || !update.ids.empty()) << "after the ids";
        prompt_logprobs_.push_back(std::move(logprobs));
      }
      ++updates_;
      for (LogitsRow& row : update.logits) rows_.push_back(std::move(row));
      update.logits.clear();
      last_ = std::move(update);
      changed_.NotifyAll();
    };
  }
  SequenceUpdate WaitFinished() {
    MutexLock lock(&mutex_);
    while (!last_.finished) changed_.Wait(&mutex_);
    return last_;
  }
  void WaitIds(size_t n) {
    MutexLock lock(&mutex_);
    while (ids_.size() < n) changed_.Wait(&mutex_);
  }
  std::vector<int32_t> ids() {
    MutexLock lock(&mutex_);
    return ids_;
  }
  std::vector<LogitsRow> rows() {
    MutexLock lock(&mutex_);
    return rows_;
  }
  std::vector<TokenLogprobs> prompt_logprobs() {
    MutexLock lock(&mutex_);
    return prompt_logprobs_;
  }
  int updates() {
    MutexLock lock(&mutex_);
    return updates_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<int32_t> ids_ GUARDED_BY(mutex_);
  std::vector<LogitsRow> rows_ GUARDED_BY(mutex_);
  std::vector<TokenLogprobs> prompt_logprobs_ GUARDED_BY(mutex_);
  int updates_ GUARDED_BY(mutex_) = 0;
  SequenceUpdate last_ GUARDED_BY(mutex_);
};

class TrunkRpcTest : public testing::Test {
 protected:
  TrunkRpcTest() : fake_(Info()), service_(std::make_unique<TrunkService>(&fake_)) {
    StartServer({"127.0.0.1", 0});
  }
  void StartServer(const HostPort& address) {
    server_ = *RpcServer::Start({.address = address}, {service_.get()});
    if (client_ == nullptr) client_ = std::make_unique<GrpcTrunk>(server_->address().ToString());
  }

  FakeTrunk fake_;
  std::unique_ptr<TrunkService> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<GrpcTrunk> client_;
};

TEST_F(TrunkRpcTest, Describe) {
  const absl::StatusOr<ModelInfo> info = client_->Describe();
  ASSERT_TRUE(info.ok()) << info.status();
  const ModelInfo expected = Info();
  EXPECT_EQ(info->name, expected.name);
  EXPECT_EQ(info->family, expected.family);
  EXPECT_EQ(info->digest, expected.digest);
  EXPECT_EQ(info->context_tokens, expected.context_tokens);
  EXPECT_EQ(info->vocab_size, expected.vocab_size);
  EXPECT_EQ(info->experts_per_token, expected.experts_per_token);
  EXPECT_EQ(info->dense, expected.dense);
  EXPECT_EQ(info->tokenizer.tokens, expected.tokenizer.tokens);
  EXPECT_EQ(info->tokenizer.types, expected.tokenizer.types);
  EXPECT_EQ(info->tokenizer.scores, expected.tokenizer.scores);
  EXPECT_EQ(info->tokenizer.merges, expected.tokenizer.merges);
  EXPECT_EQ(info->tokenizer.bos_id, 2);
  EXPECT_EQ(info->tokenizer.eos_id, 0);
  EXPECT_EQ(info->tokenizer.eot_id, -1);
  EXPECT_TRUE(info->tokenizer.add_bos);
  EXPECT_EQ(info->tokenizer.chat_template, "{{ x }}");
}

TEST_F(TrunkRpcTest, Pool) {
  PoolInfo pool;
  pool.model = "m";
  pool.epoch = 4;
  pool.waiting_for = "1 of 2 workers";
  pool.totals.steps = 5;
  pool.totals.prefill_rows = 6;
  pool.totals.decode_rows = 7;
  pool.totals.exchange.Add(0.002);
  pool.totals.exchange.Add(0.003);
  pool.totals.exchange_own.Add(0.001);
  pool.kv_blocks_free = 9;
  PoolWorkerInfo& worker = pool.workers.emplace_back();
  worker.id = 7;
  worker.name = "host:1";
  worker.round_trip_us = 1.5;
  worker.busy_ratio = 0.25;
  worker.rows = 11;
  worker.dispatch_us = 12;
  worker.combine_us = 13;
  worker.compute_us = 14;
  worker.sent_bytes = 15;
  worker.received_bytes = 16;
  worker.dispatch.Add(0.001);
  worker.combine.Add(0.002);
  pool.layers = 2;
  pool.experts = 3;
  pool.expert_tokens = {1, 2, 3, 4, 5, 6};
  pool.expert_tokens_last_minute = {0, 1, 0, 1, 0, 7};
  pool.load_ratio = {1.5, 0};
  fake_.SetPool(pool);
  const absl::StatusOr<PoolInfo> got = client_->Pool();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(got->ready);
  EXPECT_EQ(got->epoch, 4u);
  EXPECT_EQ(got->waiting_for, "1 of 2 workers");
  EXPECT_EQ(got->totals.steps, 5u);
  EXPECT_EQ(got->totals.prefill_rows, 6u);
  EXPECT_EQ(got->totals.decode_rows, 7u);
  EXPECT_EQ(got->totals.exchange.counts(), pool.totals.exchange.counts());
  EXPECT_EQ(got->totals.exchange.sum_seconds(), 0.005);
  EXPECT_EQ(got->totals.exchange_own.counts(), pool.totals.exchange_own.counts());
  EXPECT_EQ(got->kv_blocks_free, 9);
  ASSERT_EQ(got->workers.size(), 1u);
  EXPECT_EQ(got->workers[0].name, "host:1");
  EXPECT_EQ(got->workers[0].round_trip_us, 1.5);
  EXPECT_EQ(got->workers[0].busy_ratio, 0.25);
  EXPECT_EQ(got->workers[0].rows, 11u);
  EXPECT_EQ(got->workers[0].dispatch_us, 12u);
  EXPECT_EQ(got->workers[0].combine_us, 13u);
  EXPECT_EQ(got->workers[0].compute_us, 14u);
  EXPECT_EQ(got->workers[0].sent_bytes, 15u);
  EXPECT_EQ(got->workers[0].received_bytes, 16u);
  EXPECT_EQ(got->workers[0].dispatch.counts(), worker.dispatch.counts());
  EXPECT_EQ(got->workers[0].combine.sum_seconds(), 0.002);
  EXPECT_EQ(got->layers, 2);
  EXPECT_EQ(got->experts, 3);
  EXPECT_EQ(got->expert_tokens, pool.expert_tokens);
  EXPECT_EQ(got->expert_tokens_last_minute, pool.expert_tokens_last_minute);
  EXPECT_EQ(got->load_ratio, pool.load_ratio);
}

TEST_F(TrunkRpcTest, Generate) {
  SequenceRequest request;
  request.request_id = "r";
  request.prompt = {1, 0, 4};
  request.max_tokens = 9;
  request.sampling.temperature = 0.25;
  request.sampling.seed = ~uint64_t{0};
  request.sampling.repetition_penalty = 1.5;
  request.stop_ids = {2};
  request.deadline = absl::Now() + absl::Seconds(1000);
  Received received;
  const auto call = client_->Generate(request, received.Callback());
  ASSERT_TRUE(call.ok());
  const auto fake = fake_.WaitCall(0);
  EXPECT_EQ(fake->request().request_id, "r");
  EXPECT_EQ(fake->request().prompt, request.prompt);
  EXPECT_EQ(fake->request().max_tokens, 9);
  EXPECT_EQ(fake->request().first_logits, -1);
  EXPECT_EQ(fake->request().sampling.temperature, 0.25);
  EXPECT_EQ(fake->request().sampling.seed, ~uint64_t{0});
  EXPECT_EQ(fake->request().sampling.repetition_penalty, 1.5);
  EXPECT_EQ(fake->request().stop_ids, request.stop_ids);
  EXPECT_LT(absl::AbsDuration(fake->request().deadline - request.deadline), absl::Seconds(30));
  fake->SendIds({1, 2});
  received.WaitIds(2);
  fake->SendIds({3});
  SequenceUpdate last;
  last.ids = {4};
  last.finished = true;
  last.reason = FinishReason::kLength;
  last.cached_tokens = 2;
  last.queue_ms = 1.5;
  last.prefill_ms = 2.5;
  last.preemptions = 3;
  last.retries = 4;
  last.slowest_worker = "host:9";
  fake->Send(last);
  const SequenceUpdate got = received.WaitFinished();
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(got.reason, FinishReason::kLength);
  EXPECT_EQ(got.cached_tokens, 2);
  EXPECT_EQ(got.queue_ms, 1.5);
  EXPECT_EQ(got.prefill_ms, 2.5);
  EXPECT_EQ(got.preemptions, 3);
  EXPECT_EQ(got.retries, 4);
  EXPECT_EQ(got.slowest_worker, "host:9");
  EXPECT_THAT(received.ids(), testing::ElementsAre(1, 2, 3, 4));
}

TEST_F(TrunkRpcTest, Logprobs) {
  SequenceRequest request;
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 2;
  Received received;
  const auto call = client_->Generate(request, received.Callback());
  const auto fake = fake_.WaitCall(0);
  SequenceUpdate update;
  update.ids = {7, 8};
  update.logprobs = {{-0.5f, {{9, -0.25f}, {7, -0.5f}}}, {-1e30f, {}}};
  update.finished = true;
  update.reason = FinishReason::kStop;
  fake->Send(update);
  const SequenceUpdate got = received.WaitFinished();
  EXPECT_TRUE(got.status.ok()) << got.status;
  ASSERT_EQ(got.logprobs.size(), 2u);
  EXPECT_EQ(got.logprobs[0].logprob, -0.5f);
  ASSERT_EQ(got.logprobs[0].top.size(), 2u);
  EXPECT_EQ(got.logprobs[0].top[0].id, 9);
  EXPECT_EQ(got.logprobs[0].top[0].logprob, -0.25f);
  EXPECT_EQ(got.logprobs[0].top[1].id, 7);
  EXPECT_EQ(got.logprobs[1].logprob, -1e30f);
  EXPECT_TRUE(got.logprobs[1].top.empty());
}

// Those of a long prompt would be a larger message than a channel takes.
TEST_F(TrunkRpcTest, PromptLogprobsComeInPieces) {
  SequenceRequest request;
  request.prompt_logprobs = true;
  request.max_tokens = 0;
  Received received;
  const auto call = client_->Generate(request, received.Callback());
  const auto fake = fake_.WaitCall(0);
  EXPECT_TRUE(fake->request().prompt_logprobs);
  EXPECT_EQ(fake->request().max_tokens, 0);
  SequenceUpdate update;
  constexpr int kPrompt = 100'000;
  for (int i = 0; i < kPrompt; ++i) {
    update.prompt_logprobs.push_back(
        {-static_cast<float>(i), std::vector<IdLogprob>(20, {1 << 20, -0.5f - static_cast<float>(i)})});
  }
  update.ids = {3};
  update.finished = true;
  update.reason = FinishReason::kLength;
  fake->Send(update);
  const SequenceUpdate last = received.WaitFinished();
  EXPECT_TRUE(last.status.ok()) << last.status;
  EXPECT_EQ(last.reason, FinishReason::kLength);
  EXPECT_GE(received.updates(), kPrompt / 4096);
  EXPECT_THAT(received.ids(), testing::ElementsAre(3));
  const std::vector<TokenLogprobs> got = received.prompt_logprobs();
  ASSERT_EQ(got.size(), static_cast<size_t>(kPrompt));
  for (int i = 0; i < kPrompt; ++i) {
    ASSERT_EQ(got[static_cast<size_t>(i)].logprob, -static_cast<float>(i));
    ASSERT_EQ(got[static_cast<size_t>(i)].top.size(), 20u);
  }
}

TEST_F(TrunkRpcTest, Score) {
  SequenceRequest request;
  request.prompt = {1, 2, 3};
  request.first_logits = 1;
  Received received;
  const auto call = client_->Generate(request, received.Callback());
  const auto fake = fake_.WaitCall(0);
  EXPECT_EQ(fake->request().first_logits, 1);
  SequenceUpdate update;
  update.logits = {{1, {0.5f, -1.0f}}, {2, {1e-40f, 3.0f}}};
  fake->Send(update);
  fake->Finish(FinishReason::kNone);
  EXPECT_TRUE(received.WaitFinished().status.ok());
  const std::vector<LogitsRow> rows = received.rows();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].position, 2);
  EXPECT_EQ(rows[0].logits, update.logits[0].logits);
  EXPECT_EQ(rows[1].logits, update.logits[1].logits);
}

TEST_F(TrunkRpcTest, ErrorsComeAsTheLastUpdate) {
  Received failed;
  const auto call = client_->Generate({}, failed.Callback());
  const auto fake = fake_.WaitCall(0);
  fake->SendIds({1});
  fake->Fail(absl::UnavailableError("worker lost"));
  EXPECT_EQ(failed.WaitFinished().status, absl::UnavailableError("worker lost"));
  EXPECT_THAT(failed.ids(), testing::ElementsAre(1));
  fake_.SetStatus(absl::ResourceExhaustedError("queue full"));
  Received refused;
  const auto second = client_->Generate({}, refused.Callback());
  EXPECT_EQ(refused.WaitFinished().status, absl::ResourceExhaustedError("queue full"));
}

TEST_F(TrunkRpcTest, CancelEndsWithCancelled) {
  Received received;
  const auto call = client_->Generate({}, received.Callback());
  const auto fake = fake_.WaitCall(0);
  (*call)->Cancel();
  fake->WaitCancelled();
  EXPECT_EQ(received.WaitFinished().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(TrunkRpcTest, DestroyedCallIsCancelledAndSilent) {
  Received received;
  auto call = client_->Generate({}, received.Callback());
  const auto fake = fake_.WaitCall(0);
  call->reset();
  fake->WaitCancelled();
  EXPECT_TRUE(received.ids().empty());
}

TEST_F(TrunkRpcTest, CallMayBeDestroyedInItsOwnUpdate) {
  Mutex mutex;
  CondVar changed;
  bool destroyed = false;
  std::unique_ptr<TrunkCall> call;
  auto started = client_->Generate({}, [&](SequenceUpdate) {
    MutexLock lock(&mutex);
    call.reset();
    destroyed = true;
    changed.NotifyAll();
  });
  {
    MutexLock lock(&mutex);
    call = *std::move(started);
  }
  const auto fake = fake_.WaitCall(0);
  fake->SendIds({1});
  MutexLock lock(&mutex);
  while (!destroyed) changed.Wait(&mutex);
  fake->WaitCancelled();
}

TEST_F(TrunkRpcTest, SlowReaderOfLogitsIsCutOff) {
  server_.reset();
  service_ = std::make_unique<TrunkService>(&fake_, TrunkServiceOptions{.max_waiting_logits_bytes = 100'000});
  StartServer({"127.0.0.1", 0});
  GrpcTrunk client(server_->address().ToString());
  // A client that holds its callback back reads nothing more; the trunk is not held up by it.
  Mutex gate;
  gate.Lock();
  Received received;
  SequenceRequest request;
  request.first_logits = 0;
  const auto call = client.Generate(request, [&](SequenceUpdate update) {
    MutexLock lock(&gate);
    received.Callback()(std::move(update));
  });
  const auto fake = fake_.WaitCall(0);
  SequenceUpdate rows;
  rows.logits.assign(4, {0, std::vector<float>(1000)});
  while (fake->Send(rows)) {
    if (fake->cancelled()) break;
  }
  fake->WaitCancelled();
  gate.Unlock();
  EXPECT_EQ(received.WaitFinished().status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(TrunkRpcTest, RouterThatRestartsIsFoundAgain) {
  const HostPort address = server_->address();
  ASSERT_TRUE(client_->Pool().ok());
  server_.reset();
  EXPECT_EQ(client_->Pool().status().code(), absl::StatusCode::kUnavailable);
  Received received;
  const auto call = client_->Generate({}, received.Callback());
  EXPECT_EQ(received.WaitFinished().status.code(), absl::StatusCode::kUnavailable);
  StartServer(address);
  while (!client_->Pool().ok()) std::this_thread::yield();
  EXPECT_TRUE(client_->Describe().ok());
}

}  // namespace
}  // namespace moepool
