"""tiktoken encodings and tekken files."""

from __future__ import annotations

import gzip
import json

import pytest

import dctokenizers
from dctokenizers import MissingPackageError, TokenizerError
from dctokenizers.families.tiktoken import OPENAI

from .conftest import DATA, TEXTS, TIKTOKEN_NAMES, tiny_ranks

tiktoken = pytest.importorskip("tiktoken")
PATTERN = r"\w+|\s|[^\w\s]"
SPECIAL = {"<|endoftext|>": 270, "<|x|>": 272}


@pytest.fixture
def tiny(tmp_path):
    return dctokenizers.from_tiktoken(tiny_ranks(tmp_path), pat_str=PATTERN, special_tokens=SPECIAL)


def test_ids_holes_and_special_tokens(tiny):
    assert (tiny.name, tiny.vocab_size, tiny.eos_token_ids) == ("tiny", 273, (270,))
    assert [tiny.token_bytes(i) for i in (97, 259, 261, 269, 271, 272)] == [
        b"a",
        b"hello",
        b"",
        b"",
        b"",
        b"<|x|>",
    ]
    assert tiny.encode("hello") == [259]
    assert tiny.encode("<|x|>hello", parse_special=True) == [272, 259]
    assert tiny.special_token_ids == {270, 272}


def test_an_encoding_object_and_a_compressed_file_read_the_same(tiny, tmp_path):
    path = tiny_ranks(tmp_path)
    packed = tmp_path / "tiny.tiktoken.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    again = dctokenizers.from_tiktoken(packed, pat_str=PATTERN, special_tokens=SPECIAL)
    from_object = dctokenizers.from_tiktoken(tiny._codec._encoding)
    assert again.fingerprint == from_object.fingerprint == tiny.fingerprint


def test_settings_beside_the_file_are_used(tmp_path):
    path = tiny_ranks(tmp_path)
    with pytest.raises(TokenizerError, match="pat_str="):
        dctokenizers.load(path)
    path.with_name("tiny.meta.json").write_text(json.dumps({"pat_str": PATTERN, "special_tokens": SPECIAL}))
    assert dctokenizers.load(path).special_token_ids == {270, 272}


@pytest.mark.parametrize("name", TIKTOKEN_NAMES)
def test_openais_encodings_are_known_without_their_settings(real, name, tmp_path):
    tokenizer = real(f"{name}.tiktoken.gz")
    pattern, special = OPENAI[name]
    bare = tmp_path / f"{name}.tiktoken.gz"
    bare.symlink_to(DATA / bare.name)
    if name == "r50k_base":
        assert dctokenizers.load(bare).fingerprint == tokenizer.fingerprint
    regex = pytest.importorskip("regex")
    for text in [*TEXTS, "I'll  DON'T  x\n\n  y 123456 "]:
        assert regex.findall(pattern, text) == regex.findall(tokenizer._codec._encoding._pat_str, text)
    assert special == tokenizer._codec._encoding._special_tokens


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "x.tiktoken"
    for content in (b"not base64!! 1", b"YQ==", b"YQ== x"):
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=r"not a \.tiktoken file"):
            dctokenizers.from_tiktoken(path, pat_str=PATTERN, special_tokens={})
    path.write_bytes(b"YQ== 0\n")
    with pytest.raises(TokenizerError, match="lack single bytes"):
        dctokenizers.from_tiktoken(path, pat_str=PATTERN, special_tokens={})
    with pytest.raises(TokenizerError, match="ids of ordinary ones"):
        dctokenizers.from_tiktoken(tiny_ranks(tmp_path), pat_str=PATTERN, special_tokens={"<x>": 5})


def test_an_unknown_encoding_name_lists_the_known():
    with pytest.raises(TokenizerError, match=r"no encoding 'martian'.*cl100k_base"):
        dctokenizers.from_tiktoken("martian")


def test_a_missing_package_comes_with_the_pip_line(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(MissingPackageError, match=r'pip install "dcmodel\[tiktoken\]"'):
        dctokenizers.from_tiktoken(tiny_ranks(tmp_path), pat_str=PATTERN, special_tokens={})
    assert issubclass(MissingPackageError, ImportError)


def test_tekken_puts_its_special_tokens_first(real):
    tekken = real("tekken.json")
    assert (tekken.vocab_size, tekken.bos_token_id, tekken.eos_token_ids) == (131072, 1, (2,))
    assert [tekken.token_bytes(i) for i in (0, 3, 9, 19, 20, 999)] == [
        b"<unk>", b"[INST]", b"[TOOL_CALLS]", b"[TOOL_CONTENT]", b"<SPECIAL_20>", b"<SPECIAL_999>",
    ]  # fmt: skip
    assert tekken.token_bytes(1000 + 65) == bytes([65])
    assert tekken.encode_prompt("Hello")[0] == 1
    assert tekken.encode("[INST]", parse_special=True) == [3]


def test_a_tekken_file_names_its_special_tokens_and_cuts_its_ranks(tmp_path):
    ranks = [*(bytes([byte]) for byte in range(256)), b"he", b"never"]
    entry = __import__("base64").b64encode
    spec = {
        "config": {"pattern": PATTERN, "default_vocab_size": 260, "default_num_special_tokens": 3},
        "vocab": [{"rank": i, "token_bytes": entry(token).decode()} for i, token in enumerate(ranks)],
        "special_tokens": [{"rank": 1, "token_str": "</s>"}, {"rank": 0, "token_str": "<s>"}],
    }
    path = tmp_path / "tekken_1.json"
    path.write_text(json.dumps(spec))
    tokenizer = dctokenizers.load(path)
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (260, 0, (1,))
    assert tokenizer.token_bytes(2) == b"<SPECIAL_2>"
    assert tokenizer.encode("he") == [259]
    del spec["config"]
    path.write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match=r"not a tekken\.json"):
        dctokenizers.from_tekken(path)
