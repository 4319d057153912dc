"""Vocabularies through llama.cpp, beside what `dctokenizers.from_gguf` reads from the same files."""

from __future__ import annotations

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from gguf_vocabularies import (
    BYTE,
    BYTES,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    byte_level_fields,
    save_vocabulary,
    sentencepiece_fields,
)
from llguidance import LLMatcher, grammar_from

import dctokenizers
from dcmodel.errors import ModelLoadError, ModelNotFoundError
from dctokenizers.bridge import agrees
from lmql_backends.llama_cpp import codec
from lmql_backends.llama_cpp.codec import LlamaCodec
from lmql_backends.llama_cpp.model import open_model
from lmql_backends.llama_cpp.tokenizer import chat_template, load_tokenizer

DATA = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
REAL = ["falcon", "gpt-2", "llama-spm", "phi-3", "starcoder"]
WAYS = [
    {"parse_special": parse_special, "prefix_space": prefix_space}
    for parse_special in (False, True)
    for prefix_space in (False, True)
]
ALPHABET = "ab cdehloXYZ 0123 \n\t.,!\u2581éß你😀\u0301<|s>/'`~\0\u00a0"
TEXTS = [
    "",
    " ",
    " leading and trailing  ",
    'def f(x):\n    """doc"""\n    return x ** 2  # 1234\n',
    "a literal <s> </s>  <unk> <|endoftext|> [INST] <0x41> in the text",
    "<|user|> hi <|end|>\n",
    "\u2581",
    "hello user <|x|> hello",
]


@pytest.fixture(scope="module")
def real():
    """Both tokenizers of a real file, once for all tests."""
    if not DATA.is_dir():
        pytest.skip("the shared tokenizers are not there")

    @cache
    def both(name: str):
        path = DATA / f"ggml-vocab-{name}.gguf"
        return load_tokenizer(path, name=name), dctokenizers.from_gguf(path)

    return both


def random_texts(count: int):
    random_text = random.Random(0)
    return ["".join(random_text.choices(ALPHABET, k=random_text.randrange(1, 40))) for _ in range(count)]


def attempt(tokenizer, text, way):
    """The ids, or the class of what is raised."""
    try:
        return tokenizer.encode(text, **way)
    except dctokenizers.TokenizerError as error:
        return type(error)


def check_equal(tokenizer, other):
    assert tokenizer.fingerprint == other.fingerprint
    for name in ("eos_token_ids", "bos_token_id", "unknown_token_id", "is_lossless", "has_prefix_space"):
        assert getattr(tokenizer, name) == getattr(other, name), name
    for text in [*TEXTS, *random_texts(200)]:
        for way in WAYS:
            assert attempt(tokenizer, text, way) == attempt(other, text, way), (text, way)
    assert tokenizer.encode_prompt("hello a") == other.encode_prompt("hello a")


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_is_read_as_without_llama_cpp(real, name):
    check_equal(*real(name))


