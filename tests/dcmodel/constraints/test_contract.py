"""What every kind of matcher promises, held over all kinds and over random histories."""

from __future__ import annotations

import random

import pytest

from dcmodel.constraint import Matcher
from dcmodel.constraints import (
    Choice,
    FixedMask,
    Grammar,
    JsonSchema,
    MaskFunction,
    Regex,
    Stop,
    TokenSet,
    from_dict,
)
from dcmodel.constraints.length import Length
from dcmodel.constraints.phrases.not_in import NotIn
from dcmodel.constraints.prefixes import PrefixOf, StartsWith
from dcmodel.constraints.value_types import Type
from dcmodel.errors import CapabilityError, InvalidConstraintError
from dcmodel.mask import TokenMask


def letters_then_end(token_ids):
    """At most six of a, b, ab; the end after an even number; one way only after `ab`."""
    if token_ids[-1:] == (256,):
        return [98]
    allowed = {97, 98, 256} if len(token_ids) < 6 else set()
    return allowed | ({285, 286} if len(token_ids) % 2 == 0 else set()) or {285}


KINDS = {
    "choice": Choice(["yes", "yes please", "no", "not", "a", "ab", "abc", "üb"]),
    "regex": Regex("(abc|x+)+[0-9]{0,3}"),
    "regex forced": Regex("(abc123|yes please)x*"),
    "json": JsonSchema(
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "ab": {"enum": ["no"]}},
            "required": ["a"],
            "additionalProperties": False,
        }
    ),
    "json any": JsonSchema(True, whitespace="bounded"),
    "grammar": Grammar('start: e\ne: "x" | "(" e ")" | e "+x" "+"? "12"?'),
    "grammar unforced": Grammar('start: A B\nA: "ab"+\nB: "c"'),
    "grammar special": Grammar('start: "a"+ <|tool|> "b"'),
    "stop": Stop(["STOP", "abc"]),
    "token set": TokenSet([97, 98, 256, 287], min_count=2, max_count=5),
    "token set forced": TokenSet([97], min_count=2),
    "fixed mask": FixedMask(TokenMask.from_ids([97, 98, 256, 285, 286], 288)),
    "not in": NotIn(["abc", "ba", "é", "STOP", "aaaa"]),
    "not in much": NotIn([f"{a}{b}" for a in "abc" for b in "abcdef"]),
    "length": Length(2, 5),
    "length open": Length(3),
    "length in words": Length(1, 3, unit="words"),
    "length in tokens": Length(2, 4, unit="tokens"),
    "int": Type(int, minimum=-12, maximum=1234),
    "float": Type("float"),
    "date": Type("date"),
    "bool": Type(bool),
    "prefix of": PrefixOf(["yes please", "abcabc", "abcno", "üb"], 2),
    "starts with": StartsWith(["abc", "yes", "é"]),
    "mask function": MaskFunction(letters_then_end),
    "mask function open": MaskFunction(lambda token_ids: None),
}


@pytest.fixture(params=KINDS)
def constraint(request):
    return KINDS[request.param]


def observed(matcher: Matcher, tokenizer, masks):
    return (
        frozenset(masks(matcher, tokenizer)),
        matcher.is_accepting,
        matcher.is_finished,
        tuple(matcher.forced()),
    )


def random_walk(matcher, tokenizer, masks, rng, steps):
    """Advance by tokens that the mask allows, now and then by a forced run; return all of them."""
    history = []
    for _ in range(steps):
        allowed = sorted(masks(matcher, tokenizer))
        if not allowed:
            break
        run = matcher.forced() if rng.random() < 0.3 else []
        # Free text would hardly ever come to its end.
        telling = [i for i in allowed if i in tokenizer.eos_token_ids or 96 <= i <= 103 or i >= 256]
        run = run or [rng.choice(telling or allowed)]
        assert matcher.advance(run) == len(run)
        history += run
    return history


def test_a_mask_and_advance_agree(constraint, small, masks):
    rng = random.Random(1)
    for _ in range(8):
        matcher = constraint.compile(small).matcher()
        random_walk(matcher, small, masks, rng, rng.randrange(6))
        before = observed(matcher, small, masks)
        for token_id in before[0]:
            assert matcher.fork().advance([token_id]) == 1
        assert observed(matcher, small, masks) == before


