"""A stranger's gRPC client: grpcio's health and reflection, and messages compiled from proto/inference.proto alone."""

import hashlib
import importlib
import json
import pathlib
import sys
import unittest

import grpc
import grpc_tools
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, PATIENCE_S, SCRATCH, slow_mixtral, tiny_mixtral, wait_for

PROTO = pathlib.Path(__file__).parents[2] / "proto" / "inference.proto"
SERVICE = "moepool.v1.Inference"
Serving = health_pb2.HealthCheckResponse


def compile_client():
    """inference_pb2 and inference_pb2_grpc, from a folder that holds nothing but the proto."""
    folder = SCRATCH / "stranger"
    folder.mkdir(exist_ok=True)
    (folder / PROTO.name).write_bytes(PROTO.read_bytes())
    well_known = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
    code = protoc.main(["protoc", f"-I{folder}", f"-I{well_known}", f"--python_out={folder}",
                        f"--grpc_python_out={folder}", str(folder / PROTO.name)])
    if code != 0:
        raise AssertionError(f"protoc ended with {code}")
    sys.path.insert(0, str(folder))
    return importlib.import_module("inference_pb2"), importlib.import_module("inference_pb2_grpc")


pb, pb_grpc = compile_client()


class GrpcClientsTest(E2eTest):
    def channel(self, pool):
        channel = grpc.insecure_channel(pool.client.grpc_address)
        self.addCleanup(channel.close)
        return channel

    def stub(self, pool):
        return pb_grpc.InferenceStub(self.channel(pool))

    def long_request(self):
        return pb.GenerateRequest(prompt=LONG_PROMPT, max_tokens=LONG_ANSWER["max_tokens"], sampling=pb.Sampling(
            temperature=LONG_ANSWER["temperature"], seed=LONG_ANSWER["seed"]))

    def check_status(self, call, code, *mentions):
        """The call is one that ends with an error before its first message."""
        with self.assertRaises(grpc.RpcError) as raised:
            list(call)
        self.assertEqual(raised.exception.code(), code, raised.exception)
        for word in mentions:
            self.assertIn(word, raised.exception.details())
        return raised.exception

    def test_health_is_that_of_the_pool(self):
        pool = self.start_cluster(tiny_mixtral(), workers=1)
        health = health_pb2_grpc.HealthStub(self.channel(pool))
        for service in ("", SERVICE):
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status,
                             Serving.SERVING, service)
        with self.assertRaises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=PATIENCE_S)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE_S)
        self.assertEqual(next(watch).status, Serving.SERVING)
        pool.workers[0].kill()
        self.assertEqual(next(watch).status, Serving.NOT_SERVING)
        pool.start_worker()
        self.assertEqual(next(watch).status, Serving.SERVING)
        watch.cancel()

    def test_reflection_shows_the_same_proto(self):
        pool = self.start_cluster(tiny_mixtral())
        database = ProtoReflectionDescriptorDatabase(self.channel(pool))
        services = set(database.get_services())
        self.assertLessEqual({SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}, services)
        shown = database.FindFileContainingSymbol(SERVICE)
        mine = pb.DESCRIPTOR.services_by_name["Inference"]
        self.assertEqual([m.name for s in shown.service for m in s.method], [m.name for m in mine.methods])
        self.assertEqual({m.name: [(f.name, f.number, f.type) for f in m.field] for m in shown.message_type},
                         {name: [(f.name, f.number, f.type) for f in message.fields]
                          for name, message in pb.DESCRIPTOR.message_types_by_name.items()})

    def test_a_stream_is_the_answer_over_http(self):
        pool = self.start_cluster(tiny_mixtral())
        stub = self.stub(pool)
        request = pb.GenerateRequest(prompt="the cat", max_tokens=20,
                                     sampling=pb.Sampling(temperature=0.9, seed=7, logprobs=True, top_logprobs=2))
        messages = list(stub.Generate(request, timeout=PATIENCE_S))
        over_http = pool.client.infer("the cat", max_tokens=20, temperature=0.9, seed=7, logprobs=True, top_logprobs=2)
        self.assertEqual("".join(m.text for m in messages), over_http["text"])
        last = messages[-1]
        self.assertIn(last.finish_reason, (pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH))
        self.assertTrue(all(m.finish_reason == pb.FINISH_REASON_UNSPECIFIED for m in messages[:-1]))
        self.assertEqual(last.usage.prompt_tokens, over_http["usage"]["prompt_tokens"])
        self.assertEqual(last.usage.completion_tokens, over_http["usage"]["completion_tokens"])
        self.assertEqual(last.seed, 7)
        self.assertEqual(last.model, "tiny-mixtral")
        self.assertGreaterEqual(last.timings.ttft_ms, last.timings.queue_ms)
        ids = [i for m in messages for i in m.token_ids]
        entries = [e for m in messages for e in m.logprobs]
        self.assertEqual(len(ids), last.usage.completion_tokens)
        self.assertEqual([e.token.id for e in entries], ids)
        for entry in entries:
            self.assertEqual(len(entry.top), 2)
            self.assertLessEqual(entry.top[1].logprob, entry.top[0].logprob)
            self.assertLessEqual(entry.token.logprob, entry.top[0].logprob)

    def test_several_answers_and_ids_as_input(self):
        pool = self.start_cluster(tiny_mixtral())
        stub = self.stub(pool)
        ids = stub.Tokenize(pb.TokenizeRequest(text="the cat sat"), timeout=PATIENCE_S)
        self.assertEqual(b"".join(ids.pieces).decode(), "the cat sat")
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids.ids), max_tokens=9, n=3,
                                     sampling=pb.Sampling(temperature=1, seed=5))
        texts, ends = {}, {}
        for message in stub.Generate(request, timeout=PATIENCE_S):
            texts[message.index] = texts.get(message.index, "") + message.text
            if message.finish_reason != pb.FINISH_REASON_UNSPECIFIED:
                self.assertNotIn(message.index, ends)
                ends[message.index] = message
        self.assertEqual(sorted(ends), [0, 1, 2])
        self.assertEqual([ends[i].seed for i in range(3)], [5, 6, 7])
        for i in range(3):
            alone = pool.client.infer("the cat sat", raw=True, max_tokens=9, temperature=1, seed=5 + i)
            self.assertEqual(texts[i], alone["text"])
        model = stub.GetModel(pb.GetModelRequest(), timeout=PATIENCE_S)
        self.assertEqual((model.name, model.layers, model.experts, model.dense), ("tiny-mixtral", 4, 16, False))

    def test_conversations_tools_and_schemas(self):
        pool = self.start_cluster(tiny_mixtral())
        stub = self.stub(pool)
        talk = pb.Messages(messages=[pb.Message(role="system", content="be brief"),
                                     pb.Message(role="user", content="the cat")])
        plain = list(stub.Generate(pb.GenerateRequest(messages=talk, max_tokens=12), timeout=PATIENCE_S))
        over_http = pool.client.infer_messages([{"role": m.role, "content": m.content} for m in talk.messages],
                                               max_tokens=12)
        self.assertEqual("".join(m.text for m in plain), over_http["text"])
        schema = json.dumps({"type": "object", "properties": {"legs": {"enum": [2, 4]}, "name": {
            "type": "string", "maxLength": 6}}, "required": ["legs", "name"], "additionalProperties": False})
        sampling = pb.Sampling(temperature=1.5, seed=3)
        made = list(stub.Generate(pb.GenerateRequest(
            messages=talk, max_tokens=200, sampling=sampling, response_format=pb.ResponseFormat(json_schema=schema)),
            timeout=PATIENCE_S))
        self.assertEqual(made[-1].finish_reason, pb.FINISH_REASON_STOP)
        self.assertIn(json.loads("".join(m.text for m in made))["legs"], (2, 4))
        tools = [pb.Tool(name="count", description="Counts legs.", parameters=schema), pb.Tool(name="stop")]
        made = list(stub.Generate(pb.GenerateRequest(
            messages=talk, max_tokens=200, sampling=sampling, tools=tools, tool_choice=pb.ToolChoice(function="count"),
            parallel_tool_calls=False), timeout=PATIENCE_S))
        self.assertEqual(made[-1].finish_reason, pb.FINISH_REASON_TOOL_CALLS)
        self.assertEqual("".join(m.text for m in made), "")
        deltas = [d for m in made for d in m.tool_calls]
        self.assertEqual([(d.name, bool(d.id)) for d in deltas if d.name], [("count", True)])
        arguments = "".join(d.arguments for d in deltas)
        self.assertIn(json.loads(arguments)["legs"], (2, 4))
        # The call and its result go back into the conversation.
        call = pb.ToolCall(id=deltas[0].id, name="count", arguments=arguments)
        talk.messages.extend([pb.Message(role="assistant", tool_calls=[call]),
                              pb.Message(role="tool", tool_call_id=call.id, content="4")])
        after = list(stub.Generate(pb.GenerateRequest(messages=talk, max_tokens=3), timeout=PATIENCE_S))
        self.assertGreater(after[-1].usage.prompt_tokens, plain[-1].usage.prompt_tokens)
        for request, word in (
                (pb.GenerateRequest(prompt="a", response_format=pb.ResponseFormat(
                    json_schema='{"unevaluatedProperties": false}')), "unevaluatedProperties"),
                (pb.GenerateRequest(prompt="a", tools=tools, tool_choice=pb.ToolChoice(function="no")), "tool_choice"),
                (pb.GenerateRequest(prompt="a", tools=[pb.Tool(name="x", parameters="{")]), "tools")):
            with self.subTest(word=word):
                self.check_status(stub.Generate(request, timeout=PATIENCE_S), grpc.StatusCode.INVALID_ARGUMENT, word)

    def test_errors_are_statuses_that_name_the_field(self):
        pool = self.start_cluster(tiny_mixtral(), router_flags=("--context-tokens", 256))
        stub = self.stub(pool)
        refused = grpc.StatusCode.INVALID_ARGUMENT
        for request, word in ((pb.GenerateRequest(), "prompt"),
                              (pb.GenerateRequest(prompt="a", n=0), "n"),
                              (pb.GenerateRequest(prompt="a", max_tokens=0), "max_tokens"),
                              (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(temperature=-1)), "temperature"),
                              (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(top_logprobs=3)), "logprobs"),
                              (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[-1])), "-1"),
                              (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[10**6])), str(10**6)),
                              (pb.GenerateRequest(prompt="z" * 300, raw=True), "255")):
            with self.subTest(word=word):
                self.check_status(stub.Generate(request, timeout=PATIENCE_S), refused, word)
        self.assertTrue(list(stub.Generate(pb.GenerateRequest(prompt="a", max_tokens=2), timeout=PATIENCE_S)))

    def test_cancel_and_deadline_free_what_was_held(self):
        pool = self.start_cluster(slow_mixtral())
        stub = self.stub(pool)
        failed = pool.metric("moepool_sequences_failed_total")
        call = stub.Generate(self.long_request(), timeout=PATIENCE_S)
        next(call)
        pool.wait_status(lambda s: s["running"] == 1, "the request to run")
        call.cancel()
        with self.assertRaises(grpc.RpcError) as raised:
            list(call)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.CANCELLED)
        pool.wait_idle()
        self.assertEqual(pool.metric("moepool_sequences_failed_total"), failed + 1)
        # Long enough to begin, too short for 2000 tokens.
        self.check_status(stub.Generate(self.long_request(), timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
        pool.wait_idle()
        self.assertTrue(list(stub.Generate(pb.GenerateRequest(prompt="a", max_tokens=2), timeout=PATIENCE_S)))

    def test_a_pool_without_experts_is_unavailable_until_it_has_them(self):
        pool = self.start_cluster(tiny_mixtral(), workers=1, router_flags=("--holder-timeout", "0.2"))
        stub = self.stub(pool)
        pool.workers[0].kill()
        request = pb.GenerateRequest(prompt="the cat", max_tokens=3)
        self.check_status(stub.Generate(request, timeout=PATIENCE_S), grpc.StatusCode.UNAVAILABLE)
        pool.start_worker()
        wait_for(pool.client.ready, "the pool to be whole again")
        self.assertTrue(list(stub.Generate(request, timeout=PATIENCE_S)))

    def test_keys(self):
        keys = SCRATCH / "keys"
        keys.write_text(f"bob:{hashlib.sha256(b'right').hexdigest()}\n", encoding="utf-8")
        keys.chmod(0o600)
        pool = self.start_cluster(tiny_mixtral(), gateway_flags=("--api-key-file", keys))
        stub = self.stub(pool)
        request = pb.GenerateRequest(prompt="the cat", max_tokens=3)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "right"),)):
            self.check_status(stub.Generate(request, metadata=metadata, timeout=PATIENCE_S),
                              grpc.StatusCode.UNAUTHENTICATED)
            with self.assertRaises(grpc.RpcError) as raised:
                stub.GetModel(pb.GetModelRequest(), metadata=metadata, timeout=PATIENCE_S)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
        self.assertTrue(list(stub.Generate(request, metadata=(("authorization", "Bearer right"),), timeout=PATIENCE_S)))
        # Probes have no key.
        health = health_pb2_grpc.HealthStub(self.channel(pool))
        self.assertEqual(health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE_S).status,
                         Serving.SERVING)

    def test_a_full_gateway_says_when_to_come_back(self):
        pool = self.start_cluster(slow_mixtral(), gateway_flags=("--max-requests", "1"))
        stub = self.stub(pool)
        call = stub.Generate(self.long_request(), timeout=PATIENCE_S)
        next(call)
        error = self.check_status(stub.Generate(pb.GenerateRequest(prompt="a"), timeout=PATIENCE_S),
                                  grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertGreater(int(dict(error.trailing_metadata())["retry-after"]), 0)
        call.cancel()
        pool.wait_idle()
        self.assertTrue(list(stub.Generate(pb.GenerateRequest(prompt="a", max_tokens=2), timeout=PATIENCE_S)))


if __name__ == "__main__":
    cluster.main()
