"""LangChain's ChatOpenAI against the real cluster: invoke, stream, batch, tools, structured output, retries,
cancelling."""

import asyncio
import concurrent.futures
import typing
import unittest

import langchain_core.exceptions
import openai
import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, PATIENCE_S, slow_mixtral, tiny_mixtral, wait_for

TALK = [SystemMessage("be brief"), HumanMessage("the cat")]


class Place(pydantic.BaseModel):
    """Somewhere on Earth."""
    city: str = pydantic.Field(max_length=10)
    inhabitants: int = pydantic.Field(ge=0, le=9)


@tool
def weather(city: typing.Annotated[str, pydantic.Field(max_length=12)]) -> str:
    """The weather in a city."""
    return f"rain in {city}"


class LangChainTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(tiny_mixtral())
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)

    def model(self, **fields):
        return ChatOpenAI(base_url=f"http://{self.pool.client.http_address}/v1", api_key="none", model="tiny-mixtral",
                          timeout=PATIENCE_S, max_retries=0,
                          **{"max_tokens": 16, "seed": 4, "temperature": 0, **fields})

    def test_invoke_stream_and_batch_say_the_same(self):
        model = self.model(temperature=0.7)
        made = model.invoke(TALK)
        self.assertIsInstance(made, AIMessage)
        self.assertEqual(made.usage_metadata["output_tokens"], 16)
        self.assertEqual(made.response_metadata["finish_reason"], "length")
        self.assertEqual(made.response_metadata["model_name"], "tiny-mixtral")
        chunks = list(model.stream(TALK, stream_usage=True))
        self.assertEqual("".join(c.content for c in chunks), made.content)
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        self.assertEqual(whole.usage_metadata["output_tokens"], 16)
        self.assertEqual([m.content for m in model.batch([TALK, "the cat", TALK])][::2], [made.content] * 2)
        self.assertEqual(asyncio.run(model.ainvoke(TALK)).content, made.content)

    def test_completions(self):
        model = OpenAI(base_url=f"http://{self.pool.client.http_address}/v1", api_key="none", model="tiny-mixtral",
                       max_tokens=9, temperature=0, max_retries=0)
        self.assertEqual(model.invoke("the cat"), self.pool.client.infer("the cat", raw=True, max_tokens=9)["text"])
        self.assertEqual("".join(model.stream("the cat")), model.invoke("the cat"))

    def test_logprobs(self):
        made = self.model(temperature=0, logprobs=True, top_logprobs=2).invoke(TALK)
        self.assertEqual(len(made.response_metadata["logprobs"]["content"]), 16)

    def test_tools(self):
        model = self.model(temperature=1, max_tokens=300).bind_tools([weather], tool_choice="weather")
        for seed in (4, 5):
            made = model.invoke(TALK, seed=seed)
            self.assertEqual([c["name"] for c in made.tool_calls], ["weather"])
            self.assertEqual(made.invalid_tool_calls, [])
            self.assertEqual(list(made.tool_calls[0]["args"]), ["city"])
            self.assertIsInstance(made.tool_calls[0]["args"]["city"], str)
        whole = None
        for chunk in model.stream(TALK, seed=5):
            whole = chunk if whole is None else whole + chunk
        self.assertEqual([(c["name"], c["args"]) for c in whole.tool_calls],
                         [(c["name"], c["args"]) for c in made.tool_calls])
        result = weather.invoke(made.tool_calls[0])
        self.assertIsInstance(result, ToolMessage)
        after = self.model(temperature=0).bind_tools([weather], tool_choice="none").invoke([*TALK, made, result])
        self.assertEqual(after.tool_calls, [])
        # Without the tools, which cannot be called, and with call and result.
        self.assertGreater(after.usage_metadata["input_tokens"], self.model().invoke(TALK).usage_metadata["input_tokens"])

    def test_structured_output(self):
        for method in ("json_schema", "function_calling"):
            with self.subTest(method=method):
                model = self.model(temperature=1.2, max_tokens=200).with_structured_output(Place, method=method)
                for seed in (1, 2):
                    place = model.invoke(TALK, seed=seed)
                    self.assertIsInstance(place, Place)
                    self.assertTrue(0 <= place.inhabitants <= 9 and len(place.city) <= 10, place)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError):
            self.model(temperature=-1).invoke(TALK)
        with self.assertRaises((openai.NotFoundError, langchain_core.exceptions.LangChainException)):
            ChatOpenAI(base_url=f"http://{self.pool.client.http_address}/v1", api_key="none", model="another-model",
                       max_retries=0).invoke(TALK)

    def test_retries_and_cancel_in_mid_stream(self):
        pool = self.start_cluster(slow_mixtral(), gateway_flags=("--max-requests", "1"))
        fields = {"base_url": f"http://{pool.client.http_address}/v1", "api_key": "none", "model": "slow-mixtral",
                  "timeout": PATIENCE_S}
        stream = ChatOpenAI(**fields, **LONG_ANSWER).stream(LONG_PROMPT)
        next(stream)
        pool.wait_status(lambda s: s["running"] == 1, "the stream to run")
        with self.assertRaises(openai.RateLimitError):
            ChatOpenAI(**fields, max_tokens=2, max_retries=0).invoke("the cat")
        # Refused at first, and served by its own retry once the stream is gone.
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            retried = threads.submit(ChatOpenAI(**fields, max_tokens=2, max_retries=8).invoke, "the cat")
            wait_for(lambda: b'{code="429",path="/v1/chat/completions"} 2' in pool.client.get("/metrics").body,
                     "a second refusal")
            stream.close()
            self.assertEqual(retried.result(PATIENCE_S).usage_metadata["output_tokens"], 2)
        pool.wait_idle()


if __name__ == "__main__":
    cluster.main()