def test_ends_are_allowed_exactly_where_the_text_is_complete(constraint, small, masks):
    rng = random.Random(2)
    for _ in range(8):
        matcher = constraint.compile(small).matcher()
        for _ in range(12):
            allowed = masks(matcher, small)
            ends = allowed.intersection(small.eos_token_ids)
            if constraint.kind != "mask_function":
                assert ends == (set(small.eos_token_ids) if matcher.is_accepting else set())
            assert bool(ends) == matcher.is_accepting
            if matcher.is_finished:
                assert matcher.is_accepting
                assert allowed <= set(small.eos_token_ids)
            if not random_walk(matcher, small, masks, rng, 1):
                break


def test_forced_tokens_are_accepted_and_are_what_the_masks_leave(constraint, small, masks):
    rng = random.Random(3)
    for _ in range(8):
        matcher = constraint.compile(small).matcher()
        for _ in range(8):
            forced = matcher.forced()
            assert not set(forced).intersection(small.eos_token_ids)
            assert matcher.fork().advance(forced) == len(forced)
            twin = matcher.fork()
            for token_id in forced:
                assert masks(twin, small) == {token_id}
                assert twin.advance([token_id]) == 1
            if not random_walk(matcher, small, masks, rng, 1):
                break


def test_explanations_agree_with_the_mask(constraint, small, masks):
    rng = random.Random(4)
    for steps in range(5):
        matcher = constraint.compile(small).matcher()
        random_walk(matcher, small, masks, rng, steps)
        before = observed(matcher, small, masks)
        for token_id in range(small.vocab_size):
            explanation = matcher.explain(token_id)
            assert explanation.token_id == token_id
            assert explanation.allowed == (token_id in before[0])
            assert explanation.reason
            assert len(explanation.expected) <= 8
            if not explanation.allowed and before[0] - {287}:
                assert explanation.expected
        assert not matcher.explain(10**9).allowed
        assert not matcher.explain(-1).allowed
        assert observed(matcher, small, masks) == before


def test_random_histories_are_as_if_replayed(constraint, small, masks):
    """Advance, fork, roll back in any order: each matcher is what a fresh one makes of its tokens."""
    compiled = constraint.compile(small)
    for seed in range(6):
        rng = random.Random(seed)
        states = [(compiled.matcher(), [])]
        for _ in range(30):
            index = rng.randrange(len(states))
            matcher, history = states[index]
            action = rng.random()
            if action < 0.5:
                history += random_walk(matcher, small, masks, rng, rng.randrange(1, 4))
            elif action < 0.65 and len(states) < 5:
                states.append((matcher.fork(), history.copy()))
            elif action < 0.8:
                count = rng.randrange(len(history) + 1)
                matcher.rollback(count)
                del history[len(history) - count :]
            else:
                # A refused token changes nothing, and ends the run that it is in.
                assert matcher.advance([10**6]) == 0
                assert matcher.advance([-1]) == 0
                allowed = masks(matcher, small)
                refused = [i for i in range(small.vocab_size) if not matcher.fork().advance([i])]
                assert not allowed.intersection(refused)
                if refused:
                    assert matcher.advance([rng.choice(refused), 97, 97]) == 0
        for matcher, history in states:
            fresh = compiled.matcher()
            assert fresh.advance(history) == len(history)
            assert observed(matcher, small, masks) == observed(fresh, small, masks)


def test_the_end_can_be_taken_back(constraint, small, masks):
    matcher = constraint.compile(small).matcher()
    rng = random.Random(5)
    for _ in range(60):
        if matcher.is_accepting:
            break
        random_walk(matcher, small, masks, rng, 1)
    assert matcher.is_accepting
    before = observed(matcher, small, masks)
    end = next(iter(before[0].intersection(small.eos_token_ids)))
    assert matcher.advance([end]) == 1
    assert matcher.is_accepting
    assert matcher.is_finished
    assert matcher.forced() == []
    assert masks(matcher, small) == set(small.eos_token_ids)
    assert matcher.advance([97]) == 0
    assert not matcher.explain(97).allowed
    twin = matcher.fork()
    assert twin.advance(list(small.eos_token_ids)) == 2
    twin.rollback(3)
    assert observed(twin, small, masks) == before
    assert matcher.is_finished
    matcher.rollback(1)
    assert observed(matcher, small, masks) == before


def test_too_many_tokens_cannot_be_taken_back(constraint, small, masks):
    matcher = constraint.compile(small).matcher()
    history = random_walk(matcher, small, masks, random.Random(6), 3)
    before = observed(matcher, small, masks)
    for count in (len(history) + 1, -1):
        with pytest.raises(ValueError, match=f"cannot take back {count} of {len(history)}"):
            matcher.rollback(count)
    assert observed(matcher, small, masks) == before
    matcher.rollback(len(history))
    assert observed(matcher, small, masks) == observed(constraint.compile(small).matcher(), small, masks)


