"""Makes tests/golden/templates.json: what transformers' apply_chat_template makes of our conversations.

  pip install transformers==5.23.0 tokenizers gguf
  tests/golden/fetch_templates.sh
  python tests/golden/make_templates.py SmolLM2-135M-Instruct.Q4_1.gguf

Published templates are others' text and are not kept here: the file names where each comes from and its SHA-256. The
templates under tests/golden/templates are our own, with the constructs of the published ones.
"""

import datetime
import hashlib
import json
import os
import pathlib
import sys

import gguf
import jinja2
import tokenizers
import transformers
from transformers.utils import chat_template_utils

FOLDER = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "moepool/templates"
NOW = (2024, 7, 26, 15, 4, 5)
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
PACKAGE = {"package": "llama-cpp-python", "version": "0.3.36"}
TEMPLATES = "vendor/llama.cpp/models/templates/"
CASES = "vendor/llama.cpp/tests/test-chat-template.cpp"

# name, file in the package, name of the case where the file is a C++ test, (bos, eos), licence of the model.
PUBLISHED = [
    ("llama-3", CASES, "Llama-3", ("<|begin_of_text|>", "<|eot_id|>"), "Llama 3 Community"),
    ("llama-3.1", TEMPLATES + "meta-llama-Llama-3.1-8B-Instruct.jinja", None, ("<|begin_of_text|>", "<|eot_id|>"),
     "Llama 3.1 Community"),
    ("llama-3.2", TEMPLATES + "meta-llama-Llama-3.2-3B-Instruct.jinja", None, ("<|begin_of_text|>", "<|eot_id|>"),
     "Llama 3.2 Community"),
    ("qwen2.5", TEMPLATES + "Qwen-Qwen2.5-7B-Instruct.jinja", None, (None, "<|im_end|>"), "Apache-2.0"),
    ("qwen3", TEMPLATES + "Qwen-Qwen3-0.6B.jinja", None, (None, "<|im_end|>"), "Apache-2.0"),
    ("mistral-7b-v0.1", CASES,
     "mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)", ("<s>", "</s>"), "Apache-2.0"),
    # Mixtral-8x7B-Instruct-v0.1 carries the same one.
    ("mixtral", CASES, "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)",
     ("<s>", "</s>"), "Apache-2.0"),
    ("mistral-nemo", TEMPLATES + "mistralai-Mistral-Nemo-Instruct-2407.jinja", None, ("<s>", "</s>"), "Apache-2.0"),
    ("phi-3.5-mini", TEMPLATES + "microsoft-Phi-3.5-mini-instruct.jinja", None, ("<s>", "<|endoftext|>"), "MIT"),
    ("deepseek-r1-distill-llama", TEMPLATES + "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja", None, DEEPSEEK, "MIT"),
    ("deepseek-r1-distill-qwen", TEMPLATES + "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", None, DEEPSEEK, "MIT"),
]
OURS = ["default_system", "headers_and_date", "last_question", "alternating", "phi_moe", "thoughts_cut", "schema_macros"]

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Weather of <a city> & \"more\" 天气",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Its name\nor code "},
        "days": {"type": "integer", "default": 1, "enum": [1, 3, 7]},
        "where": {"type": "object", "properties": {
            "at": {"type": "array", "items": {"type": "number"}},
            "unit": {"type": ["string", "null"], "default": None}}, "required": ["at"]}},
        "required": ["city"]}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments, call_id="a1B2c3D4e"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(text, call_id="a1B2c3D4e"):
    return {"role": "tool", "name": "weather", "content": text, "tool_call_id": call_id}


