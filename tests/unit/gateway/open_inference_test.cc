// Requests and answers in KServe's tensors, without a server.
#include "gateway/open_inference.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using testing::HasSubstr;

ModelInferRequest::InferInputTensor* AddInput(ModelInferRequest* request, const std::string& name,
                                              const std::string& datatype) {
  ModelInferRequest::InferInputTensor* const input = request->add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  input->add_shape(1);
  return input;
}

ModelInferRequest Hi() {
  ModelInferRequest request;
  AddInput(&request, "text_input", "BYTES")->mutable_contents()->add_bytes_contents("hi");
  return request;
}

std::string Refusal(const ModelInferRequest& request) {
  const auto read = ReadOpenInferRequest(request, false);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(read.status().message());
}

TEST(ReadOpenInferRequestTest, TextAndParameters) {
  ModelInferRequest proto = Hi();
  auto& parameters = *proto.mutable_parameters();
  parameters["max_tokens"].set_int64_param(9);
  parameters["temperature"].set_double_param(0.25);
  parameters["seed"].set_uint64_param(1ull << 52);
  parameters["stop"].set_string_param("end");
  parameters["ignore_eos"].set_bool_param(true);
  parameters["timeout"].set_int64_param(5'000'000);
  // What Triton's clients send, whatever the model.
  parameters["sequence_id"].set_int64_param(3);
  parameters["sequence_start"].set_bool_param(true);
  parameters["priority"].set_uint64_param(1);
  parameters["binary_data_output"].set_bool_param(true);
  parameters["triton_enable_empty_final_response"].set_bool_param(true);
  proto.add_outputs()->set_name("text_output");
  const absl::Time before = absl::Now();
  const auto read = ReadOpenInferRequest(proto, true);
  ASSERT_TRUE(read.ok()) << read.status();
  const InferRequest& request = read->request;
  EXPECT_EQ(std::get<std::string>(request.input), "hi");
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.sampling.temperature, 0.25);
  EXPECT_EQ(request.seed, 1ull << 52);
  EXPECT_THAT(request.stop, testing::ElementsAre("end"));
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_TRUE(request.stream);
  EXPECT_FALSE(request.split_reasoning);
  EXPECT_GE(request.deadline, before + absl::Seconds(5));
  EXPECT_LE(request.deadline, absl::Now() + absl::Seconds(5));
  EXPECT_THAT(read->outputs, testing::ElementsAre("text_output"));
  EXPECT_FALSE(ReadOpenInferRequest(Hi(), false)->request.stream);
}

TEST(ReadOpenInferRequestTest, SamplingParametersHoldWhatParametersCannot) {
  ModelInferRequest proto = Hi();
  AddInput(&proto, "sampling_parameters", "BYTES")
      ->mutable_contents()
      ->add_bytes_contents(R"({"logit_bias": {"5": 2}, "stop": ["a", "b"]})");
  AddInput(&proto, "stream", "BOOL")->mutable_contents()->add_bool_contents(true);
  const auto read = ReadOpenInferRequest(proto, false);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->request.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(read->request.sampling.logit_bias[0].id, 5);
  EXPECT_THAT(read->request.stop, testing::ElementsAre("a", "b"));
  EXPECT_TRUE(read->request.stream);
  (*proto.mutable_parameters())["stop"].set_string_param("c");
  EXPECT_EQ(Refusal(proto), "stop is given twice");
}

TEST(ReadOpenInferRequestTest, RawContents) {
  ModelInferRequest proto;
  AddInput(&proto, "stream", "BOOL");
  AddInput(&proto, "text_input", "BYTES");
  proto.add_raw_input_contents(std::string(1, '\1'));
  proto.add_raw_input_contents(std::string("\5\0\0\0h\xC3\xA9llo", 10).substr(0, 9));
  const auto read = ReadOpenInferRequest(proto, false);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(std::get<std::string>(read->request.input), "h\xC3\xA9ll");
  EXPECT_TRUE(read->request.stream);
  for (const std::string& raw : {std::string(), std::string("\5\0\0", 3), std::string("\5\0\0\0hell", 8),
                                 std::string("\2\0\0\0hello", 9), std::string("\xFF\xFF\xFF\xFFhello", 9)}) {
    proto.set_raw_input_contents(1, raw);
    EXPECT_THAT(Refusal(proto), HasSubstr("text_input has " + std::to_string(raw.size()) + " raw bytes"));
  }
  proto.mutable_raw_input_contents()->RemoveLast();
  EXPECT_EQ(Refusal(proto), "raw_input_contents has 1 entries for 2 inputs");
}

