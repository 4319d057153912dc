"""A tokenizer that was packed and unpacked is the same one."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace

import pytest

import dctokenizers
from dctokenizers import TokenizerError, pack, portable, unpack
from dctokenizers.codec import Codec
from dctokenizers.families import sentencepiece, tiktoken
from dctokenizers.portable import VocabularyCodec

from .conftest import REAL_FILES, TEXTS, byte_level_backend, tiny_ranks, unigram_backend

NAMES = (
    *("name", "vocab_size", "bos_token_id", "eos_token_ids", "special_token_ids", "fingerprint"),
    *("is_lossless", "unknown_token_id", "has_prefix_space", "adds_bos", "prompt_token_ids"),
)


def attempt(encode, *arguments, **options):
    try:
        return encode(*arguments, **options)
    except TokenizerError as error:
        return type(error)


def assert_same(found, tokenizer, texts=TEXTS):
    for name in NAMES:
        assert getattr(found, name) == getattr(tokenizer, name), name
    assert found.all_token_bytes() == tokenizer.all_token_bytes()
    for text in texts:
        for special in (False, True):
            for method in ("encode", "encode_prompt"):
                left, right = (
                    attempt(getattr(t, method), text, parse_special=special) for t in (found, tokenizer)
                )
                assert left == right, (method, text)
        assert attempt(found.encode, text, prefix_space=True) == attempt(
            tokenizer.encode, text, prefix_space=True
        )


def packed_again(packed):
    """As it comes out of JSON."""
    return replace(packed, fields=json.loads(json.dumps(packed.fields)))


def test_a_small_tokenizer_of_every_family_travels(small):
    randomly = random.Random(0)
    texts = ["".join(randomly.choices(" abehlo<s>\n\u2581é你", k=12)) for _ in range(50)]
    assert_same(unpack(packed_again(pack(small.with_eos([0, 1])))), small.with_eos([0, 1]), [*TEXTS, *texts])


@pytest.mark.parametrize("file", REAL_FILES)
def test_a_real_tokenizer_travels(real, file):
    tokenizer = real(file)
    assert_same(unpack(packed_again(pack(tokenizer))), tokenizer)


def test_a_tokenizer_without_some_characters_travels():
    tokenizer = dctokenizers.from_huggingface(unigram_backend())
    assert_same(unpack(pack(tokenizer)), tokenizer)


def test_what_a_config_says_travels(tmp_path):
    config = {"add_bos_token": True, "bos_token": "<|sep|>", "eos_token": "<|endoftext|>"}
    tokenizer = dctokenizers.from_huggingface(byte_level_backend(), config=config, name="of a config")
    found = unpack(pack(tokenizer))
    assert_same(found, tokenizer)
    assert found.encode_prompt("a")[0] == tokenizer.bos_token_id


def test_forced_text_is_encoded_alike(small):
    found = unpack(pack(small))
    data = b'{"name": "Ann"}'
    assert found.ll_tokenizer().tokenize_bytes(data) == small.ll_tokenizer().tokenize_bytes(data)


class HomelyCodec(Codec):
    """An encoder that cannot leave."""

    def encode(self, text, *, parse_special):
        return list(text.encode())


@pytest.fixture
def homely():
    vocabulary = dctokenizers.Vocabulary([*(bytes([i]) for i in range(256)), b"<s>"], [256])
    return dctokenizers.Tokenizer(name="homely", vocabulary=vocabulary, codec=HomelyCodec())


def test_where_the_encoder_cannot_travel_the_vocabulary_does(homely):
    found = unpack(packed_again(pack(homely)))
    assert found.fingerprint == homely.fingerprint
    assert found.is_lossless
    assert found.decode([104, 105]) == "hi"
    with pytest.raises(TokenizerError, match="cannot leave its process"):
        found.encode("hi")
    assert found.ll_tokenizer().tokenize_bytes(b"hi") == [104, 105]


@pytest.mark.parametrize("module", [tiktoken, sentencepiece])
def test_where_the_package_is_missing_the_error_names_it(module, monkeypatch, tmp_path, real):
    file = "mistral_v1_32k.model"
    tokenizer = (
        dctokenizers.from_tiktoken(
            tiny_ranks(tmp_path), pat_str=r"\S+|\s+", special_tokens={"<|endoftext|>": 261}
        )
        if module is tiktoken
        else real(file)
    )
    packed = pack(tokenizer)

    def missing(package, **_):
        raise dctokenizers.MissingPackageError(f'Run: pip install "dcmodel[{package}]"')

    monkeypatch.setattr(module, "require", missing)
    found = unpack(packed)
    assert found.fingerprint == tokenizer.fingerprint
    assert found.has_prefix_space == tokenizer.has_prefix_space
    with pytest.raises(TokenizerError, match="pip install"):
        found.encode("hi")


def test_an_encoder_that_works_otherwise_here_is_not_used(small):
    packed = pack(small)
    samples = [None if ids is None else ids[1:] for ids in packed.fields["samples"]]
    found = unpack(replace(packed, fields={**packed.fields, "samples": samples}))
    assert isinstance(found.codec, VocabularyCodec)
    with pytest.raises(TokenizerError, match="otherwise here"):
        found.encode("hi")


def test_a_form_of_the_future_leaves_the_vocabulary(small):
    found = unpack(replace(pack(small), form="hieroglyphs"))
    assert found.fingerprint == small.fingerprint
    with pytest.raises(TokenizerError, match="hieroglyphs"):
        found.encode("hi")


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: replace(packed, data=packed.data[:-5]),
        lambda packed: replace(packed, data=b"nonsense"),
        lambda packed: replace(packed, data=zlib.compress(b"")),
        lambda packed: replace(packed, data=zlib.compress(zlib.decompress(packed.data) + b"x")),
        lambda packed: replace(packed, data=zlib.compress(b"\xff" * len(zlib.decompress(packed.data)))),
        lambda packed: replace(packed, fields={}),
        lambda packed: replace(packed, fields={**packed.fields, "bytes": portable.MAX_BYTES + 1}),
        lambda packed: replace(packed, fields={**packed.fields, "bytes": 10}),
        lambda packed: replace(packed, fields={**packed.fields, "eos": [1 << 30]}),
        lambda packed: replace(packed, fields={**packed.fields, "eos": "x"}),
        lambda packed: replace(packed, fields={**packed.fields, "fingerprint": "0" * 64}),
        lambda packed: replace(packed, fields={**packed.fields, "samples": None}),
        lambda packed: replace(packed, form="sentencepiece"),
    ],
)
def test_broken_data_is_an_error(change):
    packed = change(pack(dctokenizers.from_huggingface(byte_level_backend())))
    with pytest.raises(TokenizerError):
        unpack(packed)


def test_any_damage_is_an_error_or_does_no_harm():
    packed = pack(dctokenizers.from_huggingface(byte_level_backend()))
    plain = zlib.decompress(packed.data)
    randomly = random.Random(0)
    for _ in range(300):
        damaged = bytearray(plain)
        for _ in range(randomly.randint(1, 3)):
            damaged[randomly.randrange(len(damaged))] = randomly.randrange(256)
        try:
            found = unpack(replace(packed, data=zlib.compress(bytes(damaged), 1)))
        except TokenizerError:
            continue
        assert found.fingerprint == packed.fields["fingerprint"]


def test_data_that_unpacks_to_more_than_it_says_is_not_unpacked():
    packed = pack(dctokenizers.from_huggingface(byte_level_backend()))
    bomb = zlib.compress(bytes(1 << 24))
    with pytest.raises(TokenizerError, match="too long"):
        unpack(replace(packed, data=bomb))
