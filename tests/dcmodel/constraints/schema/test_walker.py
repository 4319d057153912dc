from __future__ import annotations

import json
import random

import pytest

from dcmodel.constraints.schema.canonical import canonicalize, make_validator
from dcmodel.constraints.schema.places import Places
from dcmodel.constraints.schema.walker import SchemaCheck


def check_of(schema, *, loose=True):
    root = canonicalize(schema, formats=True)
    nodes = set()

    class Everything(frozenset):
        def __contains__(self, node):
            return loose

    places = Places(root, Everything(nodes), formats=True)
    return SchemaCheck(make_validator(schema, formats=True), places)


def walk(check, text):
    walker = check.walker()
    data = text.encode()
    return walker.walk(data), walker.is_accepting


UNIQUE = {"type": "array", "uniqueItems": True}


@pytest.mark.parametrize(
    ("schema", "text", "taken"),
    [
        (UNIQUE, "[1, 2, 1]", 8),
        (UNIQUE, "[1, 1.0]", 7),
        (UNIQUE, '["a", "\\u0061"]', 13),
        (UNIQUE, '[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]', 36),
        ({"properties": {"a": UNIQUE}}, '{"a": [1, 1]}', 11),
        ({"items": UNIQUE}, "[[1], [2, 2]]", 11),
        ({}, '{"a": 1, "a": 2}', 11),
        ({}, '{"a": 1, "\\u0061": 2}', 16),
        ({"properties": {"a": {"format": "idn-email"}}}, '{"a": "x"}', 8),
        ({"properties": {"a": {"multipleOf": 0.01}}}, '{"a": 0.005}', 11),
        ({"contains": {"const": 1}}, "[2, 3]", 5),
        ({"type": "string", "pattern": "^(?!a)"}, '"ab"', 3),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "5", 1),
        ({}, "1e999999999", 11),
    ],
)
def test_a_value_is_refused_when_it_is_complete_and_wrong(schema, text, taken):
    count, is_accepting = walk(check_of(schema), text)
    assert count == taken
    assert not is_accepting


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (UNIQUE, '[1, true, "1", [1], {"a": 1}, {"a": true}, null, 0, false]'),
        ({}, ' {"a": {"a": [{}, [], ""]}}'.strip()),
        ({}, '{ "a" :\t[ 1 , 2 ] }'),
        ({"multipleOf": 0.01}, "19.99"),
        ({"type": "integer"}, "1e400"),
        ({"maximum": 5}, "5.0000"),
        ({"format": "idn-email"}, '"실례@실례.테스트"'),
        ({"pattern": "^(?!a)"}, '"\\"b"'),
    ],
)
def test_what_is_valid_is_accepted(schema, text):
    assert walk(check_of(schema), text) == (len(text.encode()), True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "[1", '{"a"', '"a', "tru", "1.", "-", "01", "[1,]", "{,}", '{"a":}', "[1 2]", "1 ", "nul"),
        *("[1]]", "{1: 2}", '"\n"', '"\\x"', "NaN", "Infinity", "'a'", "[" * 300),
    ],
)
def test_what_is_no_json_is_never_accepted(text):
    count, is_accepting = walk(check_of({}), text)
    assert count < len(text) or not is_accepting


def test_forks_are_independent():
    walker = check_of(UNIQUE).walker()
    assert walker.walk(b"[1, ") == 4
    twin = walker.fork()
    assert twin.walk(b"2, 3]") == 5
    assert walker.walk(b"[]]") == 3
    assert twin.is_accepting
    assert walker.is_accepting
    assert twin.following() == 0


def test_a_refused_byte_changes_nothing():
    walker = check_of(UNIQUE).walker()
    assert walker.walk(b"[1, 1") == 5
    assert not walker.step(ord("]"))
    assert not walker.step(ord(","))
    assert walker.walk(b"2]") == 2
    assert walker.is_accepting


def random_json(rng, depth=3):
    kind = rng.randrange(7 if depth else 5)
    if kind < 5:
        return [rng.randrange(-5, 50), rng.random() * 10, rng.choice('ab"\\é😀\n'), None, True][kind]
    if kind == 5:
        return [random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice("abcd") + str(i): random_json(rng, depth - 1) for i in range(rng.randrange(4))}


def test_random_json_is_accepted_exactly_where_it_is_valid():
    schemas = [
        {"uniqueItems": True},
        {"not": {"required": ["a0"]}},
        {"additionalProperties": {"type": ["integer", "array"]}, "items": {"minimum": 3}},
        {"contains": {"type": "integer"}, "maxContains": 1},
        {"oneOf": [{"type": "object"}, {"maxItems": 1}, {"maximum": 3}]},
    ]
    rng = random.Random(3)
    verdicts = set()
    for schema in schemas:
        for loose in (True, False):
            check = check_of(schema, loose=loose)
            for _ in range(150):
                value = random_json(rng)
                text = json.dumps(value, ensure_ascii=False)
                count, is_accepting = walk(check, text)
                is_valid = check.validator.is_valid(value)
                verdicts.add(is_valid)
                assert (count == len(text.encode()) and is_accepting) == is_valid, (schema, text)
    assert verdicts == {True, False}
