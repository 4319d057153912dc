"""Constraints as JSON and back; and that nothing but constraints gets through."""

from __future__ import annotations

import json
import random

import pytest

from dcmodel import (
    Choice,
    Grammar,
    Hole,
    JsonSchema,
    Length,
    MaskFunction,
    NotIn,
    PrefixOf,
    Regex,
    StartsWith,
    Stop,
    Template,
    TokenSet,
    Type,
    Until,
)
from dcmodel.constraints import FixedMask, from_dict, from_json, to_json, wire
from dcmodel.errors import CapabilityError, InvalidConstraintError
from dcmodel.mask import TokenMask

RULES = {
    "choice": Choice(["yes", "no", "é\n"]),
    "regex": Regex("[0-9]+"),
    "type": Type(int, minimum=3, maximum=9),
    "json_schema": JsonSchema(
        {"type": "object", "properties": {"a": {"type": "integer"}}}, whitespace="compact"
    ),
    "grammar": Grammar('start: "a" start | "b"'),
    "stop": Stop(["\n", "END"], include=True),
    "until": Until(["END"]),
    "not_in": NotIn(["bad", "worse"]),
    "length": Length(1, 20, "words"),
    "prefix_of": PrefixOf(["hello", "world"], minimum=2),
    "starts_with": StartsWith(["hello"]),
    "fixed_mask": FixedMask(TokenMask.from_ids([1, 2, 40, 287], 288)),
    "token_set": TokenSet([1, 2, 3], min_count=2, max_count=5),
    "template": Template(["Name: ", Hole("name", Regex("[A-Z][a-z]+"), {"temperature": 0.5}), "."]),
    "and": Regex("[a-z]+") & NotIn(["x"]),
    "or": Choice(["a"]) | Regex("b+"),
    "not": ~Choice(["a"]),
    "then": Until(["END"]) + JsonSchema(True) + ~(Choice(["a"]) | Grammar('start: "b"')),
}


def test_there_is_an_example_of_every_kind():
    assert set(RULES) == set(wire.KINDS)


@pytest.mark.parametrize("name", RULES)
def test_a_constraint_comes_back_as_it_was(name):
    rule = RULES[name]
    again = from_json(to_json(rule))
    assert again == rule
    assert type(again) is type(rule)
    assert hash(again) == hash(rule)
    assert to_json(again) == to_json(rule)
    assert json.loads(to_json(rule))["version"] == 1


def test_a_function_does_not_travel_alone_or_inside():
    for rule in (MaskFunction(lambda ids: None), Regex("a") & MaskFunction(lambda ids: None)):
        with pytest.raises(CapabilityError, match="session"):
            to_json(rule)
    with pytest.raises(InvalidConstraintError, match="session"):
        from_dict({"kind": "and", "parts": [{"kind": "mask_function", "function": "os.system"}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "version"),
        ('{"constraint": {"kind": "regex", "pattern": "a"}}', "version"),
        ('{"version": 2, "constraint": {"kind": "regex", "pattern": "a"}}', "version 2"),
        ('{"version": true, "constraint": {"kind": "regex", "pattern": "a"}}', "True"),
        ('{"version": 1, "constraint": 5}', "constraint is 5"),
        ('{"version": 1, "constraint": {"kind": "regexp", "pattern": "a"}}', "regexp"),
        ('{"version": 1, "constraint": {"kind": ["regex"], "pattern": "a"}}', "kind"),
        ('{"version": 1, "constraint": {"kind": "regex"}}', "fields"),
        ('{"version": 1, "constraint": {"kind": "regex", "pattern": 5}}', "5"),
        ('{"version": 1, "constraint": {"kind": "regex", "pattern": "a", "flags": 1}}', "flags"),
        ('{"version": 1, "constraint": {"kind": "choice", "options": []}}', "options"),
        ('{"version": 1, "constraint": {"kind": "and", "parts": {}}}', "parts"),
        ('{"version": 1, "constraint": {"kind": "and", "parts": []}}', "parts"),
        ('{"version": 1, "constraint": {"kind": "not", "parts": []}}', "part"),
        (
            '{"version": 1, "constraint": {"kind": "or", "parts": [{"kind": "regex", "pattern": null}]}}',
            r"parts\[0\]",
        ),
        ('{"version": 1, "constraint": {"kind": "template", "parts": [7]}}', r"parts\[0\]"),
        (
            '{"version": 1, "constraint": {"kind": "template", "parts": [{"name": "a", "constraint": 1}]}}',
            "constraint",
        ),
        ("[" * 100_000, "deep"),
    ],
)
def test_what_is_no_constraint_is_refused_with_its_place(text, said):
    with pytest.raises(InvalidConstraintError, match=said) as caught:
        from_json(text)
    assert "\n" not in caught.value.message or len(caught.value.message) < 500


def test_what_is_too_large_or_too_deep_is_refused():
    deep: object = {"kind": "regex", "pattern": "a"}
    for _ in range(60):
        deep = {"kind": "not", "part": deep}
    with pytest.raises(InvalidConstraintError, match=r"deep|large"):
        from_dict(deep)
    wide = {"kind": "or", "parts": [{"kind": "regex", "pattern": "a"}] * (wire.MAX_RULES + 1)}
    with pytest.raises(InvalidConstraintError, match=r"large|parts"):
        from_dict(wide)
    with pytest.raises(InvalidConstraintError, match="bytes"):
        from_json(" " * (wire.MAX_BYTES + 1))


def spoiled(value: object, rng: random.Random) -> object:
    """The same with one thing changed."""
    rubbish = [None, True, -1, 1.5, "", "x", [], {}, [None], {"kind": "regex"}, 10**30, "\ud800"]
    if isinstance(value, dict) and value and rng.random() < 0.7:
        name = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.2:
            del changed[name]
        else:
            changed[name] = spoiled(value[name], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], spoiled(value[place], rng), *value[place + 1 :]]
    return rng.choice(rubbish)


@pytest.mark.parametrize("name", RULES)
def test_spoiled_constraints_are_refused_or_are_constraints(name):
    rng = random.Random(name)
    for _ in range(300):
        data = spoiled(dict(RULES[name].to_dict()), rng)
        try:
            rule = from_dict(data)
        except InvalidConstraintError:
            continue
        assert from_dict(rule.to_dict()) == rule
