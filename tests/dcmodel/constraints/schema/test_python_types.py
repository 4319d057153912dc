from __future__ import annotations

import dataclasses
import enum
from typing import Literal, NotRequired, TypedDict

import pydantic
import pytest

from dcmodel.constraints import JsonSchema
from dcmodel.errors import ConstraintRuntimeError, InvalidConstraintError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
    colour: Colour = Colour.RED
    next: Point | None = None


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Cat(pydantic.BaseModel):
    lives: int


@pydantic.dataclasses.dataclass
class Dog:
    name: str


def accepts(rule, text, tokenizer):
    matcher = rule.compile(tokenizer).matcher()
    token_ids = tokenizer.encode(text)
    return matcher.advance(token_ids) == len(token_ids) and matcher.is_accepting


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Point, '{"x": 1}', Point(1)),
        (
            Point,
            '{"x": 1, "y": 2.5, "colour": "blue", "next": {"x": 3}}',
            Point(1, 2.5, Colour.BLUE, Point(3)),
        ),
        (list[Point], '[{"x": 1}]', [Point(1)]),
        (Movie, '{"title": "Ré"}', {"title": "Ré"}),
        (Literal["a", "b"], '"b"', "b"),
        (Literal[1, None], "null", None),
        (Colour, '"red"', Colour.RED),
        (int, "5", 5),
        (str, '"x"', "x"),
        (bool, "true", True),
        (float, "1.5", 1.5),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '{"k": 1}', {"k": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (int | None, "null", None),
        (int | list[str], '["a"]', ["a"]),
        (Cat, '{"lives": 9}', Cat(lives=9)),
        (list[Cat], '[{"lives": 9}]', [Cat(lives=9)]),
        (Cat | None, "null", None),
        (Dog, '{"name": "Rex"}', Dog(name="Rex")),
    ],
)
@pytest.mark.parametrize("key_order", ["schema", "any"])
def test_a_type_makes_the_round_trip(small, kind, text, value, key_order):
    rule = JsonSchema(kind, key_order=key_order)
    assert accepts(rule, text, small)
    parsed = rule.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert JsonSchema(rule.schema, key_order=key_order) == rule


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Point, '{"y": 1.5}'),
        (Point, '{"x": 1.5}'),
        (Point, '{"x": 1, "z": 1}'),
        (Movie, '{"year": 1}'),
        (Colour, '"green"'),
        (Literal["a"], '"b"'),
        (list[int], '["a"]'),
        (tuple[int, str], "[1]"),
        (int | None, '"a"'),
    ],
)
def test_what_is_not_of_the_type_is_refused(small, kind, text):
    assert not accepts(JsonSchema(kind), text, small)
    if kind not in (Point,) or "z" not in text:
        with pytest.raises(ConstraintRuntimeError):
            JsonSchema(kind).parse(text)


def test_a_type_without_a_schema_is_an_error():
    class Odd:
        pass

    with pytest.raises(InvalidConstraintError, match="Odd"):
        JsonSchema(Odd)
    with pytest.raises(InvalidConstraintError, match="complex"):
        JsonSchema(list[complex])
