"""What holds for the tokenizers of every family."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dctokenizers import TokenIdError, TokenizerError

from .conftest import REAL_FILES, TEXTS

FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_the_tokens_are_the_text(small, text):
    assert small.is_lossless
    assert small.decode_bytes(small.encode(text), skip_special=False) == text.encode()


@FEW
@given(data=st.data())
def test_any_text_keeps_its_bytes(small, data):
    text = data.draw(st.text(max_size=40))
    assert small.decode_bytes(small.encode(text), skip_special=False) == text.encode()


@FEW
@given(data=st.binary(max_size=60))
def test_any_bytes_keep_their_bytes(small, data):
    token_ids = small.encode_bytes(data)
    assert small.decode_bytes(token_ids, skip_special=False) == data
    assert small.special_token_ids.isdisjoint(token_ids)


@pytest.mark.parametrize("file", REAL_FILES)
def test_real_tokenizers_keep_the_bytes_of_texts(real, file):
    tokenizer = real(file)
    for text in TEXTS:
        token_ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(token_ids, skip_special=False) == text.encode(), text
        assert tokenizer.special_token_ids.isdisjoint(token_ids)
        assert tokenizer.decode(token_ids) == text


@pytest.mark.parametrize("file", REAL_FILES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_real_tokenizers_keep_random_bytes_and_text(real, file, data):
    tokenizer = real(file)
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=0xFFF), max_size=30).map(str.encode)
    anything = st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode))
    raw = data.draw(anything if tokenizer.is_lossless else printable)
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(raw), skip_special=False) == raw


@pytest.mark.parametrize("file", ["ggml-vocab-falcon.gguf", "ggml-vocab-starcoder.gguf"])
def test_vocabularies_without_some_bytes_say_so_and_drop_nothing(real, file):
    tokenizer = real(file)
    assert not tokenizer.is_lossless
    with pytest.raises(TokenizerError, match="0xff"):
        tokenizer.encode_bytes(b"a\xff")
    with pytest.raises(TokenizerError, match="no tokens for"):
        tokenizer.encode("a\x03\U00050000")


@pytest.mark.parametrize("file", REAL_FILES)
def test_text_of_special_tokens_is_parsed_only_on_request(real, file):
    tokenizer = real(file)
    for token_id in sorted(tokenizer.special_token_ids)[:5]:
        text = tokenizer.token_bytes(token_id).decode()
        assert token_id not in tokenizer.encode(f"a{text}b")
        parsed = tokenizer.encode(f"a{text}b", parse_special=True)
        assert parsed.count(token_id) == 1
        assert tokenizer.decode(parsed) == "ab"
        assert tokenizer.decode(parsed, skip_special=False) == f"a{text}b"


@pytest.mark.parametrize("file", REAL_FILES)
def test_ids_of_real_tokenizers_are_in_range(real, file):
    tokenizer = real(file)
    assert len(tokenizer.all_token_bytes()) == tokenizer.vocab_size
    named = {*tokenizer.eos_token_ids, *tokenizer.special_token_ids, tokenizer.bos_token_id} - {None}
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in named)
    assert tokenizer.eos_token_ids
    assert all(tokenizer.token_bytes(i) == token for i, token in enumerate(tokenizer.all_token_bytes()))


def test_lone_surrogates_are_an_error_that_names_the_place(small):
    for encode in (small.encode, small.encode_prompt):
        with pytest.raises(TokenizerError, match=r"U\+D83D at character 2"):
            encode("ab\ud83d")


def test_ids_outside_the_vocabulary_are_an_error(small):
    for token_id in (-1, small.vocab_size):
        for call in (
            small.token_bytes,
            lambda i: small.decode([0, i]),
            lambda i: small.stream_decoder().push([i]),
            lambda i: small.with_eos([i]),
        ):
            with pytest.raises(TokenIdError, match=f"{token_id} is outside"):
                call(token_id)
    assert issubclass(TokenIdError, IndexError)
    assert issubclass(TokenIdError, ValueError)


def test_decoding_nothing_gives_nothing(small):
    assert small.decode([]) == ""
    assert small.encode_bytes(b"") == []


def test_with_eos_changes_the_ends_only(small):
    twin = small.with_eos([5, 7, 5])
    assert twin.eos_token_ids == (5, 7)
    assert (twin.fingerprint, twin.name) == (small.fingerprint, small.name)
    assert twin.all_token_bytes() is small.all_token_bytes()
    assert twin.encode_prompt("the cat") == small.encode_prompt("the cat")
    assert small.with_eos([]).eos_token_ids == ()


def test_the_packages_folder_has_no_init_file():
    assert not (Path(__file__).parents[2] / "tokenizers" / "__init__.py").exists()
