"""Vocabularies in GGUF files, against llama.cpp's own test vectors."""

from __future__ import annotations

import struct

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

import dctokenizers
from dctokenizers import TokenizerError
from dctokenizers.byte_level import byte_to_char
from dctokenizers.families.gguf_file import read_metadata
from dctokenizers.families.gguf_pre import PRE_TOKENIZERS

from .conftest import DATA, GGUF_NAMES, SPACE, TEXTS, unigram_backend

GGUF = pytest.importorskip("gguf")


def write_gguf(path, **fields):
    """A GGUF file with the given tokenizer.ggml.* values."""
    writer = GGUF.GGUFWriter(path, "llama")
    writer.add_string("general.name", "with ünïcode")
    writer.add_array("general.tags", ["a", "b"])
    writer.add_array("general.numbers", [1, 2, 3])
    for key, value in fields.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_string(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_level_fields(**more):
    pieces = [*byte_to_char(), "he", "ll", "hell", "hello", "<|end|>", "<|x|>", "user", "[PAD]"]
    types = [1] * 260 + [3, 3, 4, 5]
    merges = ["h e", "l l", "he ll", "hell o"]
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": pieces,
        "token_type": types,
        "merges": merges,
        "eos_token_id": 261,
        "bos_token_id": 261,
        **more,
    }


