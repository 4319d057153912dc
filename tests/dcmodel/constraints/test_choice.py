from __future__ import annotations

import random

import numpy as np
import pytest

from dcmodel.constraints import Choice
from dcmodel.constraints.choice_matcher import ChoiceCompiled
from dcmodel.errors import DeadEndError, InvalidConstraintError
from dcmodel.mask import mask_words, row_to_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no options"),
        (["a", "b", "a"], "'a' occurs twice"),
        (["a", 1], "an option is 1"),
        ("abc", "one text"),
        (["a", "\ud800"], "surrogate"),
    ],
)
def test_a_wrong_list_is_an_error(options, message):
    with pytest.raises(InvalidConstraintError, match=message):
        Choice(options)


def test_fifty_thousand_options(large, masks):
    options = [f"item {i} of {i * 7919 % 100003}" for i in range(50_000)]
    compiled = Choice(options).compile(large)
    for option in (options[0], options[31_415], options[-1]):
        matcher = compiled.matcher()
        token_ids = large.encode(option)
        for token_id in token_ids:
            assert token_id in masks(matcher, large)
            assert matcher.advance([token_id]) == 1
        assert matcher.is_accepting
    assert compiled.matcher().advance(large.encode("item 50000 of")) < 6


@pytest.mark.parametrize(
    "text", ['"', "\\", "/", "\n", "\x00", "\x7f", "é😀", "a|b", "{}", "  ", "//", "#", "%ignore", "'"]
)
def test_any_character_can_stand_in_an_option(small, text):
    compiled = Choice([text, "other"]).compile(small)
    matcher = compiled.matcher()
    token_ids = small.encode(text)
    assert matcher.advance(token_ids) == len(token_ids)
    assert matcher.is_finished


def test_a_very_long_option_does_not_hold_up_the_engine(small, masks):
    matcher = Choice(["a" * 100_000, "b"]).compile(small).matcher()
    assert matcher.advance([97] * 5) == 5
    assert 97 in masks(matcher, small)


def both(options, tokenizer):
    """The options under the engine and under the matcher for many of them."""
    return Choice(options).compile(tokenizer), ChoiceCompiled(options, tokenizer)


def random_options(seed: int) -> list[str]:
    choices = random.Random(seed)
    pieces = ("a", "b", "ab", "abc", "yes", " please", "12", "3", "é", "ü", "STOP", "\x00")
    options = {
        "".join(choices.choices(pieces, k=choices.randint(0, 5))) for _ in range(choices.randint(1, 40))
    }
    return sorted(options)


@pytest.mark.parametrize("seed", range(120))
def test_many_options_are_matched_as_few_are(small, masks, seed):
    options = random_options(seed)
    choices = random.Random(seed)
    few, many = (compiled.matcher() for compiled in both(options, small))
    so_far = b""
    for _ in range(12):
        allowed, forced = masks(many, small), many.forced()
        if forced == few.forced():
            assert masks(few, small) == allowed
        else:
            # The engine looks at the last tokens only, and not always; ours are the tokenizer's own.
            whole = small.encode_bytes(so_far + small.decode_bytes(forced))
            assert whole[-len(forced) :] == forced
            assert allowed == set(forced[:1])
        assert (many.is_accepting, many.is_finished) == (few.is_accepting, few.is_finished)
        # Any tokenization is accepted, not only that of the mask.
        tried = choices.sample(range(small.vocab_size), 40)
        for token_id in tried:
            assert many.fork().advance([token_id]) == few.fork().advance([token_id]), token_id
        if allowed <= set(small.eos_token_ids):
            break
        token_id = choices.choice(sorted(allowed - set(small.eos_token_ids)))
        assert many.advance([token_id]) == few.advance([token_id]) == 1
        so_far += small.token_bytes(token_id)
        if choices.random() < 0.3:
            many.rollback(1)
            few.rollback(1)
            so_far = so_far.removesuffix(small.token_bytes(token_id))


@pytest.mark.parametrize("seed", range(30))
def test_walkers_of_many_options_and_of_few_agree(small, seed):
    options = random_options(seed)
    few, many = (compiled.walker() for compiled in both(options, small))
    for byte in random.Random(seed).choice(options).encode():
        assert many.following() == few.following()
        assert many.is_accepting == few.is_accepting
        twin = many.fork()
        assert not many.step(0xFF)
        assert many.step(byte)
        assert few.step(byte)
        assert twin.following() >> byte & 1
    assert many.is_accepting
    assert many.following() == few.following()


def test_a_real_vocabulary_gives_the_same_masks(large, masks):
    choices = random.Random(5)
    words = [large.decode([token_id]) for token_id in choices.sample(range(300, 60_000), 400)]
    options = list({word + choice for word in words for choice in ("", " of the", "ing", ".")} - {""})
    few, many = both(options, large)
    for option in choices.sample(options, 25):
        one, other = few.matcher(), many.matcher()
        for token_id in large.encode(option):
            assert masks(one, large) == masks(other, large)
            assert one.advance([token_id]) == other.advance([token_id]) == 1
        assert masks(one, large) == masks(other, large)
        assert other.is_accepting


def test_a_vocabulary_without_an_end_ends_with_an_error(small):
    matcher = both(["a", "abc"], small.with_eos([]))[1].matcher()
    row = np.zeros(mask_words(small.vocab_size), dtype=np.int32)
    assert matcher.advance([ord("a")]) == 1
    matcher.fill_mask(row)
    assert row_to_ids(row, small.vocab_size).tolist() == [ord("b"), small.encode("bc")[0]]
    assert matcher.advance(list(b"bc")) == 2
    assert matcher.is_finished
    with pytest.raises(DeadEndError, match="no end-of-sequence token"):
        matcher.fill_mask(row)


def test_a_refusal_among_many_options_is_explained(small):
    matcher = both(["yes", "no", "not now"], small)[1].matcher()
    matcher.advance(list(b"no"))
    refused = matcher.explain(ord("x"))
    assert not refused.allowed
    assert "the end" in refused.expected
