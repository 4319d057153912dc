"""What combinations become, what they refuse, and that their matchers keep the contract."""

from __future__ import annotations

import random

import pytest

from dcmodel import (
    And,
    Choice,
    Grammar,
    JsonSchema,
    Length,
    MaskFunction,
    Not,
    NotIn,
    Or,
    Regex,
    Stop,
    TokenSet,
    Until,
)
from dcmodel.constraints.algebra.concat import ConcatCompiled
from dcmodel.constraints.algebra.live import LiveCompiled
from dcmodel.constraints.algebra.union import UnionCompiled
from dcmodel.constraints.choice import Choice as PlainChoice
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError

OBJECT = JsonSchema(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
NESTED = Grammar('start: "a" start "b" | "a" "b"')
COMBINED = {
    "regular": Regex("[ab]+") & ~Choice(["ab"]) | Regex("c") + Regex("b*"),
    "schema and phrases": OBJECT & NotIn(["7", "12"]),
    "schema and length": OBJECT & Length(0, 9),
    "schema and token count": OBJECT & Length(0, 8, "tokens"),
    "grammar and regex": NESTED & Regex("a{1,3}b*"),
    "or": NESTED | Regex("a+c") | OBJECT,
    "not a grammar": ~NESTED & Regex("[ab]{1,4}"),
    "then in one grammar": Choice(["x+", "x"]) + OBJECT + Regex("[.!]"),
    "then with doubtful borders": NESTED + Regex("b?a") + NESTED,
    "with tokens": TokenSet([97, 98, 99], min_count=1, max_count=4) & Regex("a[bc]*"),
    "until": Until(["ST", "OP"]) + NESTED,
}


def walk(matcher, tokenizer, masks, rng, steps) -> list[int]:
    """Advance by tokens that the mask allows and `advance` accepts."""
    history: list[int] = []
    for _ in range(steps):
        allowed = sorted(masks(matcher, tokenizer))
        rng.shuffle(allowed)
        taken = next((token for token in allowed if matcher.advance([token])), None)
        if taken is None:
            break
        history.append(taken)
    return history


def seen(matcher, tokenizer, masks):
    return (
        frozenset(masks(matcher, tokenizer)),
        matcher.is_accepting,
        matcher.is_finished,
        tuple(matcher.forced()),
    )


@pytest.mark.parametrize("name", COMBINED)
def test_random_histories_are_as_if_replayed(name, small, masks):
    compiled = COMBINED[name].compile(small)
    rng = random.Random(7)
    for _ in range(12):
        matcher = compiled.matcher()
        history = walk(matcher, small, masks, rng, rng.randrange(8))
        twin = matcher.fork()
        more = walk(twin, small, masks, rng, 3)
        back = rng.randint(0, len(history))
        matcher.rollback(back)
        kept = history[: len(history) - back]
        fresh = compiled.matcher()
        assert fresh.advance(kept) == len(kept)
        assert seen(matcher, small, masks) == seen(fresh, small, masks)
        twin.rollback(len(more))
        fresh = compiled.matcher()
        fresh.advance(history)
        assert seen(twin, small, masks) == seen(fresh, small, masks)


@pytest.mark.parametrize(
    "name",
    [
        "schema and phrases",
        "schema and length",
        "schema and token count",
        "grammar and regex",
        "not a grammar",
    ],
)
def test_what_was_accepted_can_always_be_completed(name, small, masks):
    compiled = COMBINED[name].compile(small)
    rng = random.Random(3)
    for _ in range(20):
        matcher = compiled.matcher()
        walk(matcher, small, masks, rng, rng.randrange(10))
        assert not matcher.may_dead_end
        for _ in range(60):
            if matcher.is_accepting:
                break
            (way_out,) = matcher.ways_out()
            assert way_out in masks(matcher, small)
            assert matcher.advance([way_out]) == 1
        assert matcher.is_accepting


@pytest.mark.parametrize("name", COMBINED)
def test_explanations_and_ends_agree_with_what_is_accepted(name, small, masks):
    matcher = COMBINED[name].compile(small).matcher()
    walk(matcher, small, masks, random.Random(5), 2)
    for token_id in range(small.vocab_size):
        explanation = matcher.explain(token_id)
        assert explanation.reason
        if matcher.is_exact:
            assert explanation.allowed == (token_id in masks(matcher, small))
        elif explanation.allowed:
            assert matcher.fork().advance([token_id]) == 1
    ends = set(small.eos_token_ids)
    assert masks(matcher, small) & ends == (ends if matcher.is_accepting else set())


def test_what_a_grammar_can_say_goes_into_one(small):
    assert isinstance((Regex("a+") & ~Choice(["aa"])).compile(small), LlgCompiled)
    assert isinstance((Regex("a+") | Choice(["b"])).compile(small), LlgCompiled)
    assert isinstance((Choice(["x "]) + OBJECT + Choice(["\n"])).compile(small), LlgCompiled)
    assert isinstance((OBJECT | Choice(["none"])).compile(small), UnionCompiled)
    assert isinstance((OBJECT & NotIn(["1"])).compile(small), LiveCompiled)
    assert isinstance((NESTED + NESTED).compile(small), ConcatCompiled)


def test_options_are_filtered_by_the_other_parts(small):
    rule = Choice(["ab", "aabb", "ba", "c"]) & NESTED
    assert (rule.compile(small).matcher().advance(small.encode("aabb"))) > 0
    kept = PlainChoice(["ab", "aabb"]).compile(small)
    for text in ("ab", "aabb", "ba", "c"):
        token_ids = small.encode(text)
        assert rule.compile(small).matcher().advance(token_ids) == kept.matcher().advance(token_ids)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Regex("a+") & Regex("b+"), "a\\+"),
        (Choice(["a", "b"]) & NESTED, "none of the options"),
        (NESTED & Regex("b[ab]*"), "nothing in common"),
        (OBJECT & Choice(["7"]), "none of the options"),
        (~Regex("(?s:.*)"), "no text"),
        (OBJECT & NotIn(["a"]), "nothing in common|no text"),
    ],
)
def test_an_unsatisfiable_combination_says_what_clashes(rule, said, small):
    with pytest.raises(UnsatisfiableConstraintError, match=said):
        rule.compile(small)


