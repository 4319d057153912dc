"""Free text up to a phrase that has to come, against plain search."""

from __future__ import annotations

import random

import pytest
from fakes.small_languages import WORDS
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import JsonSchema, Regex, Until, from_dict
from dcmodel.constraints.byte_vocabulary import byte_vocabulary, walker_maker
from dcmodel.errors import CapabilityError, InvalidConstraintError

from .conftest import mask_of


def ends_at_first(text: str, phrases: list[str]) -> bool:
    """Whether a phrase stands at the end, and none is complete before."""
    ends = [end for end in range(len(text) + 1) for phrase in phrases if text[:end].endswith(phrase)]
    return bool(ends) and min(ends) == len(text)


@pytest.mark.parametrize("seed", range(25))
def test_a_text_ends_with_the_first_phrase(seed):
    rng = random.Random(seed)
    phrases = rng.sample([word for word in WORDS if 1 <= len(word) <= 3], rng.randint(1, 4))
    tokenizer = small_tokenizer()
    compiled = Until(phrases).compile(tokenizer)
    for word in rng.sample(WORDS, 120):
        matcher, ids = compiled.matcher(), tokenizer.encode(word)
        is_match = matcher.advance(ids) == len(ids) and matcher.is_accepting
        assert is_match == ends_at_first(word, phrases), (word, phrases)
        walker = compiled.walker()
        data = word.encode()
        assert (walker.walk(data) == len(data) and walker.is_accepting) == is_match


def test_nothing_follows_the_phrase_in_the_same_token():
    tokenizer = small_tokenizer()
    matcher = Until([" n"]).compile(tokenizer).matcher()
    allowed = {tokenizer.token_bytes(i) for i in mask_of(matcher, tokenizer)}
    assert b" n" in allowed
    assert not {b" ne", b" name", b" null", b" no"} & allowed
    assert matcher.advance(tokenizer.encode(" n")) == 1
    assert matcher.is_finished


def test_what_follows_begins_right_after_it():
    tokenizer = small_tokenizer()
    rule = Until(["```json\n"]) + JsonSchema({"type": "object"}) + Regex("\n```")
    for text, is_right in {
        'Here it is:\n```json\n{"a": 1}\n```': True,
        '```json\n{"a": "```json"}\n```': True,
        '{"a": 1}\n```': False,
        "```json\n\n```": False,
    }.items():
        matcher, ids = rule.compile(tokenizer).matcher(), tokenizer.encode(text)
        assert (matcher.advance(ids) == len(ids) and matcher.is_accepting) == is_right


def test_broken_characters_are_no_text():
    matcher = Until(["é"]).compile(byte_vocabulary()).matcher()
    data = list("ü".encode())
    assert matcher.advance(data) == 2
    assert matcher.advance([0xA9]) == 0
    assert matcher.advance(list("é".encode())) == 2
    assert matcher.is_finished


def test_the_wire_form_and_what_is_wrong():
    rule = Until(["a", "b"])
    assert from_dict(rule.to_dict()) == rule
    assert rule != Until(["a"])
    for wrong in ([], [""], "", [3]):
        with pytest.raises(InvalidConstraintError):
            Until(wrong)  # type: ignore[arg-type]


def test_a_walker_over_bytes_needs_no_vocabulary():
    walker = walker_maker(Regex("a{2}é"))()
    assert walker.walk("aaé".encode()) == 4
    assert walker.is_accepting
    from dcmodel.constraints import Length

    with pytest.raises(CapabilityError):
        walker_maker(Length(1, 2, unit="tokens"))