TEST(ReadOpenInferRequestTest, WhatIsWrongIsNamed) {
  const auto with = [](auto change) {
    ModelInferRequest proto = Hi();
    change(&proto);
    return Refusal(proto);
  };
  using Request = ModelInferRequest*;
  EXPECT_EQ(Refusal(ModelInferRequest()), "text_input is missing");
  EXPECT_EQ(with([](Request r) { AddInput(r, "image", "FP32"); }),
            "image is no input; there are text_input, stream, sampling_parameters");
  EXPECT_EQ(with([](Request r) { r->mutable_inputs(0)->set_datatype("FP32"); }),
            "text_input is of FP32, not of BYTES");
  EXPECT_EQ(with([](Request r) { r->mutable_inputs(0)->add_shape(2); }),
            "text_input has the shape [1, 2], not [1]");
  EXPECT_EQ(with([](Request r) { r->mutable_inputs(0)->clear_shape(); }),
            "text_input has the shape [], not [1]");
  EXPECT_EQ(with([](Request r) { r->mutable_inputs(0)->mutable_contents()->add_bytes_contents("b"); }),
            "text_input has 2 elements, not 1");
  EXPECT_EQ(with([](Request r) { r->mutable_inputs(0)->mutable_contents()->set_bytes_contents(0, "\xFF"); }),
            "text_input is not UTF-8");
  EXPECT_EQ(with([](Request r) { *r->add_inputs() = r->inputs(0); }), "text_input is given twice");
  EXPECT_EQ(with([](Request r) { r->add_outputs()->set_name("image"); }),
            "image is no output; there are text_output, finish_reason, prompt_tokens, cached_tokens, "
            "completion_tokens, seed");
  EXPECT_EQ(with([](Request r) { (*r->mutable_parameters())["temperature"]; }), "temperature has no value");
  EXPECT_EQ(
      with([](Request r) {
        (*r->mutable_parameters())["temperature"].set_double_param(std::numeric_limits<double>::infinity());
      }),
      "temperature is inf");
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["max_tokens"].set_string_param("9"); }),
              HasSubstr("max_tokens"));
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["no_such"].set_bool_param(true); }),
              HasSubstr("no_such is not a known field"));
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["prompt"].set_string_param("b"); }),
              HasSubstr("prompt is given twice"));
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["n"].set_int64_param(2); }),
              HasSubstr("n is 2"));
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["logprobs"].set_bool_param(true); }),
              HasSubstr("logprobs"));
  EXPECT_THAT(with([](Request r) { (*r->mutable_parameters())["timeout"].set_int64_param(-1); }),
              HasSubstr("timeout is -1"));
  EXPECT_THAT(with([](Request r) {
                AddInput(r, "sampling_parameters", "BYTES")->mutable_contents()->add_bytes_contents("[1]");
              }),
              HasSubstr("sampling_parameters is not a JSON object"));
  EXPECT_FALSE(with([](Request r) {
                 AddInput(r, "sampling_parameters", "BYTES")->mutable_contents()->add_bytes_contents("{");
               }).empty());
}

TEST(FillOpenInferResponseTest, APieceAndTheLast) {
  InferEvent piece;
  piece.text = "h\xC3\xA9";
  ModelInferResponse response;
  FillOpenInferResponse(piece, {}, true, &response);
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).name(), "text_output");
  EXPECT_EQ(response.outputs(0).datatype(), "BYTES");
  EXPECT_THAT(response.outputs(0).shape(), testing::ElementsAre(1));
  EXPECT_EQ(response.raw_output_contents(0), std::string("\3\0\0\0h\xC3\xA9", 7));
  EXPECT_FALSE(response.parameters().at("triton_final_response").bool_param());

  InferEvent last;
  last.ended = last.finished = true;
  last.reason = FinishReason::kLength;
  last.seed = 0x0102030405060708;
  last.usage = {.prompt_tokens = 258, .cached_tokens = 3, .completion_tokens = 5};
  last.model = "m";
  response.Clear();
  FillOpenInferResponse(last, {}, true, &response);
  EXPECT_TRUE(response.parameters().at("triton_final_response").bool_param());
  EXPECT_EQ(response.model_name(), "m");
  EXPECT_EQ(response.model_version(), "1");
  std::vector<std::string> names;
  for (const auto& output : response.outputs()) names.push_back(output.name());
  EXPECT_THAT(names, testing::ElementsAre("text_output", "finish_reason", "prompt_tokens", "cached_tokens",
                                          "completion_tokens", "seed"));
  ASSERT_EQ(response.raw_output_contents_size(), 6);
  EXPECT_EQ(response.raw_output_contents(1), std::string("\6\0\0\0length", 10));
  EXPECT_EQ(response.raw_output_contents(2), std::string("\2\1\0\0", 4));
  EXPECT_EQ(response.raw_output_contents(5), "\x08\x07\x06\x05\x04\x03\x02\x01");

  response.Clear();
  FillOpenInferResponse(last, {"completion_tokens"}, false, &response);
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).name(), "completion_tokens");
  EXPECT_EQ(response.outputs(0).datatype(), "INT32");
  EXPECT_TRUE(response.parameters().empty());
}

TEST(CheckModelNameTest, NameAndVersion) {
  ServedModel model;
  model.info = TestModelInfo();
  EXPECT_TRUE(CheckModelName(model, "test-model", "").ok());
  EXPECT_TRUE(CheckModelName(model, "test-model", "1").ok());
  EXPECT_EQ(CheckModelName(model, "other", "").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(CheckModelName(model, "test-model", "2").message()), HasSubstr("version '2'"));
}

}  // namespace
}  // namespace moepool
