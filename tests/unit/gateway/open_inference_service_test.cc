// KServe's protocol through a whole gateway.
#include "gateway/open_inference_service.h"

#include <map>
#include <thread>

#include "common/rpc/rpc_channel.h"
#include "gateway/gateway_server.h"
#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;
using testing::HasSubstr;

class OpenInferenceServiceTest : public testing::Test {
 protected:
  OpenInferenceServiceTest() : trunk_(TestModelInfo()) {
    GatewayOptions options;
    options.http.address = {"127.0.0.1", 0};
    options.grpc_address = HostPort{"127.0.0.1", 0};
    options.model_factory = MakeTestModel;
    server_ = *GatewayServer::Start(options, &trunk_, &metrics_);
    stub_ = inference::GRPCInferenceService::NewStub(MakeRpcChannel(server_->grpc_address()->ToString()));
    while (!Ready()) std::this_thread::yield();
  }
  bool Ready() {
    grpc::ClientContext context;
    inference::ServerReadyResponse response;
    return stub_->ServerReady(&context, {}, &response).ok() && response.ready();
  }
  static ModelInferRequest Request(const std::string& text, const std::string& id = "") {
    ModelInferRequest request;
    request.set_model_name("test-model");
    request.set_id(id);
    auto* const input = request.add_inputs();
    input->set_name("text_input");
    input->set_datatype("BYTES");
    input->add_shape(1);
    input->mutable_contents()->add_bytes_contents(text);
    return request;
  }
  grpc::Status Infer(const ModelInferRequest& request, ModelInferResponse* response) {
    grpc::ClientContext context;
    return stub_->ModelInfer(&context, request, response);
  }
  // Of an element of BYTES, what follows its length.
  static std::string Output(const ModelInferResponse& response, const std::string& name) {
    for (int i = 0; i < response.outputs_size(); ++i) {
      if (response.outputs(i).name() == name) return response.raw_output_contents(i).substr(4);
    }
    return "none";
  }
  void Answer(std::vector<std::string> texts) {
    trunk_.SetResponder([texts](const SequenceRequest&) {
      std::vector<SequenceUpdate> updates;
      for (const std::string& text : texts) updates.push_back(IdsUpdate(text));
      updates.push_back(LastUpdate(FinishReason::kStop));
      return updates;
    });
  }

  FakeTrunk trunk_;
  Metrics metrics_;
  std::unique_ptr<GatewayServer> server_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
};

