"""tritonclient.grpc against the real gateway: liveness, metadata, infer, streams, cancellation, errors."""

import asyncio
import json
import queue
import unittest

import numpy
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, PATIENCE_S, slow_mixtral, tiny_mixtral

MODEL = "tiny-mixtral"


def tensor(name, value):
    made = tritonclient.grpc.InferInput(name, [1], "BOOL" if isinstance(value, bool) else "BYTES")
    kind = bool if isinstance(value, bool) else object
    made.set_data_from_numpy(numpy.array([value if kind is bool else value.encode()], dtype=kind))
    return made


def inputs(prompt, stream=None, **sampling):
    made = [tensor("text_input", prompt)]
    if stream is not None:
        made.append(tensor("stream", stream))
    if sampling:
        made.append(tensor("sampling_parameters", json.dumps(sampling)))
    return made


def text(result, name="text_output"):
    return result.as_numpy(name)[0].decode()


class TritonTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(tiny_mixtral())
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.client = tritonclient.grpc.InferenceServerClient(cls.pool.client.grpc_address)
        cls.addClassCleanup(cls.client.close)

    def check_fails(self, call, status, *words):
        with self.assertRaises(InferenceServerException) as raised:
            call()
        self.assertIn(status, raised.exception.status())
        for word in words:
            self.assertIn(word, raised.exception.message())

    def test_live_ready_and_metadata(self):
        self.assertTrue(self.client.is_server_live(client_timeout=PATIENCE_S))
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready(MODEL))
        self.assertTrue(self.client.is_model_ready(MODEL, "1"))
        self.assertFalse(self.client.is_model_ready("another"))
        self.assertTrue(self.client.get_server_metadata().name)
        metadata = self.client.get_model_metadata(MODEL)
        self.assertEqual(metadata.name, MODEL)
        self.assertIn(("text_input", "BYTES"), [(i.name, i.datatype) for i in metadata.inputs])
        self.assertIn(("text_output", "BYTES"), [(o.name, o.datatype) for o in metadata.outputs])
        self.assertTrue(self.client.get_model_config(MODEL).config.model_transaction_policy.decoupled)
        self.check_fails(lambda: self.client.get_model_metadata("another"), "NOT_FOUND", "another")

    def test_infer_is_the_answer_over_http(self):
        sampling = {"max_tokens": 16, "temperature": 0.9, "seed": 11}
        expected = self.pool.client.infer("the cat", **sampling)
        made = self.client.infer(MODEL, inputs("the cat", **sampling), request_id="mine")
        self.assertEqual(text(made), expected["text"])
        self.assertEqual(made.get_response().id, "mine")
        self.assertEqual(made.as_numpy("completion_tokens")[0], expected["usage"]["completion_tokens"])
        self.assertEqual(text(made, "finish_reason"), expected["finish_reason"])
        by_parameters = self.client.infer(MODEL, inputs("the cat"), parameters={
            "max_tokens": 16, "temperature": 0.9, "seed": 11},
            outputs=[tritonclient.grpc.InferRequestedOutput("text_output")])
        self.assertEqual(text(by_parameters), expected["text"])
        self.assertIsNone(by_parameters.as_numpy("seed"))

    def test_json_of_a_schema(self):
        schema = {"type": "object", "properties": {"legs": {"enum": [2, 4]}}, "required": ["legs"],
                  "additionalProperties": False}
        made = self.client.infer(MODEL, inputs("the cat", max_tokens=100, temperature=1.5, seed=2, response_format={
            "type": "json_schema", "json_schema": {"name": "pet", "schema": schema}}))
        self.assertEqual(text(made, "finish_reason"), "stop")
        self.assertIn(json.loads(text(made)), ({"legs": 2}, {"legs": 4}))

    def test_a_stream_of_several_requests(self):
        prompts = {"1": "the cat", "2": "a dog", "3": "the cat sat"}
        expected = {i: self.pool.client.infer(p, max_tokens=12)["text"] for i, p in prompts.items()}
        came = queue.Queue()
        self.client.start_stream(lambda result, error: came.put((result, error)))
        for request_id, prompt in prompts.items():
            self.client.async_stream_infer(MODEL, inputs(prompt, max_tokens=12), request_id=request_id)
        texts, finished = dict.fromkeys(prompts, ""), set()
        while len(finished) < len(prompts):
            result, error = came.get(timeout=PATIENCE_S)
            self.assertIsNone(error)
            response = result.get_response()
            if (piece := result.as_numpy("text_output")) is not None:
                texts[response.id] += piece[0].decode()
            if response.parameters["triton_final_response"].bool_param:
                finished.add(response.id)
        self.assertEqual(texts, expected)
        # One that fails says so, and the stream goes on.
        self.client.async_stream_infer(MODEL, inputs("x", temperature=-1), request_id="bad")
        result, error = came.get(timeout=PATIENCE_S)
        self.assertIsInstance(error, InferenceServerException)
        self.assertIn("temperature", str(error))
        self.client.async_stream_infer(MODEL, inputs("the cat", stream=False, max_tokens=12), request_id="4")
        result, error = came.get(timeout=PATIENCE_S)
        self.assertIsNone(error)
        self.assertEqual(text(result), expected["1"])
        self.client.stop_stream()

    def test_asyncio(self):
        async def ask():
            async with tritonclient.grpc.aio.InferenceServerClient(self.pool.client.grpc_address) as client:
                async def requests():
                    yield {"model_name": MODEL, "inputs": inputs("the cat", max_tokens=9), "request_id": "1"}
                pieces = []
                async for result, error in client.stream_infer(requests()):
                    if error is not None:
                        raise error
                    if (piece := result.as_numpy("text_output")) is not None:
                        pieces.append(piece[0].decode())
                    if result.get_response().parameters["triton_final_response"].bool_param:
                        break
                whole = await client.infer(MODEL, inputs("the cat", max_tokens=9))
                return "".join(pieces), text(whole)
        pieces, whole = asyncio.run(asyncio.wait_for(ask(), PATIENCE_S))
        self.assertEqual(pieces, whole)

    def test_errors(self):
        for made, words in ((inputs("x", temperature=-1), ["temperature"]), (inputs("x", no_such=1), ["no_such"]),
                            ([], ["text_input"]), ([*inputs("x"), tensor("another", "y")], ["another"]),
                            ([tensor("text_input", "x"), tensor("sampling_parameters", "{")], ["JSON"])):
            self.check_fails(lambda made=made: self.client.infer(MODEL, made), "INVALID_ARGUMENT", *words)
        self.check_fails(lambda: self.client.infer("another", inputs("x")), "NOT_FOUND", "another")
        self.check_fails(lambda: self.client.get_model_repository_index(), "UNIMPLEMENTED")
        self.assertTrue(self.client.is_server_ready())

    def test_timeout_and_cancel_free_what_was_held(self):
        pool = self.start_cluster(slow_mixtral())
        client = tritonclient.grpc.InferenceServerClient(pool.client.grpc_address)
        self.addCleanup(client.close)
        long = inputs(LONG_PROMPT, **LONG_ANSWER)
        self.check_fails(lambda: client.infer("slow-mixtral", long, client_timeout=0.3), "DEADLINE_EXCEEDED")
        pool.wait_idle()
        came = queue.Queue()
        client.start_stream(lambda result, error: came.put((result, error)))
        client.async_stream_infer("slow-mixtral", long)
        self.assertIsNone(came.get(timeout=PATIENCE_S)[1])
        pool.wait_status(lambda s: s["running"] == 1, "the request to run")
        client.stop_stream(cancel_requests=True)
        pool.wait_idle()


if __name__ == "__main__":
    cluster.main()
