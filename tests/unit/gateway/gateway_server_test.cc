// The gateway over gRPC and HTTP at once, through GatewayServer.
#include "gateway/gateway_server.h"

#include <limits>
#include <map>

#include "common/rpc/rpc_channel.h"
#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

class GatewayServerTest : public testing::Test {
 protected:
  GatewayServerTest() : trunk_(TestModelInfo()) {
    GatewayOptions options;
    options.http.address = {"127.0.0.1", 0};
    options.grpc_address = HostPort{"127.0.0.1", 0};
    options.model_factory = MakeTestModel;
    options.unread = {.call_bytes = 1 << 20, .bytes = 4 << 20};
    options.allowed_hosts = {"test"};  // as HttpClient calls every server
    server_ = *GatewayServer::Start(options, &trunk_, &metrics_);
    channel_ = MakeRpcChannel(server_->grpc_address()->ToString());
    stub_ = v1::Inference::NewStub(channel_);
    // The model is known once the gateway says so.
    HttpClient client(server_->http_address().port);
    while (client.Call("GET", "/ready").status != 200) std::this_thread::yield();
  }

  struct Result {
    std::string text;
    std::vector<int32_t> ids;
    v1::GenerateResponse last;
    grpc::Status status;
  };
  Result Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, request);
    Result result;
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      result.text += response.text();
      result.ids.insert(result.ids.end(), response.token_ids().begin(), response.token_ids().end());
      result.last = response;
    }
    result.status = reader->Finish();
    return result;
  }
  void Answer(const std::string& text) {
    trunk_.SetResponder([text](const SequenceRequest&) {
      return std::vector<SequenceUpdate>{IdsUpdate(text), LastUpdate(FinishReason::kLength)};
    });
  }

  FakeTrunk trunk_;
  Metrics metrics_;
  std::unique_ptr<GatewayServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(GatewayServerTest, Generate) {
  Answer("hello");
  v1::GenerateRequest request;
  request.set_prompt("hi");
  request.mutable_sampling()->set_seed(9);
  request.mutable_sampling()->set_temperature(0.5);
  const Result result = Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text, "hello");
  EXPECT_EQ(result.ids, Ids("hello"));
  EXPECT_EQ(result.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result.last.seed(), 9u);
  EXPECT_EQ(result.last.model(), "test-model");
  EXPECT_EQ(result.last.usage().prompt_tokens(), 19);
  EXPECT_EQ(result.last.usage().completion_tokens(), 5);
  EXPECT_THAT(result.last.id(), testing::StartsWith("infer-"));
  EXPECT_EQ(trunk_.WaitCall(0)->request().sampling.temperature, 0.5);
}

TEST_F(GatewayServerTest, TokenIdsAreFedAsTheyAre) {
  Answer("x");
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(5);
  EXPECT_TRUE(Generate(request).status.ok());
  EXPECT_THAT(trunk_.WaitCall(0)->request().prompt, testing::ElementsAre(5));
  request.mutable_token_ids()->add_ids(kVocab);
  const Result result = Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(result.status.error_message(), testing::HasSubstr("token_ids[1] is 258, not in [0, 258)"));
}

