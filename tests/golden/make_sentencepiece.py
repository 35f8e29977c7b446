"""Makes tests/golden/sentencepiece/: two small vocabularies, trained here, and what the reference makes of texts.

  pip install sentencepiece protobuf gguf
  python tests/golden/make_sentencepiece.py

bpe.gguf is like those of Llama and Mistral: byte tokens, nothing normalised, a space in front. unigram.gguf is like
T5's: no byte tokens, normalisation rules, extra spaces removed. golden.json holds for each the ids of every line of
torture.txt and of random strings, and the pieces of some of these.
"""

import io
import json
import pathlib
import random
import tempfile

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

FOLDER = pathlib.Path(__file__).parent
OUT = FOLDER / "sentencepiece"
SEED = 20260101
STRINGS = 300
# Width, ligatures, composition, what becomes nothing, and white space; two of several characters.
RULES = (
    {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)}
    | {"\ufb01": "fi", "\ufb02": "fl", "\u2126": "\u03a9", "e\u0301": "\u00e9", "a\u0308": "\u00e4"}
    | {"\u200b": "", "\u00ad": "", "\ufeff": ""}
    | {"\u2026": "...", "\u00bd": "1\u20442", "\ufdfa": "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647"}
    | {space: " " for space in "\t\n\r\u00a0\u2003\u3000"}
)


def train(**options):
    model = io.BytesIO()
    lines = [FOLDER / name for name in ("opticks.txt", "torture.txt")]
    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, lines)),
        model_writer=model,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def train_both():
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        for source, target in sorted(RULES.items()):
            rules.write(f"{' '.join(f'{ord(c):X}' for c in source)}\t{' '.join(f'{ord(c):X}' for c in target)}\n")
        rules.flush()
        unigram = train(model_type="unigram", vocab_size=500, character_coverage=0.995, normalization_rule_tsv=rules.name)
    bpe = train(
        model_type="bpe",
        vocab_size=700,
        character_coverage=0.995,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    return {"bpe": bpe, "unigram": unigram}


def write_gguf(model, path):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model({1: "t5", 2: "llama"}[proto.trainer_spec.model_type])
    writer.add_token_list([piece.piece.encode() for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_unk_token_id(proto.trainer_spec.unk_id)
    writer.add_bos_token_id(proto.trainer_spec.bos_id)
    writer.add_eos_token_id(proto.trainer_spec.eos_id)
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    if proto.normalizer_spec.precompiled_charsmap:
        writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def random_strings():
    source = random.Random(SEED)
    text = (FOLDER / "opticks.txt").read_text(encoding="utf-8")
    parts = [" ", "  ", "\n", "\t", "\u3000", "\u2581", ".", "a", "th", "e\u0301", "\ufb01", "\uff11", "1", "\u4e2d"]
    parts += ["\U0001f600", "\u200b", "\u2026", "\ufdfa", "\x00", "\U0010ffff", "the ", " Light", "<0x0A>", "<s>"]
    strings = [""]
    while len(strings) < STRINGS:
        kind = source.randrange(4)
        if kind == 0:
            at = source.randrange(len(text))
            strings.append(text[at : at + source.randrange(1, 40)])
        elif kind == 1:
            strings.append(source.choice(parts) * source.randrange(1, 20))
        else:
            strings.append("".join(source.choice(parts) for _ in range(source.randrange(1, 12))))
    return strings


def main():
    OUT.mkdir(exist_ok=True)
    strings = random_strings()
    lines = (FOLDER / "torture.txt").read_bytes().decode().split("\n")
    invalid = (FOLDER / "invalid_utf8.bin").read_bytes()
    golden = {
        "source": f"sentencepiece {sentencepiece.__version__} (Apache-2.0), trained on opticks.txt and torture.txt",
        "seed": SEED,
        "strings": strings,
    }
    for name, model in train_both().items():
        write_gguf(model, OUT / f"{name}.gguf")
        reference = sentencepiece.SentencePieceProcessor(model_proto=model)
        golden[name] = {
            "strings": reference.encode(strings),
            "pieces": reference.encode(strings[:40], out_type=str),
            "lines": reference.encode(lines),
            "decoded": reference.decode(reference.encode(lines[:20])),
        }
        # With byte tokens, bytes that are not UTF-8 are kept here; the reference replaces them.
        if name == "unigram":
            golden[name]["invalid"] = reference.encode(invalid)
    with open(OUT / "golden.json", "w", encoding="ascii") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