def test_combinations_are_made_by_operators_and_compare_by_meaning():
    a, b, c = Regex("a"), Choice(["b"]), NotIn(["c"])
    assert a & b & c == And(a, b, c) == And(And(a, b), c)
    assert a | b == Or(a, b)
    assert ~a == Not(a)
    assert (a + b).kind == "then"
    assert a & b != b & a
    assert len({a & b, And(a, b), a | b}) == 2
    with pytest.raises(TypeError):
        a & "text"
    with pytest.raises(InvalidConstraintError, match="no constraint"):
        And(a, "text")
    with pytest.raises(InvalidConstraintError, match="no parts"):
        Or()


def test_a_stop_string_in_the_middle_of_a_sequence_ends_its_part(small):
    keeps = (Stop(["."], include=True) + Choice(["x"])).compile(small).matcher()
    assert keeps.advance(small.encode("a.x")) == len(small.encode("a.x"))
    assert keeps.is_finished
    drops = (Stop(["."]) + Choice([".x"])).compile(small).matcher()
    assert drops.advance(small.encode("a.x")) == len(small.encode("a.x"))
    assert drops.is_finished


def test_a_function_may_take_part(small, masks):
    rule = MaskFunction(lambda ids: [97, 98] if len(ids) < 2 else [285]) & Regex("a[ab]")
    matcher = rule.compile(small).matcher()
    assert matcher.may_dead_end
    assert masks(matcher, small) == {97}
    assert matcher.advance([97, 98]) == 2
    assert matcher.is_accepting
    assert masks(matcher, small) == {285}


def test_values_come_from_the_part_that_the_text_satisfies():
    assert (OBJECT | Choice(["none"])).parse('{"a": 3}') == {"a": 3}
    assert (Choice(["none"]) | OBJECT).parse('{"a": 3}') == {"a": 3}
    assert (OBJECT | Choice(["none"])).parse("none") == "none"
    assert (Regex("a+") & Regex("b+") | OBJECT).parse('{"a": 3}') == {"a": 3}
    assert (OBJECT & NotIn(["7"])).parse('{"a": 3}') == {"a": 3}