TEST_F(OpenInferenceServiceTest, WhatIsServed) {
  grpc::ClientContext live_context;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(stub_->ServerLive(&live_context, {}, &live).ok());
  EXPECT_TRUE(live.live());
  grpc::ClientContext server_context;
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(stub_->ServerMetadata(&server_context, {}, &server).ok());
  EXPECT_EQ(server.name(), "moepool");
  EXPECT_EQ(server.version(), kVersion);
  for (const auto& [name, version, expected] :
       {std::tuple("test-model", "", true), std::tuple("test-model", "1", true),
        std::tuple("test-model", "2", false), std::tuple("other", "", false)}) {
    grpc::ClientContext context;
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    inference::ModelReadyResponse response;
    ASSERT_TRUE(stub_->ModelReady(&context, request, &response).ok());
    EXPECT_EQ(response.ready(), expected) << name << version;
  }
  grpc::ClientContext metadata_context;
  inference::ModelMetadataRequest metadata_request;
  metadata_request.set_name("test-model");
  inference::ModelMetadataResponse metadata;
  ASSERT_TRUE(stub_->ModelMetadata(&metadata_context, metadata_request, &metadata).ok());
  EXPECT_EQ(metadata.inputs(0).name(), "text_input");
  EXPECT_EQ(metadata.outputs(0).name(), "text_output");
  EXPECT_THAT(metadata.versions(), testing::ElementsAre("1"));
  grpc::ClientContext config_context;
  inference::ModelConfigRequest config_request;
  config_request.set_name("test-model");
  inference::ModelConfigResponse config;
  ASSERT_TRUE(stub_->ModelConfig(&config_context, config_request, &config).ok());
  EXPECT_TRUE(config.config().model_transaction_policy().decoupled());
  EXPECT_EQ(config.config().input(0).data_type(), inference::TYPE_STRING);
  EXPECT_TRUE(config.config().input(1).optional());
  grpc::ClientContext other_context;
  config_request.set_name("other");
  EXPECT_EQ(stub_->ModelConfig(&other_context, config_request, &config).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(OpenInferenceServiceTest, Infer) {
  Answer({"he", "llo"});
  ModelInferRequest request = Request("hi", "r1");
  (*request.mutable_parameters())["max_tokens"].set_int64_param(7);
  ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.id(), "r1");
  EXPECT_EQ(response.model_name(), "test-model");
  EXPECT_EQ(Output(response, "text_output"), "hello");
  EXPECT_EQ(Output(response, "finish_reason"), "stop");
  EXPECT_EQ(trunk_.WaitCall(0)->request().max_tokens, 7);
}

TEST_F(OpenInferenceServiceTest, InferErrors) {
  ModelInferResponse response;
  ModelInferRequest request = Request("hi");
  request.set_model_name("other");
  EXPECT_EQ(Infer(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  request = Request("hi");
  (*request.mutable_parameters())["temperature"].set_double_param(-1);
  const grpc::Status range = Infer(request, &response);
  EXPECT_EQ(range.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(range.error_message(), HasSubstr("temperature is -1"));
  request = Request("hi");
  (*request.mutable_parameters())["stream"].set_bool_param(true);
  EXPECT_THAT(Infer(request, &response).error_message(), HasSubstr("ModelStreamInfer"));
  trunk_.SetResponder([](const SequenceRequest&) {
    std::vector<SequenceUpdate> updates = {IdsUpdate("part"), {}};
    updates[1].finished = true;
    updates[1].status = absl::UnavailableError("worker lost");
    return updates;
  });
  const grpc::Status lost = Infer(Request("hi"), &response);
  EXPECT_EQ(lost.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(lost.error_message(), "worker lost");
}

TEST_F(OpenInferenceServiceTest, CancellingInferReachesTheTrunk) {
  grpc::ClientContext context;
  std::thread client([&] {
    ModelInferResponse response;
    EXPECT_EQ(stub_->ModelInfer(&context, Request("hi"), &response).error_code(),
              grpc::StatusCode::CANCELLED);
  });
  const auto call = trunk_.WaitCall(0);
  context.TryCancel();
  call->WaitCancelled();
  client.join();
}

TEST_F(OpenInferenceServiceTest, DeadlinesAreCarried) {
  Answer({"x"});
  ModelInferRequest request = Request("hi");
  (*request.mutable_parameters())["timeout"].set_int64_param(90'000'000);
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Seconds(50);
  context.set_deadline(absl::ToChronoTime(deadline));
  ModelInferResponse response;
  ASSERT_TRUE(stub_->ModelInfer(&context, request, &response).ok());
  EXPECT_LT(trunk_.WaitCall(0)->request().deadline, deadline + absl::Seconds(5));
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_GT(trunk_.WaitCall(1)->request().deadline, deadline + absl::Seconds(5));
  EXPECT_LT(trunk_.WaitCall(1)->request().deadline, absl::Now() + absl::Seconds(95));
}

TEST_F(OpenInferenceServiceTest, StreamsSideBySide) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(Request("one", "a")));
  const auto first = trunk_.WaitCall(0);
  ASSERT_TRUE(stream->Write(Request("two", "b")));
  const auto second = trunk_.WaitCall(1);
  ModelStreamInferResponse response;
  const auto next = [&] {
    EXPECT_TRUE(stream->Read(&response));
    return response.infer_response();
  };
  second->SendIds(Ids("B"));
  EXPECT_EQ(next().id(), "b");
  EXPECT_EQ(Output(response.infer_response(), "text_output"), "B");
  EXPECT_FALSE(response.infer_response().parameters().at("triton_final_response").bool_param());
  first->SendIds(Ids("A"));
  EXPECT_EQ(next().id(), "a");
  first->Finish(FinishReason::kLength);
  EXPECT_EQ(next().id(), "a");
  EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
  EXPECT_EQ(Output(response.infer_response(), "finish_reason"), "length");
  // Half closed, the stream lasts until the other is done.
  stream->WritesDone();
  second->SendIds(Ids("!"));
  EXPECT_EQ(next().id(), "b");
  second->Finish(FinishReason::kStop);
  EXPECT_EQ(next().id(), "b");
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OpenInferenceServiceTest, AnErrorLeavesTheStreamAlone) {
  Answer({"yes", "!"});
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  ModelInferRequest wrong = Request("hi", "wrong");
  wrong.set_model_name("other");
  ModelStreamInferResponse response;
  stream->Write(wrong);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("'other' is not served"));
  EXPECT_EQ(response.infer_response().id(), "wrong");
  // Whole, where the request asks for it.
  ModelInferRequest whole = Request("hi", "whole");
  (*whole.mutable_parameters())["stream"].set_bool_param(false);
  stream->Write(whole);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_message(), "");
  EXPECT_EQ(response.infer_response().id(), "whole");
  EXPECT_EQ(Output(response.infer_response(), "text_output"), "yes!");
  EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OpenInferenceServiceTest, CancellingAStreamReachesTheTrunk) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  stream->Write(Request("one", "a"));
  stream->Write(Request("two", "b"));
  const auto first = trunk_.WaitCall(0);
  const auto second = trunk_.WaitCall(1);
  first->SendIds(Ids("A"));
  ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  first->WaitCancelled();
  second->WaitCancelled();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(OpenInferenceServiceTest, ManyRequestsOnOneStream) {
  Answer({"x"});
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  constexpr int kRequests = 300;  // more than the server reads before it has written
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) stream->Write(Request("hi", std::to_string(i)));
    stream->WritesDone();
  });
  std::map<std::string, int> finals;
  ModelStreamInferResponse response;
  while (stream->Read(&response)) {
    const bool refused = !response.error_message().empty();  // more than the gateway takes at once
    const auto& parameters = response.infer_response().parameters();
    if (refused || parameters.at("triton_final_response").bool_param())
      ++finals[response.infer_response().id()];
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(finals.size(), static_cast<size_t>(kRequests));
  for (const auto& [id, count] : finals) EXPECT_EQ(count, 1) << id;
}

}  // namespace
}  // namespace moepool
