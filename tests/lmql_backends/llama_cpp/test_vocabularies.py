"""What users see of llama.cpp's vocabularies: prompts, masks, bytes, and files that have none."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from gguf_files import with_metadata
from gguf_vocabularies import byte_level_fields, save_vocabulary, sentencepiece_fields

import dctokenizers
from dcmodel import LLM
from dcmodel.backend import LoadOptions
from dcmodel.errors import ModelLoadError
from dcmodel.registry import Registry
from dctokenizers import TokenizerError
from lmql_backends.llama_cpp import BACKEND
from lmql_backends.llama_cpp.tokenizer import load_tokenizer

from .conftest import EXACT

TEXTS = [
    "",
    "Hello, world!",
    " two  spaces   three\n\n\ttabs\r\n",
    '{"name": "Ann", "tags": ["a", null, 2.5e-3]}',
    "🐢 naïve café e\u0301 你好",
    "a literal <s> </s> <|end|> <0x41> in the text",
    "it's 12345 I'LL x" * 50,
]


def from_fields(path, **fields):
    return load_tokenizer(save_vocabulary(path, **fields), name="small")


def without_byte(char):
    """Byte-level fields in which one byte has no token; the ids behind it move down."""
    fields = byte_level_fields()
    place = fields["tokens"].index(char)
    del fields["tokens"][place], fields["token_type"][place]
    return {**fields, "eos_token_id": 260, "bos_token_id": 260}


def test_the_embedded_models_vocabulary_is_that_of_its_checkpoint():
    path = Registry().embedded_path("gguf")
    ours = load_tokenizer(path, name="embedded")
    assert ours.name == "embedded"
    for other in (dctokenizers.load(Registry().embedded_path()), dctokenizers.from_gguf(path)):
        assert ours.fingerprint == other.fingerprint
        assert ours.eos_token_ids[0] == other.eos_token_ids[0]
        for text in TEXTS:
            assert ours.encode(text) == other.encode(text)
            assert ours.encode_prompt(text) == other.encode_prompt(text)


def test_a_prompt_begins_as_the_file_says(tmp_path):
    prefixed = from_fields(tmp_path / "a.gguf", **sentencepiece_fields())
    plain = from_fields(tmp_path / "b.gguf", **sentencepiece_fields(add_space_prefix=False))
    bare = from_fields(tmp_path / "c.gguf", **sentencepiece_fields(add_bos_token=False))
    assert prefixed.encode_prompt("hello")[0] == 1
    assert prefixed.decode(prefixed.encode_prompt("hello")) == " hello"
    assert prefixed.decode(prefixed.encode("hello")) == "hello"
    assert plain.encode_prompt("hello") == [1, *plain.encode("hello")]
    assert bare.encode_prompt("hello") == bare.encode("hello", prefix_space=True)


def test_a_parsed_bos_is_not_doubled(tmp_path):
    tokenizer = from_fields(tmp_path / "v.gguf", **byte_level_fields(add_bos_token=True))
    assert tokenizer.encode_prompt("<|x|>hello", parse_special=True) == [261, 259]
    assert tokenizer.encode_prompt("hello", parse_special=True) == [261, 259]
    assert tokenizer.encode_prompt("<|x|>hello")[:2] != [261, 259]


def test_letters_without_tokens_are_named(tmp_path):
    path = save_vocabulary(tmp_path / "v.gguf", **without_byte("z"))
    ours, theirs = load_tokenizer(path, name="v"), dctokenizers.from_gguf(path)
    assert ours.fingerprint == theirs.fingerprint
    assert not ours.is_lossless
    assert ours.encode("hello you") == theirs.encode("hello you")
    for tokenizer in (ours, theirs):
        with pytest.raises(TokenizerError, match=r"no tokens for \['z'\]"):
            tokenizer.encode("zoo")


def test_a_way_of_cutting_that_only_llama_cpp_knows_works(tmp_path):
    path = save_vocabulary(tmp_path / "v.gguf", **byte_level_fields(pre="superbpe"))
    with pytest.raises(TokenizerError, match="'superbpe'"):
        dctokenizers.from_gguf(path)
    tokenizer = load_tokenizer(path, name="v")
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("fields", [byte_level_fields(), sentencepiece_fields()], ids=["bytes", "pieces"])
def test_bytes_that_are_no_text_are_encoded(tmp_path, fields):
    tokenizer = from_fields(tmp_path / "v.gguf", **fields)
    for data in (b"\xe4\xbd", b"hello\xff\xfe", bytes(range(256))):
        assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_usual_ids_beyond_the_vocabulary_are_none(tmp_path):
    tokenizer = from_fields(
        tmp_path / "v.gguf", model="gpt2", pre="gpt-2", tokens=["a", "b"], merges=["a b"], add_bos_token=True
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.adds_bos) == (None, (), False)
    assert tokenizer.encode_prompt("ab") == [0, 1]


TRY_ALL = """
import sys
from pathlib import Path
from dcmodel.errors import ModelLoadError
from lmql_backends.llama_cpp.tokenizer import load_tokenizer
for path in Path(sys.argv[1]).glob("*.gguf"):
    try:
        load_tokenizer(path, name="v").encode("b")
    except ModelLoadError as error:
        print(path.stem, error, sep=" | ")
