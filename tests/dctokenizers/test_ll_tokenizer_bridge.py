"""llguidance sees the same vocabulary and the same tokenization."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llguidance import LLMatcher, grammar_from
from tokenizers import normalizers

import dctokenizers
from dctokenizers import Vocabulary
from dctokenizers.bridge import agrees, stand_in_eos

from .conftest import REAL_FILES, TEXTS, byte_level_backend, unigram_backend


def check_agreement(tokenizer):
    ll_tokenizer = tokenizer.ll_tokenizer()
    assert ll_tokenizer.vocab_size == tokenizer.vocab_size
    assert tuple(ll_tokenizer.eos_tokens) == tokenizer.eos_token_ids
    assert agrees(ll_tokenizer, tokenizer.vocabulary)
    for text in TEXTS:
        assert ll_tokenizer.tokenize_str(text) == tokenizer.encode(text), text
        assert ll_tokenizer.tokenize_bytes(text.encode()) == tokenizer.encode(text)


def test_small_tokenizers_agree(small):
    check_agreement(small)


@pytest.mark.parametrize("file", REAL_FILES)
def test_real_tokenizers_agree(real, file):
    check_agreement(real(file))


def test_forced_text_continues_without_a_prefix(small):
    matcher = LLMatcher(small.ll_tokenizer(), grammar_from("regex", "the cat sat"))
    forced = matcher.compute_ff_tokens()
    assert small.decode(forced) == "the cat sat"
    assert forced == small.encode("the cat sat")


@pytest.mark.parametrize("text", ["a <s> b", "x </s> y", "u <|endoftext|> v"])
def test_forced_text_of_special_tokens_stays_text(small, text):
    pattern = text.replace("|", r"\|")
    forced = LLMatcher(small.ll_tokenizer(), grammar_from("regex", pattern)).compute_ff_tokens()
    assert forced == small.encode(text)
    assert small.special_token_ids.isdisjoint(forced)


def test_all_ends_are_allowed_where_the_match_is_complete(small):
    tokenizer = small.with_eos([0, 1])
    matcher = LLMatcher(tokenizer.ll_tokenizer(), grammar_from("regex", "a"))
    assert matcher.try_consume_tokens(tokenizer.encode("a")) == 1
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [0, 1]


@pytest.mark.parametrize("file", ["cl100k_base.tiktoken.gz", "ggml-vocab-phi-3.gguf"])
def test_holes_and_special_tokens_are_never_text(real, file):
    tokenizer = real(file).with_eos([min(real(file).special_token_ids)])
    matcher = LLMatcher(tokenizer.ll_tokenizer(), grammar_from("regex", r"(.|\n)+"))
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    allowed = set(np.flatnonzero(bits).tolist())
    holes = {i for i, token in enumerate(tokenizer.all_token_bytes()) if not token}
    assert allowed.isdisjoint(holes | tokenizer.special_token_ids)
    assert len(allowed) > 0.9 * tokenizer.vocab_size


def test_it_is_built_once_per_ends_even_by_many_threads():
    tokenizer = dctokenizers.from_huggingface(byte_level_backend())
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: tokenizer.ll_tokenizer(), range(16)))
    assert all(ll_tokenizer is built[0] for ll_tokenizer in built)
    assert tokenizer.with_eos([1]).ll_tokenizer() is not built[0]
    assert tokenizer.with_eos(tokenizer.eos_token_ids).ll_tokenizer() is built[0]


def test_many_threads_tokenize_alike(small):
    ll_tokenizer = small.ll_tokenizer()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ll_tokenizer.tokenize_str, TEXTS * 10))
    assert found == [small.encode(text) for text in TEXTS] * 10


def test_without_an_end_an_id_without_text_stands_in(small):
    ll_tokenizer = small.with_eos([]).ll_tokenizer()
    assert ll_tokenizer.vocab_size == small.vocab_size
    assert ll_tokenizer.eos_tokens == [stand_in_eos(small.vocabulary)]
    assert stand_in_eos(small.vocabulary) in small.special_token_ids
    assert stand_in_eos(Vocabulary([b"a", b"", b"b"], [])) == 1
    assert stand_in_eos(Vocabulary([b"a", b"b"], [])) == 1


def test_text_beyond_the_vocabulary_is_tokenized_as_far_as_it_can_be(real):
    tokenizer = real("ggml-vocab-falcon.gguf")
    ll_tokenizer = tokenizer.ll_tokenizer()
    assert tokenizer.decode(ll_tokenizer.tokenize_str("ab\x03c")) == "ab"
    assert ll_tokenizer.tokenize_str("the cat") == tokenizer.encode("the cat")


def test_normalisers_never_change_forced_text():
    backend = unigram_backend(byte_fallback=True, normalizer=normalizers.Lowercase())
    tokenizer = dctokenizers.from_huggingface(backend)
    matcher = LLMatcher(tokenizer.ll_tokenizer(), grammar_from("regex", "The Cat"))
    forced = matcher.compute_ff_tokens()
    assert matcher.try_consume_tokens(forced) == len(forced)
    assert tokenizer.decode(forced) == "The Cat"


def test_disagreement_is_noticed(small):
    tokens = list(small.all_token_bytes())
    special = small.special_token_ids
    ordinary = tokens.index(b"a")
    changed = [*tokens[:ordinary], b"other", *tokens[ordinary + 1 :]]
    for other in (
        Vocabulary([*tokens, b"x"], special),
        Vocabulary(changed, special),
        Vocabulary(tokens, special - {min(special)}),
        Vocabulary(tokens, special | {ordinary}),
    ):
        assert not agrees(small.ll_tokenizer(), other)


def test_slices_change_no_mask(small):
    built = small.ll_tokenizer()
    plain = built.with_slices([])
    grammar = grammar_from("regex", '[a-zA-Z_][a-zA-Z0-9_]*( = "[^"]*")?')
    for text in ("", "cat", "the", "cat = ", 'cat = "sat '):
        masks = []
        for ll_tokenizer in (built, plain):
            matcher = LLMatcher(ll_tokenizer, grammar)
            token_ids = small.encode(text)
            assert matcher.try_consume_tokens(token_ids) == len(token_ids)
            masks.append(matcher.compute_bitmask())
        assert masks[0] == masks[1]
