"""openai-python against the real cluster, as its users call it: every method here is the library's own."""

import asyncio
import concurrent.futures
import hashlib
import json
import time
import unittest

import openai
import pydantic

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, PATIENCE_S, slow_mixtral, tiny_mixtral, wait_for
from openai_client import client_of

TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather in a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12},
                                         "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city", "unit"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "parameters": {"type": "object", "properties": {"hour": {"enum": [1, 2, 3]}}, "required": ["hour"],
                                    "additionalProperties": False}}}


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    legs: int = pydantic.Field(ge=0, le=8)
    kind: str = pydantic.Field(pattern="^(cat|dog)$")


class OpenAiTest(E2eTest):
    """Of one cluster that all tests share."""

    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(tiny_mixtral())
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.openai = client_of(cls.pool)
        cls.addClassCleanup(cls.openai.close)
        cls.model = cls.openai.models.list().data[0].id

    def chat(self, messages=None, **fields):
        return self.openai.chat.completions.create(model=self.model, messages=TALK if messages is None else messages,
                                                   **{"temperature": 0, **fields})

    def test_models(self):
        models = self.openai.models.list()
        self.assertEqual([m.id for m in models], ["tiny-mixtral"])
        self.assertEqual((models.data[0].object, models.object), ("model", "list"))
        self.assertEqual(self.openai.models.retrieve("tiny-mixtral").id, "tiny-mixtral")
        with self.assertRaises(openai.NotFoundError):
            self.openai.models.retrieve("another-model")

    def test_a_chat_and_its_stream_say_the_same(self):
        fields = {"max_tokens": 24, "temperature": 0.8, "seed": 3, "top_p": 0.95, "presence_penalty": 0.5,
                  "frequency_penalty": 0.25, "logit_bias": {"65": 2}}
        made = self.chat(**fields)
        self.assertEqual((made.object, made.model, len(made.choices)), ("chat.completion", self.model, 1))
        self.assertEqual(made.choices[0].message.role, "assistant")
        self.assertEqual(made.choices[0].finish_reason, "length")
        self.assertEqual(made.usage.completion_tokens, 24)
        self.assertEqual(made.usage.total_tokens, made.usage.prompt_tokens + 24)
        self.assertLessEqual(abs(made.created - time.time()), 24 * 3600)
        again = self.chat(**fields)
        self.assertEqual(again.choices[0].message.content, made.choices[0].message.content)
        self.assertNotEqual(again.id, made.id)
        self.assertGreater(again.usage.prompt_tokens_details.cached_tokens, 0)

        chunks = list(self.chat(**fields, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
                         made.choices[0].message.content)
        self.assertEqual(len({(c.id, c.created, c.model, c.object) for c in chunks}), 1)
        self.assertEqual(chunks[0].object, "chat.completion.chunk")
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual([c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason], ["length"])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 24)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))
        without = list(self.chat(**fields, stream=True))
        self.assertTrue(all(c.choices and c.usage is None for c in without))

    def test_async(self):
        async def ask():
            async with client_of(self.pool, kind=openai.AsyncOpenAI) as client:
                whole, stream = await asyncio.gather(
                    client.chat.completions.create(model=self.model, messages=TALK, max_tokens=12, seed=1),
                    client.chat.completions.create(model=self.model, messages=TALK, max_tokens=12, seed=1,
                                                   stream=True))
                text = ""
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                return whole.choices[0].message.content, text
        whole, streamed = asyncio.run(ask())
        self.assertEqual(whole, streamed)

    def test_several_answers(self):
        made = self.chat(max_tokens=10, temperature=1, seed=20, n=3)
        self.assertEqual([c.index for c in made.choices], [0, 1, 2])
        for choice in made.choices:
            alone = self.chat(max_tokens=10, temperature=1, seed=20 + choice.index)
            self.assertEqual(choice.message.content, alone.choices[0].message.content)
        texts = ["", "", ""]
        for chunk in self.chat(max_tokens=10, temperature=1, seed=20, n=3, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(texts, [c.message.content for c in made.choices])

    def test_logprobs_are_those_of_infer(self):
        made = self.chat(max_tokens=8, logprobs=True, top_logprobs=3)
        inferred = self.pool.client.post("/infer", {"messages": TALK, "max_tokens": 8, "logprobs": True,
                                                    "top_logprobs": 3}).json()
        self.assertEqual(made.choices[0].message.content, inferred["text"])
        entries = made.choices[0].logprobs.content
        self.assertEqual(len(entries), 8)
        for entry, ours in zip(entries, inferred["logprobs"]):
            self.assertAlmostEqual(entry.logprob, ours["logprob"], places=5)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.logprob, entry.top_logprobs[0].logprob)
            # Half of a character has no text; OpenAI writes it so.
            try:
                text = bytes(entry.bytes).decode()
            except UnicodeDecodeError:
                text = "bytes:" + "".join(f"\\x{b:02x}" for b in entry.bytes)
            self.assertEqual(entry.token, text)
        streamed = [e for c in self.chat(max_tokens=8, logprobs=True, top_logprobs=3, stream=True)
                    if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
        self.assertEqual([e.model_dump() for e in streamed], [e.model_dump() for e in entries])

    def test_stop_ends_before_the_string(self):
        whole = self.chat(max_tokens=24).choices[0].message.content
        cut = whole[len(whole) // 2:len(whole) // 2 + 2]
        made = self.chat(max_tokens=24, stop=[cut])
        self.assertEqual(made.choices[0].message.content, whole[:whole.index(cut)])
        self.assertEqual(made.choices[0].finish_reason, "stop")

    def complete(self, prompt="the cat", **fields):
        return self.openai.completions.create(model=self.model, prompt=prompt, temperature=0, **fields)

    def test_completions_echo_and_logprobs(self):
        made = self.complete(max_tokens=5, echo=True, logprobs=2)
        choice = made.choices[0]
        self.assertTrue(choice.text.startswith("the cat"))
        logprobs = choice.logprobs
        self.assertEqual(len(logprobs.tokens), made.usage.prompt_tokens + made.usage.completion_tokens)
        self.assertEqual([len(logprobs.tokens)] * 3, [len(logprobs.token_logprobs), len(logprobs.top_logprobs),
                                                      len(logprobs.text_offset)])
        self.assertIsNone(logprobs.token_logprobs[0])
        self.assertTrue(all(p <= 0 for p in logprobs.token_logprobs[1:]))
        # Greedy: what was made is the likeliest each time.
        for chosen, top in zip(logprobs.token_logprobs[-5:], logprobs.top_logprobs[-5:]):
            self.assertEqual(chosen, max(top.values()))
        prompt_only = self.complete(max_tokens=0, echo=True, logprobs=2)
        self.assertEqual(prompt_only.choices[0].text, "the cat")
        self.assertEqual(prompt_only.choices[0].logprobs.token_logprobs,
                         logprobs.token_logprobs[:made.usage.prompt_tokens])
        without = self.complete(max_tokens=5)
        self.assertEqual("the cat" + without.choices[0].text, choice.text)
        several = self.complete(["the cat", "a dog"], max_tokens=5)
        self.assertEqual([c.index for c in several.choices], [0, 1])
        self.assertEqual(several.choices[0].text, without.choices[0].text)
        ids = self.pool.client.post("/tokenize", {"text": "the cat"}).json()["ids"]
        self.assertEqual(self.complete(ids, max_tokens=5).choices[0].text, without.choices[0].text)
        streamed = self.complete(max_tokens=5, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in streamed if c.choices), without.choices[0].text)

    def test_json_object_and_schema(self):
        made = self.chat(max_tokens=200, temperature=1, seed=5, response_format={"type": "json_object"})
        if made.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(made.choices[0].message.content), dict)
        else:
            self.assertTrue(made.choices[0].message.content.lstrip().startswith("{"))
        for seed in range(4):
            parsed = self.openai.chat.completions.parse(model=self.model, messages=TALK, response_format=Pet, seed=seed,
                                                        temperature=1.5, max_tokens=200)
            self.assertEqual(parsed.choices[0].finish_reason, "stop")
            self.assertIn(parsed.choices[0].message.parsed.kind, ("cat", "dog"))
        with self.openai.chat.completions.stream(model=self.model, messages=TALK, response_format=Pet, seed=1,
                                                 temperature=1.5, max_tokens=200) as stream:
            final = stream.get_final_completion()
        self.assertIsInstance(final.choices[0].message.parsed, Pet)
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(response_format={"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"type": "object", "unevaluatedProperties": False}}})
        self.assertIn("unevaluatedProperties", raised.exception.message)

    def test_tools_that_must_be_called(self):
        for choice, names in (("required", {"weather", "clock"}),
                              ({"type": "function", "function": {"name": "clock"}}, {"clock"})):
            made = self.chat(tools=[WEATHER, CLOCK], tool_choice=choice, temperature=1, seed=8, max_tokens=2000)
            self.assertEqual(made.choices[0].finish_reason, "tool_calls")
            calls = made.choices[0].message.tool_calls
            self.assertGreaterEqual(len(calls), 1)
            for call in calls:
                self.assertIn(call.function.name, names)
                arguments = json.loads(call.function.arguments)
                self.assertEqual(set(arguments), {"city", "unit"} if call.function.name == "weather" else {"hour"})
                self.assertTrue(call.id)
            # What comes in pieces is the same call.
            pieces = {}
            finish = None
            for chunk in self.chat(tools=[WEATHER, CLOCK], tool_choice=choice, temperature=1, seed=8, max_tokens=2000,
                                   stream=True):
                finish = chunk.choices[0].finish_reason or finish
                for delta in chunk.choices[0].delta.tool_calls or []:
                    call = pieces.setdefault(delta.index, {"id": None, "name": "", "arguments": ""})
                    call["id"] = delta.id or call["id"]
                    call["name"] += delta.function.name or ""
                    call["arguments"] += delta.function.arguments or ""
            self.assertEqual(finish, "tool_calls")
            self.assertEqual([(c["name"], c["arguments"]) for _, c in sorted(pieces.items())],
                             [(c.function.name, c.function.arguments) for c in calls])
            self.assertTrue(all(c["id"] for c in pieces.values()))
        # The result goes back into the conversation.
        answered = [*TALK, made.choices[0].message.model_dump(exclude_none=True),
                    *({"role": "tool", "tool_call_id": c.id, "content": "2"} for c in calls)]
        after = self.chat(answered, tools=[WEATHER, CLOCK], tool_choice="none", max_tokens=6)
        self.assertFalse(after.choices[0].message.tool_calls)
        # Without the tools, which cannot be called, and with call and result.
        self.assertGreater(after.usage.prompt_tokens, self.chat(max_tokens=1).usage.prompt_tokens)

    def test_wrong_requests_are_the_librarys_errors(self):
        for fields, words in (({"temperature": -1}, "temperature"), ({"n": 0}, "n"), ({"max_tokens": -5}, "max_tokens"),
                              ({"top_logprobs": 3}, "logprobs"), ({"logit_bias": {"x": 1}}, "logit_bias"),
                              ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "no"}}},
                               "tool_choice"),
                              ({"messages": []}, "messages"),
                              ({"response_format": {"type": "xml"}}, "response_format")):
            with self.subTest(fields=fields):
                with self.assertRaises(openai.BadRequestError) as raised:
                    self.chat(**fields)
                self.assertEqual(raised.exception.type, "invalid_request_error")
                self.assertIn(words, raised.exception.param or "")
                self.assertIn(words, raised.exception.message)
        with self.assertRaises(openai.NotFoundError):
            self.openai.chat.completions.create(model="another-model", messages=TALK)
        with self.assertRaises(openai.NotFoundError):
            self.openai.get("/nothing", cast_to=object)
        with self.assertRaises(openai.APIStatusError) as raised:
            self.chat([{"role": "user", "content": "z" * (9 << 20)}])
        self.assertEqual(raised.exception.status_code, 413)
        # A field that nobody knows is passed over.
        self.assertTrue(self.chat(max_tokens=2, extra_body={"no_such_field": {"a": 1}}).choices)

    def test_responses_are_refused_in_openais_shape_or_served(self):
        try:
            made = self.openai.responses.create(model=self.model, input="the cat", max_output_tokens=8)
        except openai.NotFoundError as error:
            self.assertEqual(error.type, "invalid_request_error")
            self.assertIn("/v1/responses", error.message)
        else:
            self.assertTrue(made.output_text)

    def test_the_request_id_is_the_clients_own_or_one_of_ours(self):
        made = self.openai.chat.completions.with_raw_response.create(
            model=self.model, messages=TALK, max_tokens=2, extra_headers={"x-request-id": "mine-17"})
        self.assertEqual(made.headers["x-request-id"], "mine-17")
        drawn = [self.chat(max_tokens=2)._request_id for _ in range(2)]
        self.assertTrue(all(drawn))
        self.assertNotEqual(*drawn)
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(temperature=-1)
        self.assertTrue(raised.exception.request_id)