TEST_F(GatewayServerTest, Errors) {
  v1::GenerateRequest request;
  EXPECT_THAT(Generate(request).status.error_message(), testing::HasSubstr("input"));
  request.set_prompt("hi");
  request.mutable_sampling()->set_top_p(std::numeric_limits<double>::quiet_NaN());
  const Result nan = Generate(request);
  EXPECT_EQ(nan.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(nan.status.error_message(), testing::HasSubstr("top_p is nan"));
  request.clear_sampling();
  request.set_max_tokens(-5);
  EXPECT_THAT(Generate(request).status.error_message(), testing::HasSubstr("max_tokens is -5"));
}

TEST_F(GatewayServerTest, SamplingParameters) {
  Answer("x");
  v1::GenerateRequest request;
  request.set_prompt("hi");
  request.set_max_tokens(20);
  v1::Sampling* const sampling = request.mutable_sampling();
  (*sampling->mutable_logit_bias())[9] = -3;
  (*sampling->mutable_logit_bias())[4] = 2;
  sampling->set_min_tokens(2);
  sampling->set_ignore_eos(true);
  sampling->set_repeat_last_n(0);
  sampling->set_dry_multiplier(0.5);
  sampling->set_dry_base(1.25);
  sampling->set_dry_allowed_length(0);
  sampling->set_dry_penalty_last_n(-1);
  ASSERT_TRUE(Generate(request).status.ok());
  sampling->mutable_dry_sequence_breakers();
  ASSERT_TRUE(Generate(request).status.ok());
  const SequenceRequest& first = trunk_.WaitCall(0)->request();
  ASSERT_EQ(first.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(first.sampling.logit_bias[0].id, 4);
  EXPECT_EQ(first.sampling.logit_bias[1].bias, -3);
  EXPECT_EQ(first.sampling.min_tokens, 2);
  EXPECT_TRUE(first.stop_ids.empty());
  EXPECT_EQ(first.sampling.repeat_last_n, 0);
  EXPECT_EQ(first.sampling.dry.base, 1.25);
  EXPECT_EQ(first.sampling.dry.allowed_length, 0);
  EXPECT_EQ(first.sampling.dry.penalty_last_n, -1);
  EXPECT_THAT(first.sampling.dry.breaker_ids, testing::ElementsAre('\n', '"', '*', ':'));
  EXPECT_TRUE(trunk_.WaitCall(1)->request().sampling.dry.breaker_ids.empty());
}

TEST_F(GatewayServerTest, SamplingErrorsNameTheField) {
  const auto refused = [this](auto set) {
    v1::GenerateRequest request;
    request.set_prompt("hi");
    set(&request, request.mutable_sampling());
    const grpc::Status status = Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return status.error_message();
  };
  using Request = v1::GenerateRequest*;
  using Sampling = v1::Sampling*;
  EXPECT_EQ(refused([](Request r, Sampling) { r->set_n(0); }), "n is 0, not in [1, 16]");
  EXPECT_EQ(refused([](Request, Sampling s) { (*s->mutable_logit_bias())[-1] = 0; }),
            "logit_bias[-1] is for an id that is not in [0, 258)");
  EXPECT_EQ(refused([](Request, Sampling s) { (*s->mutable_logit_bias())[1] = 101; }),
            "logit_bias[1] is 101, not in [-100, 100]");
  EXPECT_EQ(refused([](Request, Sampling s) { s->set_top_logprobs(1); }),
            "top_logprobs is 1, which needs logprobs");
  EXPECT_EQ(refused([](Request, Sampling s) { s->set_min_tokens(257); }),
            "min_tokens is 257, more than max_tokens, which is 256");
  EXPECT_EQ(refused([](Request, Sampling s) { s->set_repeat_last_n(-2); }),
            "repeat_last_n is -2, less than -1");
  EXPECT_EQ(refused([](Request, Sampling s) { s->set_dry_base(0.5); }), "dry_base is 0.5, not in [1, 100]");
  EXPECT_EQ(refused([](Request, Sampling s) { s->mutable_dry_sequence_breakers()->add_strings(""); }),
            "dry_sequence_breakers[0] has 0 bytes, not 1 to 40");
}

TEST_F(GatewayServerTest, SeveralAnswersWithLogprobs) {
  trunk_.SetResponder([](const SequenceRequest& request) {
    SequenceUpdate update;
    update.ids = {'a', static_cast<int32_t>('a' + request.sampling.seed)};
    for (const int32_t id : update.ids) update.logprobs.push_back({id / -64.0f, {{kEos, -1.5f}}});
    return std::vector<SequenceUpdate>{update, LastUpdate(FinishReason::kStop)};
  });
  v1::GenerateRequest request;
  request.set_prompt("hi");
  request.set_n(5);
  request.mutable_sampling()->set_seed(1);
  request.mutable_sampling()->set_logprobs(true);
  request.mutable_sampling()->set_top_logprobs(1);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  std::map<int, v1::GenerateResponse> answers;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    answers[message.index()].MergeFrom(message);
    EXPECT_FALSE(message.id().empty() && message.has_usage());
  }
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_EQ(answers.size(), 5u);
  for (const auto& [index, answer] : answers) {
    EXPECT_THAT(answer.token_ids(), testing::ElementsAre('a', 'a' + index + 1));
    ASSERT_EQ(answer.logprobs_size(), 2);
    EXPECT_EQ(answer.logprobs(1).token().id(), 'a' + index + 1);
    EXPECT_EQ(answer.logprobs(1).token().token(), std::string(1, static_cast<char>('a' + index + 1)));
    EXPECT_EQ(answer.logprobs(1).token().logprob(), ('a' + index + 1) / -64.0f);
    ASSERT_EQ(answer.logprobs(1).top_size(), 1);
    EXPECT_EQ(answer.logprobs(1).top(0).token(), "</s>");
    EXPECT_EQ(answer.finish_reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(answer.seed(), static_cast<uint64_t>(index + 1));
  }
  // The last message of all says what is true of all.
  EXPECT_EQ(message.usage().completion_tokens(), 10);
  EXPECT_EQ(message.usage().prompt_tokens(), 19);
  EXPECT_EQ(message.model(), "test-model");
  EXPECT_EQ(message.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(GatewayServerTest, ErrorAfterTextKeepsTheText) {
  trunk_.SetResponder([](const SequenceRequest&) {
    std::vector<SequenceUpdate> updates = {IdsUpdate("part"), {}};
    updates[1].finished = true;
    updates[1].status = absl::UnavailableError("worker lost");
    return updates;
  });
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const Result result = Generate(request);
  EXPECT_EQ(result.text, "part");
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(result.status.error_message(), "worker lost");
  EXPECT_EQ(result.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
}

TEST_F(GatewayServerTest, CancelReachesTheTrunk) {
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const auto reader = stub_->Generate(&context, request);
  const auto call = trunk_.WaitCall(0);
  call->SendIds({'a'});
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "a");
  context.TryCancel();
  call->WaitCancelled();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GatewayServerTest, GivesUpWhoeverDoesNotRead) {
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const auto reader = stub_->Generate(&context, request);
  const auto call = trunk_.WaitCall(0);
  const std::vector<int32_t> ids = Ids(std::string(16 << 10, 'a'));
  for (int i = 0; i < 300; ++i) call->SendIds(ids);  // 4.7 MiB of text and 19 of ids
  call->WaitCancelled();
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GatewayServerTest, LimitsOfTheUnreadHoldOverHttpToo) {
  HttpClient client(server_->http_address().port);
  Answer(std::string(1 << 20, 'a'));
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi"})").status, 200);
  Answer(std::string(5 << 20, 'a'));
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi"})").status, 0);
}