def test_nothing_to_accept_and_nothing_to_take_back(constraint, small, masks):
    matcher = constraint.compile(small).matcher()
    before = observed(matcher, small, masks)
    assert matcher.advance([]) == 0
    matcher.rollback(0)
    assert observed(matcher, small, masks) == before


def test_a_constraint_travels_as_json(constraint):
    import json

    if constraint.kind == "mask_function":
        with pytest.raises(CapabilityError, match="cannot be sent"):
            constraint.to_dict()
        return
    data = json.loads(json.dumps(constraint.to_dict()))
    fields = {name: value for name, value in data.items() if name != "kind"}
    assert type(constraint)(**fields) == constraint
    again = from_dict(data)
    assert again == constraint
    assert hash(again) == hash(constraint)
    assert again.to_dict() == constraint.to_dict()


def test_kinds_differ(constraint):
    assert sum(constraint == other for other in KINDS.values()) == 1
    assert constraint != "text"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "nope"},
        {"kind": None},
        {"kind": ["regex"]},
        {"kind": "regex"},
        [],
        {"kind": "regex", "pattern": "a", "more": 1},
        {"kind": "regex", "pattern": 5},
        {"kind": "choice", "options": 5},
        {"kind": "choice", "options": "ab"},
        {"kind": "choice", "options": [1]},
        {"kind": "stop", "strings": [1]},
        {"kind": "stop", "strings": 7},
        {"kind": "grammar", "lark": 1},
        {"kind": "token_set", "token_ids": ["a"]},
        {"kind": "token_set", "token_ids": [1], "min_count": "x"},
        {"kind": "token_set", "token_ids": [1], "max_count": 1.5},
        {"kind": "token_set", "token_ids": 3},
        {"kind": "fixed_mask", "mask": "AAAA", "vocab_size": 288},
        {"kind": "fixed_mask", "mask": "?", "vocab_size": 288},
        {"kind": "fixed_mask", "mask": 5, "vocab_size": 288},
        {"kind": "fixed_mask", "mask": "AQAAAA==", "vocab_size": True},
        {"kind": "fixed_mask", "mask": "AAAAAA==", "vocab_size": 3},
        {"kind": "json_schema", "schema": 5},
        {"kind": "json_schema", "schema": {}, "whitespace": []},
        {"kind": "stop", "strings": ["a"], "include": "yes"},
        {"kind": "mask_function"},
        {"kind": "not_in", "phrases": {"a": 1}},
        {"kind": "not_in", "phrases": ["a", 1]},
        {"kind": "length"},
        {"kind": "length", "minimum": "1"},
        {"kind": "length", "maximum": 3, "unit": ["words"]},
        {"kind": "type", "of": "nope"},
        {"kind": "type", "of": ["int"]},
        {"kind": "type", "of": "int", "minimum": "1"},
        {"kind": "type", "minimum": 1},
        {"kind": "prefix_of", "texts": ["ab"], "minimum": 3},
        {"kind": "prefix_of", "texts": [1]},
        {"kind": "starts_with", "texts": 5},
    ],
    ids=repr,
)
def test_a_wrong_wire_form_is_a_typed_error(data):
    with pytest.raises(InvalidConstraintError):
        from_dict(data)


def test_a_matcher_without_an_end_token(small, masks):
    """A vocabulary may have none: the match is finished, and the mask has nothing to offer."""
    bare = small.with_eos([])
    for kind in ("choice", "regex", "json", "grammar", "stop", "token set"):
        matcher = KINDS[kind].compile(bare).matcher()
        rng = random.Random(7)
        for _ in range(200):
            allowed = masks(matcher, bare)
            assert not allowed.intersection(small.eos_token_ids)
            if matcher.is_finished or not allowed:
                break
            random_walk(matcher, bare, masks, rng, 1)
        if matcher.is_finished:
            assert masks(matcher, bare) == set()


def test_masks_of_a_padded_row_and_of_a_short_one(constraint, small):
    import numpy as np

    with pytest.raises(ValueError, match="needs 9"):
        constraint.compile(small).matcher().fill_mask(np.zeros(8, dtype=np.int32))
    mask = TokenMask.none(small.vocab_size)
    assert len(mask) == 0