@pytest.mark.parametrize("name", REAL)
def test_llama_cpps_own_vectors_agree(real, name):
    texts = (DATA / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    wanted = (DATA / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    for text, numbers in zip(texts, wanted, strict=False):
        assert real(name)[0].encode(text, prefix_space=True) == [int(number) for number in numbers.split()]


@pytest.mark.parametrize(
    "fields",
    [
        byte_level_fields(),
        byte_level_fields(add_bos_token=True),
        byte_level_fields(pre="llama-bpe"),
        sentencepiece_fields(),
        sentencepiece_fields(add_space_prefix=False, add_bos_token=False),
    ],
    ids=["bytes", "bytes, bos", "bytes, llama 3", "sentencepiece", "sentencepiece, no prefix"],
)
def test_a_small_file_is_read_as_without_llama_cpp(tmp_path, fields):
    path = save_vocabulary(tmp_path / "v.gguf", **fields)
    check_equal(load_tokenizer(path, name="v"), dctokenizers.from_gguf(path))


def test_types_of_tokens_decide_their_bytes(tmp_path):
    fields = byte_level_fields()
    long = "long " * 999
    fields["tokens"] += [long, "<unused7>"]
    fields["token_type"] += [USER_DEFINED, CONTROL]
    tokenizer = load_tokenizer(save_vocabulary(tmp_path / "v.gguf", **fields), name="v")
    assert tokenizer.token_bytes(264).decode() == long
    assert tokenizer.token_bytes(263) == b""
    assert tokenizer.special_token_ids == {260, 261, 265}
    assert tokenizer.encode("<|x|>hello", parse_special=True) == [261, 259]
    assert tokenizer.decode(tokenizer.encode("hello user <|x|>")) == "hello user <|x|>"


def test_control_tokens_that_llama_cpp_prints_are_no_text(tmp_path):
    fields = byte_level_fields()
    names = ["<|channel|>", "<|return|>", "<|call|>"]
    fields["tokens"] += names
    fields["token_type"] += [CONTROL] * 3
    path = save_vocabulary(tmp_path / "v.gguf", **fields)
    tokenizer = load_tokenizer(path, name="v")
    check_equal(tokenizer, dctokenizers.from_gguf(path))
    text = "a <|channel|> <|end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.token_bytes(end).decode() for end in tokenizer.eos_token_ids] == ["<|x|>", *names[1:]]


def test_kinds_that_need_llama_cpp_are_read(tmp_path):
    rwkv = save_vocabulary(
        tmp_path / "r.gguf",
        architecture="rwkv6",
        model="rwkv",
        tokens=["<s>", *(f"\\x{byte:02x}" for byte in range(256)), "he", "hello"],
        token_type=[CONTROL] + [NORMAL] * 258,
    )
    plamo = save_vocabulary(
        tmp_path / "p.gguf",
        architecture="plamo2",
        model="plamo2",
        tokens=["<unk>", "<s>", "<|plamo:eos|>", "a", "b", "ab", "hello", *BYTES],
        scores=[0.0] * 3 + [-1.0] * 4 + [-20.0] * 256,
        token_type=[UNKNOWN, CONTROL, CONTROL, *[NORMAL] * 4, *[BYTE] * 256],
        unknown_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    for path in (rwkv, plamo):
        tokenizer = load_tokenizer(path, name="v")
        assert tokenizer.is_lossless
        for text in [*TEXTS, *random_texts(50)]:
            token_ids = tokenizer.encode(text)
            assert tokenizer.decode(token_ids) == text
            assert tokenizer.special_token_ids.isdisjoint(token_ids)
        assert len(tokenizer.encode("hello")) == 1


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_a_unigram_vocabulary_is_read(tmp_path, merges, prefix):
    words = ["\u2581the", "\u2581cat", "\u2581", *"theca"]
    path = save_vocabulary(
        tmp_path / "v.gguf",
        model="t5",
        tokens=["<unk>", "<s>", "</s>", *words],
        scores=[0.0, 0.0, 0.0, *[-float(number) for number in range(1, len(words) + 1)]],
        token_type=[UNKNOWN, CONTROL, CONTROL, *[NORMAL] * len(words)],
        unknown_token_id=0,
        eos_token_id=2,
        add_space_prefix=prefix,
        remove_extra_whitespaces=merges,
    )
    tokenizer, other = load_tokenizer(path, name="v"), dctokenizers.from_gguf(path)
    assert tokenizer.fingerprint == other.fingerprint
    assert not tokenizer.is_lossless
    assert tokenizer.has_prefix_space is (prefix or merges)
    assert tokenizer.decode(tokenizer.encode("cat the")) == "cat the"
    for text in ("the cat", "cat cat the", "cat z"):
        assert tokenizer.encode(text) == other.encode(text)
        if prefix:
            assert tokenizer.encode_prompt(text) == other.encode_prompt(text)


def test_a_vocabulary_that_would_end_the_process_is_refused(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a"]
    path = save_vocabulary(
        tmp_path / "v.gguf",
        model="llama",
        tokens=tokens,
        scores=[0.0] * 5,
        token_type=[UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL],
    )
    with pytest.raises(ModelLoadError, match=r"v\.gguf has no token for the byte 0x00"):
        load_tokenizer(path, name="v")


def test_files_without_a_vocabulary_are_refused(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_tokenizer(tmp_path / "none.gguf", name="v")
    path = save_vocabulary(tmp_path / "v.gguf", model="no_vocab")
    with pytest.raises(ModelLoadError, match="has no vocabulary"):
        load_tokenizer(path, name="v")
    path = save_vocabulary(tmp_path / "v.gguf", **byte_level_fields(pre="martian"))
    with pytest.raises(ModelLoadError, match="martian"):
        load_tokenizer(path, name="v")


def test_masks_are_built_over_it(tmp_path, real):
    small = load_tokenizer(save_vocabulary(tmp_path / "v.gguf", **sentencepiece_fields()), name="v")
    for tokenizer in (small, real("phi-3")[0], real("gpt-2")[0]):
        ll_tokenizer = tokenizer.ll_tokenizer()
        assert agrees(ll_tokenizer, tokenizer.vocabulary)
        assert tuple(ll_tokenizer.eos_tokens) == tokenizer.eos_token_ids
        for text in ("hello a <s> é", "\u2581 x"):
            assert ll_tokenizer.tokenize_str(text) == tokenizer.encode(text)
        forced = LLMatcher(ll_tokenizer, grammar_from("regex", "hello hello")).compute_ff_tokens()
        assert forced == tokenizer.encode("hello hello")


def test_many_threads_encode_at_once(real):
    tokenizer = real("llama-spm")[0]
    texts = random_texts(50) * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


def test_it_outlives_the_model(llama):
    model = open_model(llama[1])
    tokenizer = load_tokenizer(llama[1], name="llama")
    expected = tokenizer.encode("hello")
    model.close()
    del model
    gc.collect()
    assert tokenizer.encode("hello") == expected


def test_the_chat_template_is_the_files(tmp_path):
    template = "{{ messages }}" + " " * 999
    with_one = save_vocabulary(tmp_path / "a.gguf", template=template, **byte_level_fields())
    without = save_vocabulary(tmp_path / "b.gguf", **byte_level_fields())
    assert chat_template(open_model(with_one, vocab_only=True)) == template
    assert chat_template(open_model(without, vocab_only=True)) == ""


def test_a_tokenizer_travels_without_llama_cpp(real):
    tokenizer = real("llama-spm")[0]
    found = dctokenizers.unpack(dctokenizers.pack(tokenizer))
    assert not isinstance(found.codec, LlamaCodec)
    assert tokenizer.codec.portable() is tokenizer.codec.portable()
    check_equal(found, tokenizer)


def test_of_a_kind_that_only_llama_cpp_reads_the_vocabulary_travels(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(save_vocabulary(tmp_path / "own.gguf", **byte_level_fields()), name="own")
    monkeypatch.setattr(codec, "from_gguf", refuse)
    found = dctokenizers.unpack(dctokenizers.pack(tokenizer))
    assert found.fingerprint == tokenizer.fingerprint
    with pytest.raises(dctokenizers.TokenizerError, match="cannot leave"):
        found.encode("a")


def refuse(path):
    raise dctokenizers.TokenizerError(f"{path} is of another kind.")