@pytest.mark.parametrize("name", GGUF_NAMES)
def test_llama_cpps_vectors_agree(real, name):
    tokenizer = real(f"ggml-vocab-{name}.gguf")
    texts = (DATA / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    wanted = (DATA / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    for text, numbers in zip(texts, wanted, strict=False):
        assert tokenizer.encode(text, prefix_space=True) == [int(number) for number in numbers.split()], text


def test_bos_ends_and_prefix_follow_the_file(real):
    llama, phi, gpt2 = (real(f"ggml-vocab-{name}.gguf") for name in ("llama-spm", "phi-3", "gpt-2"))
    assert llama.encode_prompt("a") == [1, *llama.encode("a", prefix_space=True)]
    assert phi.eos_token_ids == (32000, 2, 32007)  # </s> is an end wherever it is one by its name
    assert phi.encode("<|user|> hi", parse_special=True) == [32010, *phi.encode("hi")]
    assert (gpt2.bos_token_id, gpt2.eos_token_ids, gpt2.adds_bos) == (50256, (50256,), False)
    assert not gpt2.has_prefix_space


def test_types_of_tokens_decide_their_bytes(tmp_path):
    tokenizer = dctokenizers.from_gguf(write_gguf(tmp_path / "t.gguf", **byte_level_fields()))
    assert tokenizer.decode(tokenizer.encode("hello user <|x|>")) == "hello user <|x|>"
    assert 262 in tokenizer.encode("a user")
    assert tokenizer.special_token_ids == {260, 261}
    assert tokenizer.token_bytes(263) == b""
    assert tokenizer.eos_token_ids == (261, 260)
    assert tokenizer.encode("<|x|>hello", parse_special=True) == [261, 259]
    adds = write_gguf(tmp_path / "b.gguf", **byte_level_fields(add_bos_token=True))
    assert dctokenizers.from_gguf(adds).encode_prompt("hello") == [261, 259]


def names(path, *pieces, **more):
    """The tokenizer, and the names of its ends."""
    fields = byte_level_fields()
    tokens, types = [*fields["tokens"], *pieces], [*fields["token_type"], *[3] * len(pieces)]
    fields = {**fields, "tokens": tokens, "token_type": types, **more}
    tokenizer = dctokenizers.from_gguf(write_gguf(path, **fields))
    return [tokens[token_id] for token_id in tokenizer.eos_token_ids]


def test_ends_are_found_by_their_names_as_llama_cpp_finds_them(tmp_path):
    path = tmp_path / "t.gguf"
    assert names(path, "<|eot_id|>", "<|file_sep|>") == ["<|x|>", "<|end|>", "<|eot_id|>", "<|file_sep|>"]
    assert names(path, "<|return|>", "<|call|>") == ["<|x|>", "<|return|>", "<|call|>"]
    assert names(path, "</s>", "<|tool_response>") == ["<|x|>", "<|end|>", "<|tool_response>"]
    assert names(path, "<PAD>", "a pad", fim_pad_token_id=265) == ["<|x|>", "<|end|>", "a pad"]


def test_tokens_with_the_name_of_an_end_are_no_text(tmp_path):
    fields = byte_level_fields()
    fields["tokens"][-1], fields["token_type"][-1] = "<|im_end|>", 4
    tokenizer = dctokenizers.from_gguf(write_gguf(tmp_path / "t.gguf", **fields))
    assert 263 in tokenizer.special_token_ids
    assert 263 not in tokenizer.encode("a <|im_end|>")


def test_an_unknown_way_of_cutting_is_named(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", **byte_level_fields(pre="martian"))
    with pytest.raises(TokenizerError, match=r"'martian'.*gpt-2"):
        dctokenizers.from_gguf(path)


def test_an_unknown_model_is_named(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", **byte_level_fields(model="rwkv"))
    with pytest.raises(TokenizerError, match=r"'rwkv'.*llama, gpt2, t5"):
        dctokenizers.from_gguf(path)


def test_files_that_are_none_or_cut_short_are_refused(tmp_path):
    whole = write_gguf(tmp_path / "t.gguf", **byte_level_fields()).read_bytes()
    bad = tmp_path / "bad.gguf"
    for content in (b"", b"GG", b"nonsense" * 9, whole[:1000], whole[:4], struct.pack("<4sI", b"GGUF", 1)):
        bad.write_bytes(content)
        with pytest.raises(TokenizerError, match=r"bad\.gguf"):
            dctokenizers.from_gguf(bad)
    with pytest.raises(TokenizerError, match="cannot be read"):
        dctokenizers.from_gguf(tmp_path / "none.gguf")
    with pytest.raises(TokenizerError, match="no vocabulary"):
        dctokenizers.from_gguf(write_gguf(tmp_path / "empty.gguf", model="gpt2"))


def test_a_big_endian_file_is_read(tmp_path):
    writer = GGUF.GGUFWriter(tmp_path / "t.gguf", "llama", endianess=GGUF.GGUFEndian.BIG)
    writer.add_array("x.list", [1, 2])
    writer.add_string("x.text", "ü")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_metadata(tmp_path / "t.gguf", prefix="x.") == {"list": [1, 2], "text": "ü"}


def test_a_unigram_vocabulary_is_read(tmp_path):
    backend = unigram_backend()
    pieces = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    path = write_gguf(
        tmp_path / "t.gguf",
        model="t5",
        tokens=pieces,
        scores=[-float(len(pieces)) + i / 7 for i in range(len(pieces))],
        token_type=[2, 3, 3] + [1] * (len(pieces) - 3),
        unknown_token_id=0,
        eos_token_id=2,
    )
    tokenizer = dctokenizers.from_gguf(path)
    assert not tokenizer.is_lossless
    assert tokenizer.decode(tokenizer.encode("the cat sat")) == "the cat sat"
    assert tokenizer.decode(tokenizer.encode("the", prefix_space=True)) == " the"


@pytest.mark.parametrize(
    ("pre", "file"),
    [
        ("llama-bpe", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("tekken", "tekken_240911"),
        ("gpt-2", "r50k_base"),
    ],
)
def test_patterns_cut_as_the_encoding_they_come_from(real, pre, file):
    regex = pytest.importorskip("regex")
    encoding = real(f"{file}.tiktoken.gz")._codec._encoding
    cut = cutter(PRE_TOKENIZERS[pre])
    for text in [*TEXTS, "It's 12345 I'LL  \n\n x \r\n\t y", "ABCdef déjà VU " + SPACE]:
        assert "".join(cut(text)) == text
        assert cut(text) == [piece.group() for piece in regex.finditer(encoding._pat_str, text)], text


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pattern_compiles_and_keeps_the_text(pre):
    for text in TEXTS:
        assert "".join(cutter(PRE_TOKENIZERS[pre])(text)) == text


def cutter(kind):
    splits = Sequence([Split(Regex(pattern), "isolated") for pattern in kind.patterns])
    return lambda text: [piece for piece, _ in splits.pre_tokenize_str(text)] if text else []


def test_byte_level_spelling_is_the_librarys():
    assert sorted(byte_to_char()) == sorted(ByteLevel.alphabet())