def conversations():
    """(name, messages, tools, add_generation_prompt)"""
    yield "user", [user("Hi")], None, False
    yield "user, prompt", [user("Hi")], None, True
    yield "system", [system("Be brief.  "), user("  Why {{ x }} {% if %} <|end|> 你好 👋🏽 \"é\\n\"\n")], None, True
    yield "empty system", [system(""), user("a")], None, False
    yield "turns", [user("a"), assistant("b  "), user("\tc\r\n"), assistant(""), user("")], None, True
    yield "ends with an answer", [system("s"), user("a"), assistant("b")], None, False
    yield "two systems", [system("one"), system("two"), user("a")], None, True
    yield "thoughts in the answer", [
        user("2x + 5 = 15?"), assistant("<think>\n\nx=5, for 2·5+5\n</think>\n\nx = 5"), user("why?")], None, True
    yield "thoughts at the end", [user("q"), assistant("<think>t</think>\n\nx")], None, False
    yield "reasoning_content", [user("q"), assistant("5", reasoning_content="\nthink\n"), user("why?"),
                                assistant("so", reasoning_content="more")], None, False
    yield "tools", [system("Use tools."), user("Weather?")], [WEATHER, CLOCK], True
    yield "call", [user("Weather?"), assistant("", tool_calls=[call("weather", {"city": "北京", "days": 3})]),
                   tool("{\"t\": 20}")], [WEATHER], True
    yield "calls without content", [
        user("Both?"), assistant(None, tool_calls=[call("weather", "{\"city\": \"Ulm\"}"), call("clock", "{}", "000000001")]),
        tool("20"), tool("12:30", "000000001"), assistant("20 at 12:30"), user("Thanks")], [CLOCK], True
    yield "built-in call", [user("Time?"), assistant("Looking.", tool_calls=[call("clock", {"zone": "UTC"})])], None, False
    yield "short id", [user("?"), assistant("", tool_calls=[call("clock", {}, "1")]), tool("1", "1")], None, True
    yield "starts with an answer", [assistant("hello"), user("a")], None, True
    yield "two questions", [user("a"), user("b")], None, True
    yield "role of its own", [user("a"), {"role": "critic", "content": "no"}, {"role": "stop", "content": "x"}, user("b")], None, True
    yield "parts", [{"role": "user", "content": [{"type": "text", "text": "p"}, {"type": "image"}, {"type": "text", "text": "q"}]}], None, True


class Recorder:
    """Stands for a compiled template; keeps the variables that transformers gives it."""

    def __init__(self, template):
        self._template, self.variables = template, None

    def render(self, **variables):
        self.variables = json.loads(json.dumps(variables))
        return self._template.render(**variables)


class FixedNow(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW)


def render(source, tokens, messages, tools, add_generation_prompt):
    recorder = Recorder(chat_template_utils._cached_compile_jinja_template(source))
    chat_template_utils._compile_jinja_template = lambda _: recorder
    bos, eos = tokens
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({t: i for i, t in enumerate(filter(None, tokens))}))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, bos_token=bos, eos_token=eos)
    try:
        outcome = {"text": tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, tokenize=False, chat_template=source)}
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError  # by raise_exception
        outcome = {"raises": str(error)} if raised else {"fails": str(error)}
    except TypeError as error:  # the template's: "can only concatenate str"
        outcome = {"fails": str(error)}
    return recorder.variables, outcome


def smollm2(path):
    field = gguf.GGUFReader(path).fields["tokenizer.chat_template"]
    return bytes(field.parts[field.data[0]]).decode()


def sources(model_path):
    yield ({"name": "smollm2", "model": "SmolLM2-135M-Instruct.Q4_1.gguf", "licence": "Apache-2.0"},
           smollm2(model_path), ("<|im_start|>", "<|im_end|>"))
    for name, file, case, tokens, licence in PUBLISHED:
        entry = {"name": name, **PACKAGE, "file": file, **({"case": case} if case else {}), "licence": licence}
        yield entry, (CACHE / f"{name}.jinja").read_bytes().decode(), tokens
    for name in OURS:
        yield {"name": name, "file": f"tests/golden/templates/{name}.jinja"}, (FOLDER / f"templates/{name}.jinja").read_text(), ("<s>", "</s>")


def main(model_path):
    chat_template_utils.datetime = FixedNow
    chats = list(conversations())
    shared, templates = [None] * len(chats), []
    for entry, source, tokens in sources(model_path):
        entry["sha256"] = hashlib.sha256(source.encode()).hexdigest()
        entry["tokens"] = {k: t for k, t in zip(("bos_token", "eos_token"), tokens) if t}
        entry["outcomes"] = []
        for i, (_, messages, tools, add) in enumerate(chats):
            variables, outcome = render(source, tokens, messages, tools, add)
            for key, token in entry["tokens"].items():
                assert variables.pop(key) == token
            assert shared[i] in (None, variables), (entry["name"], chats[i][0], variables)
            shared[i] = variables
            entry["outcomes"].append(outcome)
        templates.append(entry)
    golden = {
        "transformers": transformers.__version__, "jinja2": jinja2.__version__, "now": list(NOW),
        "conversations": [{"name": chat[0], "variables": v} for chat, v in zip(chats, shared)],
        "templates": templates,
    }
    (FOLDER / "templates.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