class OpenAiUnderLoadTest(E2eTest):
    """Each with a cluster of its own: slow answers, locks and queues."""

    def long(self, client, **fields):
        return client.chat.completions.create(
            model="slow-mixtral", messages=[{"role": "user", "content": LONG_PROMPT}], **{**LONG_ANSWER, **fields})

    def test_cancel_and_timeout_free_what_was_held(self):
        pool = self.start_cluster(slow_mixtral())
        client = client_of(pool)
        stream = self.long(client, stream=True)
        next(stream)
        pool.wait_status(lambda s: s["running"] == 1, "the request to run")
        stream.close()
        pool.wait_idle()
        with self.assertRaises(openai.APITimeoutError):
            self.long(client.with_options(timeout=0.3, max_retries=0))
        pool.wait_idle()

        async def cancelled():
            async with client_of(pool, kind=openai.AsyncOpenAI) as other:
                task = asyncio.create_task(self.long(other))
                while pool.status()["running"] == 0:
                    await asyncio.sleep(0.01)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
        asyncio.run(asyncio.wait_for(cancelled(), PATIENCE_S))
        pool.wait_idle()

    def test_a_full_queue_is_retried_when_the_server_says(self):
        pool = self.start_cluster(slow_mixtral(), gateway_flags=("--max-requests", "1"))
        client = client_of(pool)
        stream = self.long(client, stream=True)
        next(stream)
        with self.assertRaises(openai.RateLimitError) as raised:
            self.long(client.with_options(max_retries=0), max_tokens=2)
        self.assertGreater(int(raised.exception.response.headers["retry-after"]), 0)
        self.assertEqual(raised.exception.type, "rate_limit_error")
        began = time.monotonic()

        async def retried():
            async with client_of(pool, kind=openai.AsyncOpenAI, max_retries=5) as other:
                task = asyncio.create_task(self.long(other, max_tokens=2))
                refused = 'moepool_http_requests_total{code="429",path="/v1/chat/completions"}'
                before = self.gateway_metric(pool, refused)
                while self.gateway_metric(pool, refused) == before:
                    await asyncio.sleep(0.01)
                stream.close()
                return await task
        made = asyncio.run(asyncio.wait_for(retried(), PATIENCE_S))
        self.assertEqual(made.usage.completion_tokens, 2)
        self.assertGreaterEqual(time.monotonic() - began, int(raised.exception.response.headers["retry-after"]) * 0.9)

    def test_queues_have_a_length(self):
        pool = self.start_cluster(slow_mixtral(), router_flags=("--max-running", "1"),
                                  gateway_flags=("--max-queue-requests", "1", "--max-queue-tokens", "5000"))
        client = client_of(pool)
        runs = self.long(client, stream=True)
        next(runs)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            waits = threads.submit(self.long, client, max_tokens=2)
            pool.wait_status(lambda s: s["waiting"] == 1, "a second request to wait")
            with self.assertRaises(openai.RateLimitError) as raised:
                self.long(client, max_tokens=2)
            self.assertGreater(int(raised.exception.response.headers["retry-after"]), 0)
            runs.close()
            self.assertEqual(waits.result(PATIENCE_S).usage.completion_tokens, 2)
        # 2,000 tokens of an answer are in flight: 4,000 more are too many, a few are not.
        runs = self.long(client, stream=True)
        next(runs)
        with self.assertRaises(openai.RateLimitError):
            self.long(client, max_tokens=4000)
        runs.close()
        pool.wait_idle()
        self.assertEqual(self.long(client, max_tokens=2).usage.completion_tokens, 2)

    @staticmethod
    def gateway_metric(pool, sample):
        for line in pool.client.get("/metrics").body.decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def test_keys(self):
        keys = cluster.SCRATCH / "keys"
        keys.write_text(f"alice:{'a' * 64}\nbob:{hashlib.sha256(b'right').hexdigest()}\n", encoding="utf-8")
        keys.chmod(0o600)
        pool = self.start_cluster(tiny_mixtral(), gateway_flags=("--api-key-file", keys))
        self.assertTrue(client_of(pool, api_key="right").models.list().data)
        made = client_of(pool, api_key="right").chat.completions.create(model="tiny-mixtral", messages=TALK,
                                                                        max_tokens=2)
        self.assertEqual(made.usage.completion_tokens, 2)
        for key in ("wrong", "a" * 64, ""):
            with self.assertRaises(openai.AuthenticationError) as raised:
                client_of(pool, api_key=key or "Bearer").chat.completions.create(model="tiny-mixtral", messages=TALK)
            self.assertEqual(raised.exception.status_code, 401)
            self.assertEqual(raised.exception.code, "invalid_api_key")

    def test_a_pool_that_loses_its_experts_is_an_error_in_the_stream(self):
        pool = self.start_cluster(slow_mixtral(), workers=1, router_flags=("--holder-timeout", "0.2"))
        client = client_of(pool)
        stream = self.long(client, stream=True)
        next(stream)
        pool.workers[0].kill()
        with self.assertRaises(openai.APIError):
            for _ in stream:
                pass
        with self.assertRaises(openai.InternalServerError) as raised:
            self.long(client, max_tokens=2)
        self.assertEqual(raised.exception.status_code, 503)
        pool.start_worker()
        wait_for(pool.client.ready, "the pool to be whole again")
        self.assertEqual(self.long(client, max_tokens=2).usage.completion_tokens, 2)


if __name__ == "__main__":
    cluster.main()
