"""Makes tests/golden/tokenizer.json: what the reference, Hugging Face's `tokenizers`, makes of the torture files.

  pip install tokenizers gguf
  python tests/golden/make_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf

ids: of SmolLM2's vocabulary, read from the GGUF. pieces: lengths in bytes of the pieces that each pre-tokenizer cuts
torture.txt into (of its NFC, where the rule composes); these need no vocabulary.
"""

import json
import pathlib
import sys

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

FOLDER = pathlib.Path(__file__).parent
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split_by(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)])


# As in the tokenizer.json of SmolLM2, GPT-2, Llama 3 and Qwen2.
PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "gpt-2": byte_level(True),
    "llama-bpe": split_by(LLAMA3),
    "qwen2": split_by(QWEN2),
}


def piece_lengths(name, text):
    if name == "qwen2":
        text = normalizers.NFC().normalize_str(text)
    # In the byte-level alphabet a character is a byte.
    return [len(piece) for piece, _ in PRE_TOKENIZERS[name].pre_tokenize_str(text)]


def smollm2(path):
    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (
        fields["tokenizer.ggml." + key].contents() for key in ("tokens", "token_type", "merges")
    )
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3]
    )
    return tokenizer


def runs(data):
    """Cuts bytes into valid UTF-8 and single bytes that are not."""
    while data:
        try:
            yield data.decode()
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield data[: error.start].decode()
            yield data[error.start]
            data = data[error.start + 1 :]


def ids_of_bytes(tokenizer, alphabet, data):
    ids = []
    for run in runs(data):
        if isinstance(run, str):
            ids += tokenizer.encode(run, add_special_tokens=False).ids
        else:
            id_ = tokenizer.token_to_id(alphabet[run])
            ids += [] if id_ is None else [id_]
    return ids


def main():
    tokenizer = smollm2(sys.argv[1])
    text = (FOLDER / "torture.txt").read_bytes().decode()
    invalid = (FOLDER / "invalid_utf8.bin").read_bytes()
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
    golden = {
        "source": f"tokenizers {tokenizers.__version__} (Apache-2.0); vocabulary of SmolLM2-135M-Instruct (Apache-2.0)",
        "pieces": {name: piece_lengths(name, text) for name in PRE_TOKENIZERS},
    }
    for key, plain in (("special", False), ("plain", True)):
        tokenizer.encode_special_tokens = plain
        golden["ids_" + key] = tokenizer.encode(text, add_special_tokens=False).ids
        golden["invalid_ids_" + key] = ids_of_bytes(tokenizer, alphabet, invalid)
    golden["invalid_replaced"] = invalid.decode(errors="replace")
    with open(FOLDER / "tokenizer.json", "w") as out:
        lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in golden.items())
        out.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
