from __future__ import annotations

import pytest

from dcmodel.constraints import Choice
from dcmodel.errors import InvalidConstraintError


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