TEST_F(GatewayServerTest, WhatGathersBehindASlowReaderIsWhole) {
  // The first message is read late; the rest of an answer of about 700 KiB gathers behind it meanwhile.
  std::string text;
  for (int i = 0; i < 140 << 10; ++i) text += static_cast<char>('a' + i % 26);
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const auto reader = stub_->Generate(&context, request);
  const auto call = trunk_.WaitCall(0);
  for (size_t i = 0; i < text.size(); i += 10 << 10) call->SendIds(Ids(text.substr(i, 10 << 10)));
  call->Send(LastUpdate(FinishReason::kLength));
  std::string got;
  v1::GenerateResponse response;
  while (reader->Read(&response)) got += response.text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(got, text);
}

TEST_F(GatewayServerTest, DeadlineIsCarried) {
  Answer("x");
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Seconds(100);
  context.set_deadline(absl::ToChronoTime(deadline));
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_LT(trunk_.WaitCall(0)->request().deadline, deadline + absl::Seconds(5));
}

TEST_F(GatewayServerTest, TokenizeAndGetModel) {
  grpc::ClientContext tokenize;
  v1::TokenizeRequest request;
  request.set_text("<s>é");
  request.set_parse_special(true);
  v1::TokenizeResponse response;
  ASSERT_TRUE(stub_->Tokenize(&tokenize, request, &response).ok());
  EXPECT_THAT(response.ids(), testing::ElementsAre(kBos, 0xC3, 0xA9));
  EXPECT_THAT(response.pieces(), testing::ElementsAre("<s>", "\xC3", "\xA9"));
  grpc::ClientContext get_model;
  v1::GetModelResponse model;
  ASSERT_TRUE(stub_->GetModel(&get_model, {}, &model).ok());
  EXPECT_EQ(model.name(), "test-model");
  EXPECT_EQ(model.digest().size(), 32u);
  EXPECT_EQ(model.context_tokens(), 128);
}

TEST_F(GatewayServerTest, DrainRefusesNewRequestsAndFinishesOld) {
  HttpClient client(server_->http_address().port);
  client.Send("POST", "/infer", R"({"prompt": "hi"})");
  const auto call = trunk_.WaitCall(0);
  std::thread drain([&] { server_->Drain(absl::InfiniteFuture()); });
  v1::GenerateRequest request;
  request.set_prompt("hi");
  // Refused from some moment on, at the latest when gRPC's port is closed; until then each is taken and
  // answered.
  Answer("x");
  while (Generate(request).status.ok()) {
  }
  call->SendIds(Ids("done"));
  call->Finish(FinishReason::kStop);
  EXPECT_EQ(client.Read().Json()["text"], "done");
  client.Close();
  drain.join();
}

}  // namespace
}  // namespace moepool