"""


def test_files_without_a_vocabulary_do_not_end_the_process(tmp_path):
    """In a process of its own, because llama.cpp aborts where it is asked for what is not there."""
    save_vocabulary(tmp_path / "none.gguf", model="none")
    save_vocabulary(tmp_path / "no_vocab.gguf", model="no_vocab")
    save_vocabulary(tmp_path / "unsaid.gguf")
    save_vocabulary(tmp_path / "martian.gguf", model="martian", tokens=["a"])
    save_vocabulary(tmp_path / "letters.gguf", model="llama", tokens=["<unk>", "a"], scores=[0.0, 0.0])
    command = [sys.executable, "-c", TRY_ALL, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    reasons = {
        "none": "has no vocabulary",
        "no_vocab": "has no vocabulary",
        "unsaid": "tokenizer.ggml.model",
        "martian": "unknown tokenizer: 'martian'",
        "letters": "no token for the byte",
    }
    found = dict(line.split(" | ") for line in result.stdout.splitlines())
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name]


def test_a_model_without_a_vocabulary_is_refused(open_engine, llama, tmp_path):
    path = with_metadata(llama[1], tmp_path / "bare.gguf", {"tokenizer.ggml.model": "none"})
    with pytest.raises(ModelLoadError, match=r"bare\.gguf has no vocabulary"):
        open_engine(path)


def test_the_tokenizer_outlives_its_engine(llama):
    loaded = BACKEND.load(os.fspath(llama[1]), LoadOptions(**EXACT))
    tokenizer, before = loaded.tokenizer, [loaded.tokenizer.encode(text) for text in TEXTS]
    loaded.engine.close()
    del loaded
    assert [tokenizer.encode(text) for text in TEXTS] == before
    assert tokenizer.fingerprint == dctokenizers.from_gguf(llama[1]).fingerprint


def test_the_chat_template_reaches_the_info(llama, tmp_path):
    template = "{% for message in messages %}" + "x" * 300 + "ü{% endfor %}"
    for wished in (template, None):
        path = with_metadata(llama[1], tmp_path / "t.gguf", {"tokenizer.chat_template": wished})
        loaded = BACKEND.load(os.fspath(path), LoadOptions(**EXACT))
        loaded.engine.close()
        assert loaded.info.chat_template == (wished or "")


def test_constraints_hold_on_this_vocabulary(llama):
    with LLM(llama[1], dtype="float32", device="cpu") as llm:
        for pattern in ("[0-9]{7}", "(ä|你){3}"):
            assert re.fullmatch(pattern, llm.generate("a", regex=pattern, max_tokens=40).text)
